//! A store as the ledger sees one: catalogue and log as of some index, windows as of the last checkpoint.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;

use mesh_ring::command::Command;
use mesh_ring::ids::{Index, Offset, ProducerId, TopicId};
use mesh_ring::ledger::{Checkpoint, Checkpointed, Source, Tail, Window};

use crate::model::State;

#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// Catalogue and log, as of `applied`.
    pub(crate) state: State,
    pub(crate) applied: Index,
    pub(crate) windows: BTreeMap<(TopicId, ProducerId), Window>,
    pub(crate) checkpointed: Checkpointed,
    /// How often it was asked where a topic ends.
    pub(crate) tails_read: Cell<usize>,
}

impl Store {
    /// Applies the commands up to `upto`.
    pub(crate) fn apply(&mut self, commands: &[Command], upto: Index) {
        while self.applied < upto {
            self.applied = self.applied.next();
            let command = &commands[self.applied.0 as usize - 1];
            self.state.apply(self.applied, command);
        }
    }

    pub(crate) fn save(&mut self, checkpoint: Checkpoint) {
        for topic in checkpoint.deleted {
            self.windows.retain(|(of, _), _| *of != topic);
        }
        for saved in checkpoint.windows {
            let key = (saved.topic, saved.producer);
            match saved.window {
                Some(window) => self.windows.insert(key, window),
                None => self.windows.remove(&key),
            };
        }
        self.checkpointed = Checkpointed {
            upto: checkpoint.upto,
            forgotten_before_ms: checkpoint.forgotten_before_ms,
        };
    }
}

impl Source for Store {
    type Error = Infallible;

    fn tail(&self, topic: TopicId) -> Result<Option<Tail>, Infallible> {
        self.tails_read.update(|read| read + 1);
        Ok(self.state.topics.get(&topic).map(|of| of.tail))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicId>, Infallible> {
        Ok(self.state.named(name))
    }

    fn name(&self, topic: TopicId) -> Result<Option<String>, Infallible> {
        Ok(self.state.topics.get(&topic).map(|of| of.name.clone()))
    }

    fn window(&self, topic: TopicId, producer: ProducerId) -> Result<Option<Window>, Infallible> {
        Ok(self.windows.get(&(topic, producer)).cloned())
    }

    fn position_of(&self, topic: TopicId, offset: Offset) -> Result<Option<u64>, Infallible> {
        let topic = self.state.topics.get(&topic);
        Ok(topic.and_then(|of| of.position_of(offset)))
    }
}
