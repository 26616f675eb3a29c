//! What the partitions of this node have to tell the cluster map: gathered, and proposed many in one command.
//!
//! A partition repeats what still matters, so that a report that is lost here is not lost for good.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::replica::Report;
use tokio::sync::Notify;

use super::Shared;

/// Most reports in one command.
const REPORTS_AT_ONCE: usize = 1_024;

/// Reports that wait to be proposed: of each kind the newest of each partition, so that they are bounded.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Mutex<BTreeMap<(PartitionId, Kind), Report>>,
    filled: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Activated,
    CaughtUp(NodeId),
    Resign,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, Kind), Report>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, partition: PartitionId, report: Report) {
        let kind = match &report {
            Report::Activated(_) => Kind::Activated,
            Report::CaughtUp { node, .. } => Kind::CaughtUp(*node),
            Report::Resign { .. } => Kind::Resign,
        };
        self.lock().insert((partition, kind), report);
        self.filled.notify_one();
    }

    fn take(&self) -> Vec<(PartitionId, Report)> {
        let mut waiting = self.lock();
        let mut taken = Vec::new();
        while taken.len() < REPORTS_AT_ONCE
            && let Some(((partition, _), report)) = waiting.pop_first()
        {
            taken.push((partition, report));
        }
        taken
    }
}

/// Proposes reports until the node stops.
pub(super) async fn propose(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.reports.filled.notified() => {}
            () = shared.tasks.stopping() => return,
        }
        loop {
            let taken = shared.reports.take();
            if taken.is_empty() {
                break;
            }
            let commands = taken
                .into_iter()
                .map(|(partition, report)| command(shared.me(), partition, report))
                .collect();
            let proposed = tokio::select! {
                proposed = shared.control.propose(ControlCommand::Batch { commands }) => proposed,
                () = shared.tasks.stopping() => return,
            };
            match proposed {
                Ok(outcome) => {
                    for (_, error) in outcome.refused {
                        // An older epoch's report comes too late, and another one has been or will be made.
                        tracing::debug!(%error, "the cluster map refused a report");
                    }
                }
                Err(error) => tracing::debug!(%error, "reports were not taken"),
            }
        }
    }
}

fn command(me: NodeId, partition: PartitionId, report: Report) -> ControlCommand {
    match report {
        Report::Activated(epoch) => ControlCommand::Activated {
            partition,
            epoch,
            leader: me,
        },
        Report::CaughtUp { epoch, node } => ControlCommand::CaughtUp {
            partition,
            epoch,
            node,
        },
        Report::Resign { epoch, to, .. } => ControlCommand::Resign {
            partition,
            epoch,
            to,
        },
    }
}
