//! Staging what replicas make durable: entries with their batches, removals, commits and checkpoints.

use mesh_ring::ids::{Index, TopicId, TopicKey};

use super::Done;
use super::group::Group;
use crate::error::{ReadError, Stopped};
use crate::keys::{self, family};
use crate::replica::{CheckpointOp, CommitOp, PersistOp, Removal, encode_checkpoint};

impl Group<'_> {
    pub(super) fn persist(
        &mut self,
        op: PersistOp,
        done: Done<(), Stopped>,
    ) -> Result<(), ReadError> {
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
        for put in op.puts {
            self.put_journal(put.journal, put.entry);
            if let Some((key, batch)) = put.batch {
                self.put_log(key, batch);
            }
        }
        if let Some((topic, next)) = op.committed {
            self.committed(topic, next);
        }
        self.complete(op.completion, done, ());
        for (index, command) in &op.changes {
            self.apply(partition, *index, command)?;
        }
        Ok(())
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

    pub(super) fn commit(&mut self, op: CommitOp) -> Result<(), ReadError> {
        if let Some(record) = op.record {
            self.put_record(op.partition, record);
        }
        self.complete(op.completion, op.done, ());
        for (index, command) in &op.changes {
            self.apply(op.partition, *index, command)?;
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
