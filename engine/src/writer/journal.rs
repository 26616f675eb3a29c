//! Staging what replicas make durable: entries with their batches, removals, commits and checkpoints.

use mesh_ring::command::Command;
use mesh_ring::ids::{Index, Offset, PartitionId, TopicId, TopicKey};

use super::group::{Completion, Group, Reply};
use crate::error::{ReadError, Stopped};
use crate::keys::{self, family};
use crate::replica::{CheckpointOp, CommitOp, JournalEntry, PersistOp, Removal, encode_checkpoint};

impl Group<'_> {
    pub(super) fn persist(&mut self, mut op: Box<PersistOp>) -> Result<(), ReadError> {
        let partition = op.partition;
        if let Some(removal) = &op.removal {
            self.remove_entries(&op, removal);
        }
        for (epoch, index) in &op.begun {
            let key = keys::epoch_key(partition, *epoch);
            self.put(family::REPLICAS, key, index.0.to_be_bytes());
        }
        if let Some(record) = op.record {
            self.put_record(partition, record);
        }
        for entry in std::mem::take(&mut op.entries) {
            self.put_entry(partition, entry);
        }
        if let Some((topic, next)) = op.committed {
            self.committed(topic, next);
        }
        let changes = std::mem::take(&mut op.changes);
        self.replies.push(op);
        for (index, command) in &changes {
            self.apply(partition, *index, command)?;
        }
        Ok(())
    }

    fn put_entry(&mut self, partition: PartitionId, entry: JournalEntry) {
        let key = keys::journal_key(partition, entry.index);
        self.put_journal(key, entry.epoch, &entry.command);
        if let (Command::Append { topic, last, .. }, Some(batch)) = (entry.command, entry.batch) {
            let topic = TopicKey {
                partition,
                id: topic,
            };
            self.put_log(keys::log_key(topic, last), batch);
        }
    }

    /// Entries go with their batches, in one write, so that no restart meets one without the other.
    fn remove_entries(&mut self, op: &PersistOp, removal: &Removal) {
        // Some of them may be in this very group.
        self.settle_log();
        for key in &removal.log {
            self.delete(family::LOG, key);
        }
        let from = keys::journal_key(op.partition, removal.from);
        let to = keys::journal_key(op.partition, removal.last.next());
        self.delete_range(family::JOURNAL, &from, &to);
        for epoch in &removal.epochs {
            self.delete(family::REPLICAS, keys::epoch_key(op.partition, *epoch));
        }
    }

    pub(super) fn commit(&mut self, mut op: Box<CommitOp>) -> Result<(), ReadError> {
        let partition = op.partition;
        if let Some(record) = op.record {
            self.put_record(partition, record);
        }
        let changes = std::mem::take(&mut op.changes);
        self.replies.push(op);
        for (index, command) in &changes {
            self.apply(partition, *index, command)?;
        }
        Ok(())
    }

    pub(super) fn checkpoint(&mut self, op: CheckpointOp) {
        let partition = op.partition;
        let topic = |id: TopicId| TopicKey { partition, id };
        for id in &op.checkpoint.deleted {
            let from = keys::topic_prefix(topic(*id));
            let to = keys::topic_prefix(topic(TopicId(id.0 + 1)));
            self.delete_range(family::PRODUCERS, &from, &to);
        }
        for saved in &op.checkpoint.windows {
            let key = keys::producer_key(topic(saved.topic), saved.producer);
            match &saved.window {
                Some(window) => self.put(family::PRODUCERS, key, window.encode()),
                None => self.delete(family::PRODUCERS, key),
            }
        }
        let checkpointed = mesh_ring::ledger::Checkpointed {
            upto: op.checkpoint.upto,
            forgotten_before_ms: op.checkpoint.forgotten_before_ms,
        };
        self.put(
            family::TOPICS,
            keys::checkpoint_key(partition),
            encode_checkpoint(checkpointed),
        );
        if let Some(first) = op.first {
            // From the beginning: what a huge group put after an earlier deletion goes with this one.
            let from = keys::journal_key(partition, Index(0));
            self.settle_log();
            self.delete_range(family::JOURNAL, &from, &keys::journal_key(partition, first));
        }
        for epoch in &op.epochs {
            self.delete(family::REPLICAS, keys::epoch_key(partition, *epoch));
        }
        self.put_record(partition, op.record);
        self.complete(op.completion, op.done, op.kept_from);
    }
}

// What was carried out waits as it is for the group to be durable: it has whom to tell.

impl Reply for PersistOp {
    fn complete(&mut self, committed: &mut Vec<(TopicKey, Offset)>) {
        self.completion.complete(committed);
    }

    fn send(self: Box<Self>, stopped: Option<&Stopped>) {
        (self.done)(stopped.map_or(Ok(()), |stopped| Err(stopped.clone())));
    }
}

impl Reply for CommitOp {
    fn complete(&mut self, committed: &mut Vec<(TopicKey, Offset)>) {
        self.completion.complete(committed);
    }

    fn send(self: Box<Self>, stopped: Option<&Stopped>) {
        (self.done)(stopped.map_or(Ok(()), |stopped| Err(stopped.clone())));
    }
}
