//! What must be true, whatever happens: the checks of a run.

use std::collections::{BTreeMap, BTreeSet};

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, NodeId, Offset, PartitionId, TopicId};
use mesh_ring::replica::{Entry, Position};

use crate::model::State;
use crate::shared::short;
use crate::store::{Cmd, command_of};

/// One partition's truth: what was ever committed, and what follows from it.
#[derive(Default)]
pub(crate) struct Truth {
    pub(crate) committed: Vec<(Epoch, Command, Option<u64>)>,
    pub(crate) state: State,
    /// Which node led in an epoch.
    leaders: BTreeMap<Epoch, NodeId>,
}

/// A batch that was acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Acked {
    pub(crate) partition: PartitionId,
    pub(crate) topic: TopicId,
    pub(crate) first: Offset,
    pub(crate) last: Offset,
}

#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) truths: BTreeMap<PartitionId, Truth>,
    /// Where each batch was seen.
    seen: BTreeMap<u64, Acked>,
    /// What was seen at the first offset of a batch.
    values: BTreeMap<(PartitionId, TopicId, Offset), u64>,
    pub(crate) acked: BTreeMap<u64, Acked>,
    /// Batches of which a client was told that they are not appended.
    refused: BTreeSet<u64>,
    pub(crate) created: BTreeMap<(PartitionId, TopicId), String>,
    /// Topics that someone asked to delete, and those of which it was confirmed.
    pub(crate) delete_asked: BTreeSet<(PartitionId, TopicId)>,
    pub(crate) deleted: BTreeSet<(PartitionId, TopicId)>,
    /// How far someone asked to trim.
    pub(crate) trim_asked: BTreeMap<(PartitionId, TopicId), Offset>,
    pub(crate) trimmed: BTreeMap<(PartitionId, TopicId), Offset>,
    /// Where each cursor was asked to be, and the cursors of which one position was confirmed.
    pub(crate) cursor_asked: BTreeMap<(PartitionId, TopicId, String), BTreeSet<Offset>>,
    pub(crate) cursors: BTreeSet<(PartitionId, TopicId, String)>,
}

impl Oracle {
    /// A node holds these to be committed.
    pub(crate) fn committed<'a>(
        &mut self,
        partition: PartitionId,
        node: NodeId,
        entries: impl Iterator<Item = &'a Entry<Cmd>>,
    ) {
        for entry in entries {
            let truth = self.truths.entry(partition).or_default();
            let at = entry.index.0 as usize - 1;
            let command = command_of(&entry.payload);
            let value = match &entry.payload {
                mesh_ring::replica::Payload::Barrier => None,
                mesh_ring::replica::Payload::Command(cmd) => cmd.value,
            };
            match truth.committed.get_mut(at) {
                Some((epoch, known, known_value)) => {
                    assert!(
                        *epoch == entry.epoch && known == command,
                        "n{} has {:?} committed in partition {partition}, and {:?} was: {epoch} {known:?}",
                        short(node),
                        entry,
                        entry.index
                    );
                    if let (Some(value), Some(known)) = (value, *known_value) {
                        assert_eq!(value, known, "two payloads at {}", entry.index);
                    }
                    *known_value = known_value.or(value);
                }
                None => {
                    assert_eq!(at, truth.committed.len(), "committed with a gap");
                    truth.state.apply(entry.index, command);
                    truth.committed.push((entry.epoch, command.clone(), value));
                }
            }
            if let (
                Command::Append {
                    topic, first, last, ..
                },
                Some(value),
            ) = (command, value)
            {
                let at = Acked {
                    partition,
                    topic: *topic,
                    first: *first,
                    last: *last,
                };
                self.saw(value, at);
            }
        }
    }

    pub(crate) fn position(&self, partition: PartitionId, index: Index) -> Option<Position> {
        let truth = self.truths.get(&partition)?;
        let (epoch, ..) = truth.committed.get(index.0 as usize - 1)?;
        Some(Position {
            epoch: *epoch,
            index,
        })
    }

    /// A node serves as leader.
    pub(crate) fn leads(&mut self, partition: PartitionId, epoch: Epoch, node: NodeId) {
        let truth = self.truths.entry(partition).or_default();
        let leader = *truth.leaders.entry(epoch).or_insert(node);
        assert_eq!(
            leader, node,
            "two leaders in epoch {epoch} of partition {partition}"
        );
    }

    /// A batch was seen somewhere: it is there and nowhere else, and nothing else is there.
    pub(crate) fn saw(&mut self, value: u64, at: Acked) {
        assert!(
            !self.refused.contains(&value),
            "batch {value} was refused, and is at {at:?}"
        );
        let known = *self.seen.entry(value).or_insert(at);
        assert_eq!(known, at, "batch {value} is at two places");
        let place = (at.partition, at.topic, at.first);
        let there = *self.values.entry(place).or_insert(value);
        assert_eq!(there, value, "two batches at {at:?}");
    }

    pub(crate) fn acknowledged(&mut self, value: u64, at: Acked) {
        self.saw(value, at);
        self.acked.insert(value, at);
    }

    pub(crate) fn refused(&mut self, value: u64) {
        assert!(
            !self.seen.contains_key(&value),
            "batch {value} was refused, and was seen"
        );
        self.refused.insert(value);
    }

    pub(crate) fn was_refused(&self, value: u64) -> bool {
        self.refused.contains(&value)
    }

    /// A reader asked for everything from `from` on and saw these batches, or that all before `first` is trimmed.
    pub(crate) fn read(
        &mut self,
        place: (PartitionId, TopicId),
        from: Offset,
        first: Offset,
        batches: &[(u64, Offset, Offset)],
    ) {
        let (partition, topic) = place;
        let asked = self.trim_asked.get(&place).copied().unwrap_or(0);
        // A replica that lags gets no payloads of a topic that was deleted meanwhile.
        assert!(
            first <= asked || self.delete_asked.contains(&place),
            "{place:?} begins at {first}, and was trimmed to {asked}"
        );
        let mut next = from;
        for (value, first, last) in batches {
            assert!(
                *first <= next && next <= *last,
                "a gap at {next} of {place:?}"
            );
            let at = Acked {
                partition,
                topic,
                first: *first,
                last: *last,
            };
            self.saw(*value, at);
            next = last + 1;
        }
    }

    /// After everything: what was promised is in the truth.
    pub(crate) fn check_promises(&self) {
        for (value, at) in &self.acked {
            let truth = &self.truths[&at.partition];
            let found = truth.committed.iter().filter(|(_, command, known)| {
                *known == Some(*value)
                    && matches!(command, Command::Append { topic, first, last, .. }
                        if (*topic, *first, *last) == (at.topic, at.first, at.last))
            });
            assert_eq!(found.count(), 1, "batch {value} was acknowledged at {at:?}");
        }
        for ((partition, topic), name) in &self.created {
            let state = &self.truths[partition].state;
            let asked = self.delete_asked.contains(&(*partition, *topic));
            let name_now = state.topics.get(topic).map(|of| &of.name);
            assert!(
                name_now == Some(name) || name_now.is_none() && asked,
                "topic {name} is gone"
            );
        }
        for (partition, topic) in &self.deleted {
            let state = &self.truths[partition].state;
            assert!(!state.topics.contains_key(topic), "a deleted topic is back");
        }
        for ((partition, topic), first) in &self.trimmed {
            if let Some(of) = self.truths[partition].state.topics.get(topic) {
                assert!(of.tail.first >= *first, "a trim was undone");
                assert!(of.tail.first <= self.trim_asked[&(*partition, *topic)]);
            }
        }
        for place @ (partition, topic, name) in &self.cursors {
            if let Some(of) = self.truths[partition].state.topics.get(topic) {
                let now = of.cursors.get(name);
                let asked = &self.cursor_asked[place];
                assert!(
                    now.is_some_and(|now| asked.contains(now)),
                    "cursor {name}: {now:?}"
                );
            }
        }
    }
}
