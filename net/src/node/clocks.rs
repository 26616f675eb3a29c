//! The clocks of the nodes, by which records grow old and bindings expire.
//!
//! What age retention ends is gone on every replica, so that no single clock decides it: a partition's leader goes by the
//! earliest of the clocks of a majority of the replicas. Where they differ by much, one of them is wrong and nobody can tell
//! which: nothing is ended by age, and the node says so.
//! What has a time to live is dated by one node's clock. The earliest clock is no help there, as a date that is too early ends a
//! value before its time: a node's own clock is put right only by a majority of the clocks that agree with each other, and where
//! there is none, nothing is ended by its time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;
use tokio::sync::mpsc;

use super::Shared;
use super::wall_clock::{LEFT_ALONE_MS, WallClock};
use crate::wire::proto::{GetInfo, Request, reply::Kind as Answer, request::Kind};

/// The most by which the clocks of a partition's replicas may differ, in milliseconds.
const SKEW_MS_MAX: u64 = 60_000;

/// By how many milliseconds clocks may differ that agree: what a node's own is left alone by, and as much again for the asking.
const AGREE_MS: u64 = 2 * LEFT_ALONE_MS;

/// How long another node may take to say what time it is.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How many other clocks are compared at least, where there are as many.
const FEW: usize = 2;

/// For how long an answer counts.
const COUNTS_FOR: Duration = Duration::from_secs(30);

/// What other nodes' clocks said.
#[derive(Debug)]
pub(super) struct Clocks {
    /// This node's own.
    wall: WallClock,
    readings: Mutex<BTreeMap<NodeId, Reading>>,
    /// What is wrong with them, in words for people.
    skew: Mutex<Option<String>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Unix milliseconds.
    said_ms: u64,
    heard: Instant,
}

/// Why ages cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unclear {
    /// Too few of the replicas have said what time it is.
    Unheard,
    /// The first of the two is too far behind the second.
    Skewed(NodeId, NodeId, u64),
}

impl Reading {
    /// What that clock says by now.
    fn now_ms(&self) -> u64 {
        let since = u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.said_ms.saturating_add(since)
    }
}

impl Clocks {
    pub(super) fn new(wall: WallClock) -> Clocks {
        Clocks {
            wall,
            readings: Mutex::default(),
            skew: Mutex::default(),
        }
    }

    /// What this node's machine says, in unix milliseconds.
    pub(super) fn machine_ms(&self) -> u64 {
        self.wall.machine_ms()
    }

    fn readings(&self) -> MutexGuard<'_, BTreeMap<NodeId, Reading>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What people should know.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        let skew = skew.clone();
        let correction_s = self.wall.correction_ms() / 1_000;
        let corrected = (correction_s != 0).then(|| {
            format!(
                "this node's clock is {} s {} those of a majority of the nodes around it, by which it goes: set it right",
                correction_s.abs(),
                if correction_s < 0 { "ahead of" } else { "behind" }
            )
        });
        skew.into_iter().chain(corrected)
    }

    fn warn(&self, warning: Option<String>) {
        let mut skew = self.skew.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(warning) = warning.as_ref().filter(|_| skew.is_none()) {
            tracing::warn!("{warning}");
        }
        *skew = warning;
    }
}

impl Shared {
    /// Asks the other replicas of what this node keeps for the time, all at once, and goes by what a majority of the clocks agrees
    /// on, its own among them. Returns whether there is such a majority: nothing may be ended by its time where there is none.
    pub(super) async fn compare_clocks(self: &Arc<Self>) -> bool {
        let map = self.map();
        let others = to_compare(&map, self.me());
        let (sender, mut answers) = mpsc::channel(others.len().max(1));
        for node in others.iter().copied() {
            let (asking, sender) = (Arc::clone(self), sender.clone());
            self.tasks.spawn("clock", async move {
                let said = tokio::select! {
                    said = ask(&asking, node) => said,
                    () = asking.tasks.stopping() => return,
                };
                // Whoever asked waits for all of them, or the node stops.
                let _ = sender.send((node, said)).await;
            });
        }
        drop(sender);
        while let Some((node, said)) = answers.recv().await {
            if let Some(said_ms) = said {
                let heard = Instant::now();
                self.clocks
                    .readings()
                    .insert(node, Reading { said_ms, heard });
            }
        }
        self.clocks
            .readings()
            .retain(|_, reading| reading.heard.elapsed() < COUNTS_FOR);
        self.correct_clock(&others)
    }

    /// Puts the clock right by which this node goes, if a majority of all clocks is known to agree, its own not among them.
    fn correct_clock(&self, others: &BTreeSet<NodeId>) -> bool {
        let machine_ms = self.clocks.machine_ms();
        let readings = self.clocks.readings();
        let said = |node: &NodeId| Some((*node, readings.get(node)?.now_ms()));
        let mut known: Vec<(NodeId, u64)> = others.iter().filter_map(said).collect();
        drop(readings);
        let others_ms: Vec<u64> = known.iter().map(|(_, ms)| *ms).collect();
        known.push((self.me(), machine_ms));
        known.sort_unstable_by_key(|(_, ms)| *ms);
        let ms: Vec<u64> = known.iter().map(|(_, ms)| *ms).collect();
        let corrected = match agreed(&ms, machine_ms, others.len() + 1) {
            Some(Agreed::WithOwn) => self.clocks.wall.correct(machine_ms, machine_ms),
            Some(Agreed::WithoutOwn(others_ms)) => self.clocks.wall.correct(machine_ms, others_ms),
            None => {
                self.clocks
                    .warn(self.disagreement(&known, others.len() + 1));
                self.clocks.wall.keep_if_confirmed(machine_ms, &others_ms);
                return false;
            }
        };
        self.clocks.warn(None);
        if let Some(correction_ms) = corrected {
            tracing::warn!(
                correction_ms,
                "this node goes by the clocks of the others, from which its own differs"
            );
        }
        true
    }

    /// What people should know where no majority of so many clocks is known to agree, of those that are known, ascending.
    fn disagreement(&self, known: &[(NodeId, u64)], clocks: usize) -> Option<String> {
        let ((behind, early), (ahead, late)) = known.first().zip(known.last())?;
        if late - early <= AGREE_MS {
            return None;
        }
        Some(format!(
            "the clocks of {} differ by {} s, and no majority of the {clocks} clocks around this node is known to agree: nothing is ended by its time until one does: set the wrong clock right, or start the nodes that are away",
            self.names_of(&[*behind, *ahead]).join(" and "),
            (late - early) / 1_000,
        ))
    }

    /// The time by which records of a partition with these replicas are old, no later than `now_ms`; 0, by which none is,
    /// where it cannot be told.
    pub(super) fn age_bound(&self, replicas: &[NodeId], now_ms: u64) -> u64 {
        let readings = self.clocks.readings();
        let clock = |node: &NodeId| {
            if *node == self.me() {
                return Some((*node, self.clocks.machine_ms()));
            }
            Some((*node, readings.get(node)?.now_ms()))
        };
        let known: Vec<(NodeId, u64)> = replicas.iter().filter_map(clock).collect();
        drop(readings);
        match earliest_of_majority(&known, replicas.len()) {
            Ok(bound) => bound.min(now_ms),
            Err(Unclear::Unheard) => 0,
            Err(Unclear::Skewed(behind, ahead, by_ms)) => {
                let names = self.names_of(&[behind, ahead]);
                self.clocks.warn(Some(format!(
                    "the clocks of {} differ by {} s, more than the {} s that may be: nothing is ended by its age until they agree",
                    names.join(" and "),
                    by_ms / 1_000,
                    SKEW_MS_MAX / 1_000
                )));
                0
            }
        }
    }
}

async fn ask(shared: &Shared, node: NodeId) -> Option<u64> {
    let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
    let request = Request::new(Kind::Info(GetInfo {}));
    let answers = shared
        .peers
        .ask(node, &request, Bytes::new(), deadline)
        .await;
    match answers.ok()?.pop() {
        // An older release does not say.
        Some((Answer::Info(info), _)) => Some(info.now_ms).filter(|now_ms| *now_ms > 0),
        _ => None,
    }
}

/// The latest time that a majority of `replicas` clocks have reached, of those that are known.
fn earliest_of_majority(known: &[(NodeId, u64)], replicas: usize) -> Result<u64, Unclear> {
    let mut known = known.to_vec();
    known.sort_unstable_by_key(|(_, ms)| *ms);
    if let (Some((behind, early)), Some((ahead, late))) = (known.first(), known.last())
        && late - early > SKEW_MS_MAX
    {
        return Err(Unclear::Skewed(*behind, *ahead, late - early));
    }
    let known: Vec<u64> = known.into_iter().map(|(_, ms)| ms).collect();
    reached_by_majority(&known, replicas).ok_or(Unclear::Unheard)
}

/// The latest time that a majority of so many clocks have reached, of those that are known, ascending.
fn reached_by_majority(known: &[u64], clocks: usize) -> Option<u64> {
    let at = known.len().checked_sub(clocks / 2 + 1)?;
    known.get(at).copied()
}

/// A majority of the clocks agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreed {
    /// The node's own among them.
    WithOwn,
    /// On this time, from which the node's own clock differs.
    WithoutOwn(u64),
}

/// Whether a majority of so many clocks agrees, of those that are known, ascending, `own_ms` among them.
fn agreed(known: &[u64], own_ms: u64, clocks: usize) -> Option<Agreed> {
    let majority = clocks / 2 + 1;
    let is_close = |of: &&[u64]| {
        let ends = of.first().zip(of.last());
        ends.is_some_and(|(early, late)| late - early <= AGREE_MS)
    };
    let mut first = None;
    for of in known.windows(majority).filter(is_close) {
        if of.contains(&own_ms) {
            return Some(Agreed::WithOwn);
        }
        // The median of those: none of them is far from it.
        first = first.or_else(|| of.get(majority / 2).copied());
    }
    first.map(Agreed::WithoutOwn)
}

/// Whose clocks a node compares with its own: those of the nodes with which it keeps partitions, and of one that keeps none,
/// a few.
fn to_compare(map: &ClusterMap, me: NodeId) -> BTreeSet<NodeId> {
    let kept = map.partitions().iter().filter(|of| of.needs_copy(me));
    let mut others: BTreeSet<NodeId> = kept.flat_map(|of| of.replicas.clone()).collect();
    others.remove(&me);
    if others.len() < FEW {
        let nodes = map.nodes().iter().filter(|node| node.is_live());
        others.extend(nodes.map(|node| node.id).filter(|id| *id != me).take(FEW));
    }
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_majority_that_agrees_puts_a_clock_right() {
        let hour = 3_600_000;
        let right = 10 * hour;
        let (behind, ahead) = (right - hour, right + hour);
        for (known, own, clocks, outcome) in [
            (&[right][..], right, 1, Some(Agreed::WithOwn)),
            (&[right, right + 9], right, 2, Some(Agreed::WithOwn)),
            (&[behind, right], right, 2, None),
            (&[behind, right], behind, 2, None),
            (&[behind, right], right, 3, None),
            (&[right], right, 3, None),
            (&[right, right + 9], right + 9, 3, Some(Agreed::WithOwn)),
            (&[behind, right, right + 9], right, 3, Some(Agreed::WithOwn)),
            (
                &[behind, right, right + 9],
                behind,
                3,
                Some(Agreed::WithoutOwn(right + 9)),
            ),
            (
                &[right, right + 9, ahead],
                ahead,
                3,
                Some(Agreed::WithoutOwn(right + 9)),
            ),
            (&[behind, right, ahead], right, 3, None),
            (&[behind, behind, right, right], right, 4, None),
            (&[behind, right, right], right, 4, None),
            (
                &[behind, behind, right, right, right],
                right,
                5,
                Some(Agreed::WithOwn),
            ),
            (&[right, right + AGREE_MS + 1], right, 2, None),
        ] {
            assert_eq!(
                agreed(known, own, clocks),
                outcome,
                "{known:?} of {clocks}, own {own}"
            );
        }
    }

    fn clocks(ms: &[u64]) -> Vec<(NodeId, u64)> {
        (1..)
            .map(|n| NodeId([n; 16]))
            .zip(ms.iter().copied())
            .collect()
    }

    #[test]
    fn a_majority_has_reached_the_bound() {
        for (known, replicas, bound) in [
            (&[5][..], 1, Ok(5)),
            (&[9, 5, 7], 3, Ok(7)),
            (&[9, 5], 3, Ok(5)),
            (&[9], 3, Err(Unclear::Unheard)),
            (&[], 1, Err(Unclear::Unheard)),
            (&[1, 2, 3, 4], 5, Ok(2)),
            (&[4, 3, 2, 1], 4, Ok(2)),
        ] {
            assert_eq!(
                earliest_of_majority(&clocks(known), replicas),
                bound,
                "{known:?}"
            );
        }
    }

    #[test]
    fn a_clock_that_is_far_off_stops_it_and_is_named() {
        let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
        let far = SKEW_MS_MAX + 1;
        let skewed = earliest_of_majority(&clocks(&[7, 7 + far, 8]), 3);
        assert_eq!(skewed, Err(Unclear::Skewed(one, two, far)));
        assert_eq!(earliest_of_majority(&clocks(&[7, 6 + far, 8]), 3), Ok(8));
    }
}
