//! Which replicas keep up, said to the cluster map as often as it takes: leadership and votes go only to those that do.

use std::sync::Arc;
use std::time::Duration;

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::Assignment;
use mesh_ring::replica::Limits;
use tokio::time::MissedTickBehavior;

use super::Shared;

/// How often what the map does not know yet is said again.
const EVERY: Duration = Duration::from_secs(1);

/// Reports until the node stops. A map that knows everything costs nothing.
pub(super) async fn report(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.tasks.stopping() => return,
            _ = ticks.tick() => {}
        }
        let commands = due(&shared);
        if commands.is_empty() {
            continue;
        }
        // It is said again where it was not heard.
        if let Err(error) = shared.propose(ControlCommand::Batch { commands }).await {
            tracing::debug!(%error, "the map was not told who keeps up");
        }
    }
}

fn due(shared: &Shared) -> Vec<ControlCommand> {
    let map = shared.map();
    let led = map
        .assignments()
        .filter(|(_, assignment)| assignment.leader == shared.me() && assignment.is_activated());
    led.flat_map(|(partition, assignment)| {
        let near = keeps_up(shared, partition, assignment);
        near.into_iter().map(move |node| ControlCommand::CaughtUp {
            partition,
            epoch: assignment.epoch,
            node,
        })
    })
    .collect()
}

/// Nodes of the assignment that the map does not know to keep up, and that do.
fn keeps_up(shared: &Shared, id: PartitionId, assignment: &Assignment) -> Vec<NodeId> {
    let everyone = assignment.replicas.iter().chain(&assignment.learners);
    let mut unknown = everyone
        .filter(|node| **node != shared.me() && !assignment.caught_up.contains(node))
        .peekable();
    if unknown.peek().is_none() {
        return Vec::new();
    }
    let Some(partition) = shared.partitions.get(id) else {
        return Vec::new();
    };
    let status = partition.status();
    if !partition.leads() || status.epoch != assignment.epoch {
        return Vec::new();
    }
    let last = partition.progress().last().0;
    let least = last.saturating_sub(Limits::default().window_entries as u64);
    let matched = partition.progress().matched();
    // A node that has nothing lacks little of a short journal: what counts is that it has acknowledged an entry of this
    // very epoch, and so everything that was committed before.
    let of_this_epoch = |index| {
        let at = shared.engine.position_at(id, index);
        matches!(at, Ok(Some(at)) if at.epoch == assignment.epoch)
    };
    let near = |node: &NodeId| {
        let mut matched = matched.iter();
        matched.any(|(of, index)| of == node && index.0 >= least && of_this_epoch(*index))
    };
    unknown.copied().filter(near).collect()
}
