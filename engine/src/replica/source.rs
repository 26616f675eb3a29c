//! What is stored of a partition, as the ledger asks for it.

use mesh_ring::ids::{Offset, PartitionId, ProducerId, TopicId, TopicKey};
use mesh_ring::ledger::{Source, Tail, Window};

use crate::codec::only_u64;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::{self, undecodable};
use crate::store::Store;

/// What is stored of a partition; made by [`crate::Engine::source`].
#[derive(Clone, Copy)]
pub struct PartitionSource<'a> {
    store: &'a Store,
    partition: PartitionId,
}

impl<'a> PartitionSource<'a> {
    pub(super) fn new(store: &'a Store, partition: PartitionId) -> PartitionSource<'a> {
        PartitionSource { store, partition }
    }

    fn key(&self, id: TopicId) -> TopicKey {
        TopicKey {
            partition: self.partition,
            id,
        }
    }
}

impl Source for PartitionSource<'_> {
    type Error = ReadError;

    fn tail(&self, topic: TopicId) -> Result<Option<Tail>, ReadError> {
        read::load_tail(self.store, self.key(topic))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicId>, ReadError> {
        let key = keys::name_key(self.partition, name);
        let Some(id) = self.store.get(family::TOPICS, &key)? else {
            return Ok(None);
        };
        let id = only_u64(&id).map_err(|error| undecodable("topic name", &error))?;
        Ok(Some(TopicId(id)))
    }

    fn name(&self, topic: TopicId) -> Result<Option<String>, ReadError> {
        let meta = read::topic_meta(self.store, self.key(topic))?;
        Ok(meta.map(|meta| meta.name.as_str().to_owned()))
    }

    fn window(&self, topic: TopicId, producer: ProducerId) -> Result<Option<Window>, ReadError> {
        let key = keys::producer_key(self.key(topic), producer);
        let value = self.store.get(family::PRODUCERS, &key)?;
        value
            .map(|value| {
                Window::decode(&value).map_err(|error| undecodable("producer window", &error))
            })
            .transpose()
    }

    fn position_of(&self, topic: TopicId, offset: Offset) -> Result<Option<u64>, ReadError> {
        let header = read::batch_at(self.store, self.key(topic), offset)?;
        Ok(header
            .filter(|header| header.leader.base_offset <= offset)
            .map(|header| header.leader.base_position))
    }
}
