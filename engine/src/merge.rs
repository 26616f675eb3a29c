//! Taking another node's copy of a binding in.

use mesh_ring::binding::Binding;
use mesh_ring::name::BindingKey;

use crate::engine::Engine;
use crate::error::BindingError;
use crate::writer::{BindingMerge, Op};

/// What a merge weighs in the queue beside its values, in bytes.
const MERGE_BYTES: usize = 512;

impl Engine {
    /// Queues that `theirs`, another node's copy of a binding, is merged into this node's; `done` is called on the
    /// writer's thread when that is durable, leaf and due times included. Merges may come in any order and more than
    /// once: nodes that have merged each other's copies hold the same. May block while much waits for the disk.
    ///
    /// # Errors
    /// `done` is told: the disk's reserve is reached, the copy here cannot be read, or the store stopped.
    pub fn submit_merge(
        &self,
        key: BindingKey,
        theirs: Binding,
        done: impl FnOnce(Result<(), BindingError>) + Send + 'static,
    ) {
        let bytes = theirs.encode().len() + key.as_bytes().len() + MERGE_BYTES;
        let merge = BindingMerge { key, theirs, bytes };
        self.queue().push(Op::Merge(merge, Box::new(done)), bytes);
    }
}
