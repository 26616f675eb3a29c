//! How two replicas find and heal what differs between them, in messages of bounded size.
//!
//! One side walks, the other only answers, and remembers nothing between two requests. Down the tree they compare
//! the hashes of children, in a leaf the digests of bindings, and then exchange the bindings in which they differ. Hashes
//! travel cut to 8 bytes, mixed with the salt of the walk: two that are equal by chance differ in the next walk.
//!
//! A walk goes by the leaves as they were when it began and reads bindings as they are when it gets to them. What is written
//! meanwhile may be exchanged needlessly, and is never lost by it: bindings are only ever merged.

mod answer;
mod message;
mod walker;

use bytes::Bytes;

use super::{LeafId, LeafSum};

pub use answer::answer;
pub use message::{Listed, Page, Place, Request, Response, State};
pub use walker::{Step, Walk, WalkError};

/// Most inner nodes, and most leaves, that one request asks about.
pub const NODES_AT_ONCE: usize = 64;
/// Most keys that one request lists, and most that are read at once.
pub const KEYS_AT_ONCE: usize = 1024;
/// Bindings of this many bytes end a message; it is larger by at most one binding.
pub const STATES_BYTES_MAX: usize = 256 << 10;

/// Mixed into the hashes of one walk; drawn anew for each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Salt(pub [u8; 8]);

/// The bindings of one partition, as a replica holds them.
pub trait Source {
    /// Why they cannot be read.
    type Error;

    /// Up to `most` bindings of a leaf with their digests, in ascending order of keys, from the first key after `after` on.
    /// One that cannot be read is listed with a digest that no binding has, such as zero.
    ///
    /// # Errors
    /// The disk's.
    fn list(
        &mut self,
        leaf: LeafId,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Bytes, LeafSum)>, Self::Error>;

    /// The encoded binding of a key; `None` if there is none, or none that can be read: that is never sent, and what
    /// the other side has heals it.
    ///
    /// # Errors
    /// The disk's.
    fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
}

impl Salt {
    fn node(self, level: u8, hash: &[u8; 32]) -> [u8; 8] {
        self.mix(level, hash)
    }

    fn digest(self, digest: LeafSum) -> [u8; 8] {
        self.mix(u8::MAX, &digest.to_bytes())
    }

    fn root(self, hash: &[u8; 32]) -> [u8; 16] {
        let [a, b] = [self.mix(0, hash), self.mix(u8::MAX - 1, hash)];
        let mut root = [0; 16];
        root[..8].copy_from_slice(&a);
        root[8..].copy_from_slice(&b);
        root
    }

    fn mix(self, kind: u8, hash: &[u8; 32]) -> [u8; 8] {
        let mut input = [0; 41];
        input[..8].copy_from_slice(&self.0);
        input[8] = kind;
        input[9..].copy_from_slice(hash);
        let mut mixed = [0; 8];
        mixed.copy_from_slice(&blake3::hash(&input).as_bytes()[..8]);
        mixed
    }
}
