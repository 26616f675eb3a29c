//! Temporary: doors that the engine is about to get.
use std::collections::BTreeMap;
use mesh_engine::{BindingError, Engine, ReadError};
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use mesh_ring::replica::Position;

pub(super) trait Soon {
    fn partition_sizes(&self) -> BTreeMap<PartitionId, u64> { BTreeMap::new() }
    fn seen_of(&self, _: NodeId) -> Result<Vec<(PartitionId, Position)>, ReadError> { Ok(vec![]) }
    fn holds(&self, id: PartitionId) -> Result<bool, ReadError>;
    fn submit_merge(&self, _: BindingKey, _: Binding, done: impl FnOnce(Result<(), BindingError>) + Send + 'static) { done(Ok(())) }
}
impl Soon for Engine {
    fn holds(&self, id: PartitionId) -> Result<bool, ReadError> {
        let durable = self.replica(id)?;
        Ok(durable.last != Position::ZERO || durable.promised.0 > 0)
    }
}
