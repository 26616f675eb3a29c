//! The bindings of a partition as this node holds them, for a comparison.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::{Engine, ReadError};
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::walk::{self, Source};
use mesh_ring::merkle::{LeafId, LeafSum, Tree};
use mesh_ring::name::BindingKey;

use crate::node::Shared;
use crate::wire::FRAME_BODY_BYTES_MAX;

/// Longest encoded binding that is sent: with what is in a message before it, it fits one frame.
pub(super) const STATE_BYTES_MAX: usize = FRAME_BODY_BYTES_MAX - walk::STATES_BYTES_MAX - 4_096;

/// This node's bindings of a partition.
pub(super) struct Held {
    engine: Arc<Engine>,
    id: PartitionId,
    /// Bytes of one that no message can carry.
    pub(super) too_long: Option<usize>,
}

impl Held {
    pub(super) fn new(shared: &Shared, id: PartitionId) -> Held {
        Held {
            engine: Arc::clone(&shared.engine),
            id,
            too_long: None,
        }
    }

    pub(super) fn tree(&self) -> Result<Tree, ReadError> {
        Ok(Tree::of(&*self.engine.leaf_sums(self.id)?))
    }
}

impl Source for Held {
    type Error = ReadError;

    fn list(
        &mut self,
        leaf: LeafId,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Bytes, LeafSum)>, ReadError> {
        let found = self.engine.leaf_bindings(self.id, leaf, after, most)?;
        let listed = found.into_iter().map(|binding| {
            // No binding has this digest: the other side finds that it differs, and sends what it has.
            let digest = binding.digest.unwrap_or(LeafSum::ZERO);
            (binding.key.into(), digest)
        });
        Ok(listed.collect())
    }

    fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let Ok(key) = BindingKey::new(key) else {
            return Ok(None);
        };
        match self.engine.binding_encoded(&key) {
            Ok(Some(encoded)) if encoded.len() > STATE_BYTES_MAX => {
                self.too_long = Some(encoded.len());
                Ok(None)
            }
            Ok(encoded) => Ok(encoded.map(|encoded| encoded.to_vec())),
            Err(ReadError::Damaged(damage)) => {
                tracing::warn!(partition = %self.id, %damage, "a binding cannot be read, and is asked of another replica");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
