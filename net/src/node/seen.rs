//! How far this node has seen others acknowledge their journals. It is written down about once a second, where it
//! changes: a node that comes back on an older copy of its disk is told, before it takes part.
//!
//! What counts: a follower of a partition that this node leads has acknowledged an entry; the leader of one that this node
//! follows has said that an entry of its own epoch is committed, which it says of nothing that is not on its own disk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{Engine, ReadError, RowChange};
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::replica::Position;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::Shared;
use super::partition::Partition;
use crate::tasks::blocking;

/// How often what is new is written down.
const EVERY: Duration = Duration::from_secs(1);

/// Rows of the engine's `control` family: 7 | node | partition u16 BE → version u8 | epoch u64 BE | index u64 BE.
const PREFIX: u8 = 7;
const VERSION: u8 = 1;

/// Nodes, each with a partition of which it has acknowledged the journal up to a position.
type Seen = BTreeMap<(NodeId, PartitionId), Position>;

/// Writes down what is new until the node stops.
pub(super) async fn remember(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = Seen::new();
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            _ = ticks.tick() => {}
        }
        let mut seen = now(&shared).await;
        seen.retain(|key, position| written.get(key) != Some(position));
        if seen.is_empty() {
            continue;
        }
        let rows = seen.iter().map(|(key, position)| RowChange::Put {
            key: row_key(*key),
            value: row_value(*position),
        });
        let (sender, done) = oneshot::channel();
        shared.engine.submit_rows(rows.collect(), move |result| {
            // Nobody waits where the node stops.
            let _ = sender.send(result);
        });
        match done.await {
            Ok(Ok(())) => written.append(&mut seen),
            _ => return,
        }
    }
}

/// What this node has seen of `node`, written down or not.
///
/// # Errors
/// The rows cannot be read.
pub(super) async fn of(
    shared: &Arc<Shared>,
    node: NodeId,
) -> Result<BTreeMap<PartitionId, Position>, ReadError> {
    let engine = Arc::clone(&shared.engine);
    let rows = blocking(move || stored(&engine, node)).await;
    let mut seen = rows.unwrap_or_else(|| Ok(BTreeMap::new()))?;
    let now = now(shared).await;
    let of_node = (node, PartitionId(0))..=(node, PartitionId(u16::MAX));
    for ((_, partition), position) in now.range(of_node) {
        let known = seen.entry(*partition).or_default();
        *known = position.max(known).to_owned();
    }
    Ok(seen)
}

/// What this node knows at the moment.
async fn now(shared: &Arc<Shared>) -> Seen {
    let running = shared.partitions.running();
    let (engine, me) = (Arc::clone(&shared.engine), shared.me());
    let looked = blocking(move || {
        let all = running
            .iter()
            .flat_map(|partition| look(&engine, me, partition));
        all.collect()
    });
    looked.await.unwrap_or_default()
}

fn look(engine: &Engine, me: NodeId, partition: &Partition) -> Seen {
    let (id, status, progress) = (partition.id, partition.status(), partition.progress());
    // A journal that cannot be read any more knows nothing of others.
    let at = |index: Index| engine.position_at(id, index).ok().flatten();
    if partition.leads() {
        let acknowledged = progress.matched().into_iter();
        let positions = acknowledged.filter_map(|(node, index)| Some(((node, id), at(index)?)));
        return positions.collect();
    }
    let committed = at(progress.committed()).filter(|last| last.epoch == status.epoch);
    let leader = status.leader.filter(|leader| *leader != me);
    let known = leader.zip(committed);
    known
        .map(|(leader, last)| ((leader, id), last))
        .into_iter()
        .collect()
}

fn stored(engine: &Engine, node: NodeId) -> Result<BTreeMap<PartitionId, Position>, ReadError> {
    let mut seen = BTreeMap::new();
    let partitions = engine.identity().partitions;
    for partition in (0..partitions).map(PartitionId) {
        if let Some(value) = engine.row(&row_key((node, partition)))?
            && let Some(position) = position(&value)
        {
            seen.insert(partition, position);
        }
    }
    Ok(seen)
}

fn row_key((node, PartitionId(partition)): (NodeId, PartitionId)) -> Vec<u8> {
    [&[PREFIX], &node.0[..], &partition.to_be_bytes()].concat()
}

fn row_value(position: Position) -> Vec<u8> {
    let (epoch, index) = (position.epoch.0, position.index.0);
    [&[VERSION], &epoch.to_be_bytes()[..], &index.to_be_bytes()].concat()
}

/// Of another release a row tells nothing here.
fn position(value: &Bytes) -> Option<Position> {
    let value: &[u8; 17] = value.as_ref().try_into().ok()?;
    let (version, numbers) = value.split_first()?;
    let (epoch, index) = numbers.split_at(8);
    (*version == VERSION).then_some(Position {
        epoch: Epoch(u64::from_be_bytes(epoch.try_into().ok()?)),
        index: Index(u64::from_be_bytes(index.try_into().ok()?)),
    })
}

/// The first partition whose journal ends, on this disk, before what `node` was seen to have acknowledged of it, with both
/// ends. Blocks.
///
/// Only where the map has the node vote: elsewhere it may have dropped its copy in order. Neither does a copy count that
/// does not vote anyway, because it is on its way, or suspect.
///
/// # Errors
/// A journal cannot be read.
pub(super) fn beyond_disk(
    engine: &Engine,
    map: &ClusterMap,
    seen: &BTreeMap<PartitionId, Position>,
) -> Result<Option<(PartitionId, Position, Position)>, ReadError> {
    let me = engine.identity().node;
    for (id, seen) in seen {
        let votes = map.assignment(*id).is_some_and(|assignment| {
            assignment.replicas.contains(&me) || assignment.activated.replicas.contains(&me)
        });
        if !votes {
            continue;
        }
        match engine.replica(*id) {
            Ok(durable) if !durable.suspect && durable.last < *seen => {
                return Ok(Some((*id, durable.last, *seen)));
            }
            Ok(_) | Err(ReadError::Incomplete) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_bytes() {
        let key = row_key((NodeId([9; 16]), PartitionId(258)));
        assert_eq!(key, [&[7][..], &[9; 16], &[1, 2]].concat());
        let at = Position {
            epoch: Epoch(3),
            index: Index(4),
        };
        let value = row_value(at);
        assert_eq!(value, [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(position(&value.into()), Some(at));
        assert_eq!(position(&Bytes::from_static(&[2; 17])), None);
        assert_eq!(position(&Bytes::from_static(b"short")), None);
    }
}
