//! What clients ask for, and what they get to know.

use bytes::Bytes;
use mesh_ring::binding::Content;
use mesh_ring::ids::PartitionId;
use mesh_ring::version::VersionVector;

use crate::oracle::Seen;

/// What a client knows of a key: the token, and what it stands for in truth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) token: VersionVector,
    pub(crate) seen: Seen,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) client: usize,
    pub(crate) partition: PartitionId,
    pub(crate) key: Bytes,
    pub(crate) need: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Read,
    Write {
        content: Content,
        ttl_ms: Option<u64>,
        seen: Option<Context>,
    },
}

/// What a client gets to know.
pub(crate) struct Told {
    pub(crate) client: usize,
    pub(crate) key: Bytes,
    pub(crate) context: Context,
}
