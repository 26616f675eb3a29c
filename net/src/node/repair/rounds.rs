//! When which copies are compared: by the clock, each partition with the next other copy in turn; and at once where
//! something gives cause, such as a node that was away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mesh_ring::ids::{NodeId, PartitionId};
use tokio::time::{Instant, sleep_until};

use super::agenda::Due;
use super::{blocks, others, walk};
use crate::node::Shared;
use crate::node::gossip::Life;

/// By how many places the order of partitions moves from round to round.
const ROTATED: usize = 97;

/// Most comparisons that this node carries on at a time.
const AT_ONCE: usize = 3;

/// How soon two nodes that see each other again compare their copies. One of them waits for the other, so that not both send
/// everything.
const REUNION: Duration = Duration::from_millis(200);
const REUNION_OF_THE_OTHER: Duration = Duration::from_millis(1_200);

/// Starts the comparisons of the node; they end when it stops.
pub(in crate::node) fn start(shared: &Arc<Shared>) {
    let Some(every) = shared.repairs.every else {
        return;
    };
    // What is wanted at once has its share, too.
    shared.repairs.blocks.begin_round();
    shared
        .tasks
        .spawn("repair rounds", plan(Arc::clone(shared), every));
    for _ in 0..AT_ONCE {
        shared.tasks.spawn("repair", work(Arc::clone(shared)));
    }
    shared
        .tasks
        .spawn("block repair", blocks::work(Arc::clone(shared)));
}

/// Finds what is to be compared.
async fn plan(shared: Arc<Shared>, every: Duration) {
    let (mut lives, mut maps) = (shared.lives.clone(), shared.control.map());
    let mut alive = BTreeSet::new();
    let mut mine = replicas(&shared);
    let mut next = Instant::now() + pause(every, dice());
    let mut round = 0;
    reunite(&shared, &mut alive);
    loop {
        tokio::select! {
            changed = lives.changed() => {
                if changed.is_err() {
                    return;
                }
                lives.mark_unchanged();
                reunite(&shared, &mut alive);
            }
            changed = maps.changed() => {
                if changed.is_err() {
                    return;
                }
                maps.mark_unchanged();
                let now = replicas(&shared);
                // A copy that counts from now on: what went past it while it was made is in the others.
                now.difference(&mine).for_each(|id| shared.repair_soon(*id));
                mine = now;
            }
            () = sleep_until(next) => {
                let began = next;
                next = Instant::now() + pause(every, dice());
                begin_round(&shared, round, began, every);
                round += 1;
            }
            () = shared.tasks.stopping() => return,
        }
    }
}

/// Wants everything compared that this node shares with one that is alive and was not.
fn reunite(shared: &Shared, alive: &mut BTreeSet<NodeId>) {
    let me = shared.me();
    let lives = shared.lives.borrow().clone();
    let living = lives.iter().filter(|(_, life)| **life == Life::Alive);
    let now: BTreeSet<NodeId> = living.map(|(node, _)| *node).collect();
    let map = shared.map();
    for node in now.difference(alive).filter(|node| **node != me) {
        let wait = if me < *node {
            REUNION
        } else {
            REUNION_OF_THE_OTHER
        };
        for (id, _) in map.assignments() {
            if others(&map, id, me).contains(node) {
                shared.repairs.want(id, [*node], wait);
            }
        }
    }
    *alive = now;
}

/// The partitions of which this node is a replica.
fn replicas(shared: &Shared) -> BTreeSet<PartitionId> {
    let map = shared.map();
    let mine = map
        .assignments()
        .filter(|(_, assignment)| assignment.replicas.contains(&shared.me()));
    mine.map(|(id, _)| id).collect()
}

fn begin_round(shared: &Shared, round: u64, now: Instant, every: Duration) {
    let (map, me) = (shared.map(), shared.me());
    shared.repairs.counters.note_round();
    shared.repairs.trees.tidy();
    shared.repairs.blocks.tidy(&map, me, &shared.engine);
    shared.repairs.blocks.begin_round();
    let mut due: Vec<(PartitionId, NodeId)> = map
        .assignments()
        .filter_map(|(id, _)| {
            let mut live = others(&map, id, me);
            live.retain(|node| shared.is_alive(*node));
            Some((id, partner(&live, round, id)?))
        })
        .collect();
    // Not always the same first: what a round has no bytes left for is early in another one.
    let first = usize::try_from(round)
        .unwrap_or_default()
        .wrapping_mul(ROTATED);
    let count = due.len().max(1);
    due.rotate_left(first % count);
    let mut agenda = shared.repairs.agenda();
    for (place, pair) in (0u32..).zip(&due) {
        let count = u32::try_from(due.len()).unwrap_or(u32::MAX);
        agenda.add(*pair, now + share(every, place, count), 1);
    }
    drop(agenda);
    shared.repairs.due.notify_waiters();
}

/// Compares what is due, one after the other.
async fn work(shared: Arc<Shared>) {
    loop {
        let due = tokio::select! {
            due = next(&shared) => due,
            () = shared.tasks.stopping() => return,
        };
        let done = tokio::select! {
            done = carry_out(&shared, due) => done,
            () = shared.tasks.stopping() => return,
        };
        if let Err(cause) = done {
            let (id, node) = due.pair;
            tracing::debug!(partition = %id, %node, cause, "copies were not compared");
            shared.repairs.agenda().failed(due, Instant::now());
            shared.repairs.due.notify_waiters();
        }
    }
}

async fn next(shared: &Shared) -> Due {
    loop {
        let rung = shared.repairs.due.notified();
        tokio::pin!(rung);
        // Before the look: what is wanted after it rings.
        rung.as_mut().enable();
        let taken = shared.repairs.agenda().take(Instant::now());
        match taken {
            Ok(due) => return due,
            Err(Some(at)) => tokio::select! {
                () = sleep_until(at) => {}
                () = rung => {}
            },
            Err(None) => rung.await,
        }
    }
}

async fn carry_out(shared: &Arc<Shared>, due: Due) -> Result<(), String> {
    let (id, node) = due.pair;
    if !others(&shared.map(), id, shared.me()).contains(&node) {
        // There is nothing to compare any more.
        return Ok(());
    }
    if shared.partitions.get(id).is_none() {
        return Err("this node's copy is not open".into());
    }
    if !shared.is_alive(node) {
        return Err("the other node is away".into());
    }
    let compared = walk::compare(shared, id, node).await;
    let compared = compared.map_err(|error| error.to_string())?;
    if compared.sent + compared.received > 0 {
        tracing::info!(partition = %id, %node, ?compared, "copies of bindings differed, and are healed");
    }
    let compared = blocks::round(shared, id, node).await;
    compared.map_err(|error| error.to_string())
}

/// With which of the other copies a partition is compared in a round: with each in turn, and in one round not always with the
/// same node.
fn partner(others: &[NodeId], round: u64, id: PartitionId) -> Option<NodeId> {
    let count = u64::try_from(others.len())
        .ok()
        .filter(|count| *count > 0)?;
    let at = (round + u64::from(id.0)) % count;
    others.get(usize::try_from(at).ok()?).copied()
}

/// The time from one round to the next: `every`, more or less by a quarter, so that nodes that started together part.
fn pause(every: Duration, dice: u32) -> Duration {
    every * 3 / 4 + every / 2 * (dice % 1024) / 1024
}

/// How long after a round's beginning the partition at a place of so many has its turn: within half of the time.
fn share(every: Duration, place: u32, count: u32) -> Duration {
    every / 2 * place / count.max(1)
}

fn dice() -> u32 {
    let mut bytes = [0; 4];
    // Without randomness rounds are less spread, and no worse.
    let _ = getrandom::fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_copy_has_its_turn() {
        let others: Vec<NodeId> = (1..=3).map(|n| NodeId([n; 16])).collect();
        for id in (0..5).map(PartitionId) {
            let met: BTreeSet<_> = (7..10).map(|round| partner(&others, round, id)).collect();
            assert_eq!(met.len(), 3);
        }
        let in_one_round: BTreeSet<_> = (0..3)
            .map(|p| partner(&others, 4, PartitionId(p)))
            .collect();
        assert_eq!(in_one_round.len(), 3);
        assert_eq!(partner(&[], 1, PartitionId(1)), None);
    }

    #[test]
    fn rounds_part_and_partitions_spread_within_them() {
        let every = Duration::from_secs(60);
        let pauses: BTreeSet<_> = (0..1024).map(|dice| pause(every, dice)).collect();
        assert!(pauses.len() > 1000);
        assert_eq!(pauses.first(), Some(&Duration::from_secs(45)));
        assert!(pauses.last() < Some(&Duration::from_secs(75)));
        assert_eq!(share(every, 0, 64), Duration::ZERO);
        assert!(share(every, 63, 64) < Duration::from_secs(30));
        assert!((1..64).all(|place| share(every, place, 64) > share(every, place - 1, 64)));
        assert_eq!(share(every, 0, 0), Duration::ZERO);
    }
}
