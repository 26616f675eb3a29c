//! Hinted handoff: what this node keeps for others is delivered when they are back, in order, and forgotten when a home has it.
//!
//! A hint goes out as new as whatever else is held here: tombstones that are younger than it are not forgotten while it is
//! there.
//!
//! A hint whose target is no home of the key any more, or was removed, goes to a home that lives; so does every hint of a node
//! that leaves. Anti-entropy brings it to the other homes from there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mesh_engine::Hint;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::tombstone::Stamp;
use tokio::time::Instant;

use super::exchange::{merge_own, of_ask};
use crate::node::control::Life;
use crate::node::coordinator::forwarded;
use crate::node::tombstones::Stale;
use crate::node::{Shared, reply};
use crate::tasks::blocking;
use crate::wire::proto::{BindingEntry, Error, StoreBindings, request::Kind};

/// How often hints are looked for that nothing else says can be delivered.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How long a target that did not take its hints is left alone; doubled each time.
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// Bytes of hints that are read and sent at once. What comes next waits until these are acknowledged, and what clients write
/// to the target waits behind them: some 200 small bindings, which take a writer a millisecond or two.
const BATCH_BYTES: usize = 32 << 10;

/// Of its time, handing over takes this part at most: what clients write goes on between two batches, and a busy target gets
/// its hints more slowly.
const BUSY_PART: u32 = 4;

/// The longest rest between two batches.
const REST_MAX: Duration = Duration::from_millis(100);

/// How often a target may refuse what this node has read in the meantime, before it is left alone for a while.
const REFUSALS_MAX: usize = 5;

/// How long a node may take to make one batch durable.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Delivers hints until the node stops.
pub(in crate::node) async fn deliver(shared: Arc<Shared>) {
    let mut lives = shared.lives.clone();
    let mut map = shared.control.map();
    let mut pauses: BTreeMap<NodeId, Pause> = BTreeMap::new();
    loop {
        lives.mark_unchanged();
        map.mark_unchanged();
        note_absences(&shared);
        let targets: Vec<NodeId> = shared.engine.hint_stats().into_keys().collect();
        for target in targets {
            if pauses.get(&target).is_some_and(Pause::holds) {
                continue;
            }
            match hand_over(&shared, target).await {
                Ok(()) => _ = pauses.remove(&target),
                Err(cause) => {
                    tracing::debug!(%target, cause, "hints were not delivered");
                    pauses.entry(target).or_default().grow();
                }
            }
            if shared.tasks.is_stopping() {
                return;
            }
        }
        let again = pauses.values().map(|pause| pause.until).min();
        let again = again.unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
        tokio::select! {
            changed = lives.changed() => if changed.is_err() { return } else {
                // Whoever has just come back is not to wait for a pause from before.
                pauses.clear();
            },
            changed = map.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(again) => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

/// How long a target is left alone.
#[derive(Debug)]
struct Pause {
    length: Duration,
    until: Instant,
}

impl Default for Pause {
    fn default() -> Self {
        Pause {
            length: BACK_OFF_MIN / 2,
            until: Instant::now(),
        }
    }
}

impl Pause {
    fn holds(&self) -> bool {
        Instant::now() < self.until
    }

    fn grow(&mut self) {
        self.length = (self.length * 2).min(BACK_OFF_MAX);
        self.until = Instant::now() + self.length;
    }
}

fn note_absences(shared: &Shared) {
    let lives = shared.lives.borrow();
    let dead = lives.iter().filter(|(_, life)| **life == Life::Dead);
    shared.bindings.away.note(dead.map(|(node, _)| *node));
}

/// Where hints of a partition that are kept for `target` go now: to the target while it is a home and lives, or is waited for;
/// to another home where it is none any more, or where this node leaves. `None`: nowhere yet.
fn destination(
    map: &ClusterMap,
    me: NodeId,
    target: NodeId,
    partition: PartitionId,
    is_alive: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    let homes = &map.assignment(partition)?.replicas;
    let is_home = homes.contains(&target);
    if is_home && is_alive(target) {
        return Some(target);
    }
    let leaves = map.node(me).is_some_and(|member| !member.is_staying());
    if is_home && !leaves {
        return None;
    }
    homes
        .iter()
        .copied()
        .find(|node| *node == me || is_alive(*node))
}

/// Delivers all that is kept for `target`, batch after batch, each of one partition.
async fn hand_over(shared: &Arc<Shared>, target: NodeId) -> Result<(), String> {
    let mut after = None;
    let mut refusals = 0;
    loop {
        // Before they are read. Those of any partition may come next.
        let stamps = shared.stamps();
        let began = Instant::now();
        let (engine, before) = (Arc::clone(&shared.engine), after);
        let read = blocking(move || engine.hints(target, before, BATCH_BYTES)).await;
        let hints = match read.ok_or("the node is ending")? {
            Ok(hints) => hints,
            Err(error) => {
                let Some(skipped) = next_to_skip(after) else {
                    return Ok(());
                };
                tracing::error!(%target, %error, "a hint cannot be read; those of other partitions go on");
                after = Some((skipped, u64::MAX));
                continue;
            }
        };
        let Some(first) = hints.first().map(|hint| hint.partition) else {
            return Ok(());
        };
        let batch: Vec<Hint> = hints
            .into_iter()
            .take_while(|hint| hint.partition == first)
            .collect();
        after = batch.last().map(|hint| (hint.partition, hint.sequence));
        let map = shared.map();
        let alive = |node: NodeId| shared.is_alive(node);
        let Some(to) = destination(&map, shared.me(), target, first, alive) else {
            // The other partitions of a node that is away may have to go elsewhere.
            after = Some((first, u64::MAX));
            continue;
        };
        let bytes: usize = batch.iter().map(|hint| hint.binding.len()).sum();
        shared.transfers.spend(bytes).await;
        let Some(stamp) = stamps.get(usize::from(first.0)).copied() else {
            return Err(format!("there is no partition {first}"));
        };
        if let Err(error) = give(shared, to, first, &batch, stamp).await {
            match Stale::of(&error) {
                // What is read now is newer.
                Some(Stale::Fenced(fence)) if refusals < REFUSALS_MAX => {
                    refusals += 1;
                    shared.catch_up(first, fence).await;
                    after = before;
                    continue;
                }
                _ => return Err(error.message),
            }
        }
        forget(shared, target, first, &batch).await?;
        tracing::debug!(%target, %to, partition = %first, hints = batch.len(), "handed hints over");
        tokio::select! {
            () = tokio::time::sleep(((BUSY_PART - 1) * began.elapsed()).min(REST_MAX)) => {}
            () = shared.tasks.stopping() => return Ok(()),
        }
    }
}

/// The first partition that may hold a hint that cannot be read, behind what was read.
fn next_to_skip(after: Option<(PartitionId, u64)>) -> Option<PartitionId> {
    match after {
        None => Some(PartitionId(0)),
        Some((partition, u64::MAX)) => partition.0.checked_add(1).map(PartitionId),
        Some((partition, _)) => Some(partition),
    }
}

async fn give(
    shared: &Arc<Shared>,
    to: NodeId,
    partition: PartitionId,
    hints: &[Hint],
    stamp: Stamp,
) -> Result<(), Error> {
    if to == shared.me() {
        for hint in hints {
            let binding = Binding::decode(&hint.binding).map_err(reply::malformed)?;
            merge_own(shared, hint.key.clone(), binding).await?;
        }
        return Ok(());
    }
    let mut body = BytesMut::new();
    let mut entries = Vec::with_capacity(hints.len());
    for hint in hints {
        entries.push(BindingEntry {
            key: Bytes::copy_from_slice(hint.key.as_bytes()),
            length: u32::try_from(hint.binding.len()).unwrap_or(u32::MAX),
        });
        body.extend_from_slice(&hint.binding);
    }
    let kind = Kind::StoreBindings(StoreBindings {
        partition: partition.0.into(),
        entries,
        stamp: Some(stamp.into()),
    });
    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    let request = forwarded(kind);
    let asked = shared.peers.ask(to, &request, body.freeze(), deadline);
    asked.await.map(|_| ()).map_err(of_ask)
}

/// A home has them: they are needed no more.
async fn forget(
    shared: &Shared,
    target: NodeId,
    partition: PartitionId,
    hints: &[Hint],
) -> Result<(), String> {
    let (answer, removed) = tokio::sync::oneshot::channel();
    let sequences = hints.iter().map(|hint| hint.sequence).collect();
    shared
        .engine
        .submit_remove_hints(target, partition, sequences, move |result| {
            let _ = answer.send(result);
        });
    match removed.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the store is closing".into()),
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::control::{ControlCommand, apply};
    use mesh_ring::ids::ClusterId;
    use mesh_ring::map::{Boot, Member};

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn map() -> ClusterMap {
        let members: Vec<_> = (1..=5)
            .map(|n| Member::new(id(n), &format!("n{n}"), "h:1", ""))
            .collect();
        let mut map = ClusterMap::founding(ClusterId([9; 16]), &members, 1, 3).unwrap();
        for n in 1..=5 {
            let register = ControlCommand::Register {
                node: id(n),
                boot: Boot {
                    count: 1,
                    token: [n; 16],
                },
                previous: vec![],
                address: "h:1".into(),
                zone: String::new(),
            };
            apply(&mut map, &register).unwrap();
        }
        map
    }

    #[test]
    fn hints_wait_for_their_home_and_go_to_another_where_it_is_none_any_more() {
        let mut map = map();
        let p = PartitionId(0);
        let homes = map.assignment(p).unwrap().replicas.clone();
        let others: Vec<NodeId> = (1..=5).map(id).filter(|n| !homes.contains(n)).collect();
        let (me, gone) = (others[0], homes[0]);
        let to = |map: &ClusterMap, dead: &[NodeId]| {
            destination(map, me, gone, p, |node| !dead.contains(&node))
        };
        assert_eq!(to(&map, &[]), Some(gone));
        assert_eq!(to(&map, &[gone]), None, "it is waited for");

        apply(&mut map, &ControlCommand::Drain { node: me }).unwrap();
        assert_eq!(
            to(&map, &[gone]),
            Some(homes[1]),
            "who leaves keeps nothing"
        );
        assert_eq!(to(&map, &homes), None, "nobody to give it to");

        let another = destination(&map, me, others[1], p, |node| node != homes[0]);
        assert_eq!(another, Some(homes[1]), "its target is no home");
    }
}
