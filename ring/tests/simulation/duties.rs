//! What an actor does for others: reports to the control plane, transfers, reads for replicas that lag.

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use mesh_ring::map::Assignment;
use mesh_ring::replica::{Input, Report, Role};

use crate::actor::{Actor, Hands, limits};
use crate::shared::{Event, Wanted};

/// A transfer that has not ended after this time is taken for lost, in microseconds.
const TRANSFER_US: u64 = 2_000_000;

impl Actor {
    pub(crate) fn report(&self, report: &Report, hands: &mut Hands<'_>) {
        if matches!(report, Report::Resign { .. }) {
            hands.shared.count("resignations");
        }
        let partition = self.partition;
        let command = match *report {
            Report::Activated(epoch) => ControlCommand::Activated {
                partition,
                epoch,
                leader: self.me,
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
        };
        hands.shared.propose(self.me, &command);
    }

    /// Reports who keeps up, as long as the map does not know.
    pub(crate) fn report_who_keeps_up(&mut self, of: &Assignment, hands: &mut Hands<'_>) {
        if self.replica.role() != Role::Leading(of.epoch) {
            return;
        }
        for (node, lag) in self.replica.lag() {
            let follows = of.learners.contains(&node) || of.replicas.contains(&node);
            if follows && !of.caught_up.contains(&node) && lag <= limits().window_entries as u64 {
                let command = ControlCommand::CaughtUp {
                    partition: self.partition,
                    epoch: of.epoch,
                    node,
                };
                hands.shared.propose(self.me, &command);
            }
        }
    }

    /// Sends the committed state to a node that is too far behind.
    pub(crate) fn transfer(&mut self, node: NodeId, hands: &mut Hands<'_>) {
        if self.transfers.contains_key(&node) {
            return;
        }
        hands.shared.count("transfers");
        self.transfers
            .insert(node, hands.shared.now_us + TRANSFER_US);
        let export = self.store(hands).export();
        let (from, partition) = (self.me, self.partition);
        hands.shared.send(from, node, || Event::Transfer {
            to: node,
            from,
            partition,
            export: Box::new(export.clone()),
        });
    }

    pub(crate) fn transfer_ended(&mut self, node: NodeId, hands: &mut Hands<'_>) {
        if self.transfers.remove(&node).is_some() {
            self.input(Input::Connected(node), hands);
        }
    }

    pub(crate) fn tick(&mut self, hands: &mut Hands<'_>) {
        let now_us = hands.shared.now_us;
        let lost: Vec<NodeId> = self
            .transfers
            .iter()
            .filter(|(_, until_us)| **until_us < now_us)
            .map(|(node, _)| *node)
            .collect();
        for node in lost {
            self.transfer_ended(node, hands);
        }
        if self.replica.wants_tick() {
            self.input(Input::Tick, hands);
        }
    }

    /// What was read for another replica.
    pub(crate) fn read(&mut self, wanted: &Wanted, hands: &mut Hands<'_>) {
        let store = self.store(hands);
        let mut entries = Vec::new();
        let mut index = wanted.from;
        let mut bytes = 0;
        while let Some(entry) = store.read(index) {
            bytes += 80;
            if bytes > wanted.bytes && !entries.is_empty() {
                break;
            }
            entries.push(entry);
            index = index.next();
        }
        let (to, epoch) = (wanted.to, wanted.epoch);
        let failed = entries.is_empty() || hands.shared.chance.one_in(30);
        self.input(
            if failed {
                Input::ReadFailed { to, epoch }
            } else {
                Input::Read { to, epoch, entries }
            },
            hands,
        );
    }
}
