//! A binding: the values that a key has, and what they supersede. Replicas that merge converge.
//!
//! A dotted version vector set: each version has its dot, and the binding's context names every write that went into
//! it. A write that the context covers, and that is not among the versions, was superseded.

use std::cmp::Reverse;

use bytes::Bytes;
use thiserror::Error;

use crate::codec::{DecodeError, Reader, put_bytes, put_varint};
use crate::hlc::Hlc;
use crate::limits::{CONTEXT_NODES_MAX, SIBLINGS_BYTES_MAX, SIBLINGS_MAX};
use crate::version::{Dot, VersionVector, put_dot, take_dot};

const FORMAT: u8 = 1;
// Persisted: a number is never used again for something else.
const KIND_VALUE: u8 = 1;
const KIND_EXPIRING_VALUE: u8 = 2;
const KIND_TOMBSTONE: u8 = 3;
/// The fewest bytes of an encoded version: dot, timestamp, kind.
const VERSION_BYTES_MIN: usize = 37;

/// What a write left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Content {
    /// A value.
    Value(Bytes),
    /// That there is none: it was deleted, or it has expired.
    Tombstone,
}

/// One write of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    /// Its name.
    pub dot: Dot,
    /// When it was written. Which of several siblings is shown depends on it, and nothing else.
    pub hlc: Hlc,
    /// When it stops being a value, in Unix milliseconds; always `None` for a tombstone.
    pub expires_ms: Option<u64>,
    /// What it left.
    pub content: Content,
}

impl Version {
    /// The value, if it has not expired: at `expires_ms` it has.
    #[must_use]
    pub fn live(&self, now_ms: u64) -> Option<&Bytes> {
        match &self.content {
            Content::Value(value) if !self.has_expired(now_ms) => Some(value),
            Content::Value(_) | Content::Tombstone => None,
        }
    }

    fn bytes(&self) -> usize {
        match &self.content {
            Content::Value(value) => value.len(),
            Content::Tombstone => 0,
        }
    }

    fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms
            .is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    fn into_tombstone(self) -> Self {
        Self {
            expires_ms: None,
            content: Content::Tombstone,
            ..self
        }
    }

    /// Two replicas hold one dot alike, except that one may have expired it already, and then both shall. The rest
    /// of the key only makes the choice the same on either side, whatever they hold.
    fn precedence(&self) -> (bool, Hlc, Option<u64>, &[u8]) {
        match &self.content {
            Content::Value(value) => (false, self.hlc, self.expires_ms, value),
            Content::Tombstone => (true, self.hlc, None, &[]),
        }
    }
}

/// Bytes of these versions' values.
fn bytes_of(versions: &[Version]) -> usize {
    versions.iter().map(Version::bytes).sum()
}

/// Why a write is refused. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum WriteError {
    /// The write would add to, or hide, as many concurrent versions as a key may have. Read them, and write with
    /// their context.
    #[error(
        "the key holds {held} concurrent versions, and {SIBLINGS_MAX} is the limit; read it, and write with the context of that read"
    )]
    TooManySiblings {
        /// The versions that the key holds.
        held: usize,
    },
    /// The write would leave more bytes of concurrent values than a key may have. Read them, and write with their context.
    #[error(
        "the key's concurrent values would come to {bytes} bytes, and {SIBLINGS_BYTES_MAX} is the limit; read it, and write with the context of that read"
    )]
    SiblingsTooLarge {
        /// What they would come to.
        bytes: usize,
    },
    /// The context, together with that of the binding, names more nodes than a context may.
    #[error("the causal context names {nodes} nodes; the limit is {CONTEXT_NODES_MAX}")]
    ContextTooLarge {
        /// How many nodes they name.
        nodes: usize,
    },
    /// The context claims to have seen this very write, or later ones of its node. It is of another cluster, or
    /// made up, or this node runs on an old copy of its disk.
    #[error("the causal context covers the write {dot}, which has not happened yet")]
    ContextAhead {
        /// The write that was to be made.
        dot: Dot,
    },
}

/// The values of one key with their causal context. The default, without any write, is a key that is not bound.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Binding {
    /// Every write that went into this state; it covers the dot of each version.
    context: VersionVector,
    /// What none of those writes supersedes, in ascending order of dots.
    versions: Vec<Version>,
}

impl Binding {
    /// Every write that went into this state. A writer that has read the binding presents it.
    #[must_use]
    pub const fn context(&self) -> &VersionVector {
        &self.context
    }

    /// All versions, tombstones and expired values too, in ascending order of dots.
    #[must_use]
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The state that knows all that either side knows.
    ///
    /// A version stays if both sides have it, or if the other side's context has not seen it; where the other side
    /// has seen it and has it no longer, it was superseded there. Commutative, associative and idempotent. The number
    /// of versions may exceed [`SIBLINGS_MAX`]: a merge must not choose among acknowledged writes.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let mut versions: Vec<Version> =
            Vec::with_capacity(self.versions.len().max(other.versions.len()));
        versions.extend(
            self.versions
                .iter()
                .filter_map(|mine| match other.find(mine.dot) {
                    Some(theirs) if theirs.precedence() > mine.precedence() => Some(theirs.clone()),
                    Some(_) => Some(mine.clone()),
                    None => (!other.context.covers(mine.dot)).then(|| mine.clone()),
                }),
        );
        versions.extend(
            other
                .versions
                .iter()
                .filter(|theirs| !self.context.covers(theirs.dot))
                .cloned(),
        );
        versions.sort_unstable_by_key(|version| version.dot);
        let mut context = self.context.clone();
        context.merge(&other.context);
        Self { context, versions }
    }

    /// The state after a write of `version`.
    ///
    /// Without `seen` it supersedes all that is held here; with it, what the writer has seen, here or elsewhere, and
    /// the rest stays beside it. Whether expired values count is for the caller to say: [`expire`](Self::expire) first.
    ///
    /// # Errors
    /// [`WriteError`]: the binding stays as it is.
    pub fn write(
        &self,
        seen: Option<&VersionVector>,
        version: Version,
    ) -> Result<Self, WriteError> {
        let mut context = self.context.clone();
        if let Some(seen) = seen {
            context.merge(seen);
        }
        if context.covers(version.dot) {
            return Err(WriteError::ContextAhead { dot: version.dot });
        }
        context.insert(version.dot);
        let nodes = context.nodes();
        if nodes > CONTEXT_NODES_MAX {
            return Err(WriteError::ContextTooLarge { nodes });
        }
        let mut versions = self.unseen_by(seen)?;
        versions.push(match version.content {
            Content::Value(_) => version,
            Content::Tombstone => version.into_tombstone(),
        });
        let bytes = bytes_of(&versions);
        // One value may always be written; and what makes fewer bytes than a merge has brought together is welcome.
        if versions.len() > 1 && bytes > SIBLINGS_BYTES_MAX.max(bytes_of(&self.versions)) {
            return Err(WriteError::SiblingsTooLarge { bytes });
        }
        versions.sort_unstable_by_key(|version| version.dot);
        Ok(Self { context, versions })
    }

    /// What a write leaves standing.
    fn unseen_by(&self, seen: Option<&VersionVector>) -> Result<Vec<Version>, WriteError> {
        let Some(seen) = seen else {
            // Tombstones do not count: a reader finds no value there, and so no context to present.
            let held = self
                .versions
                .iter()
                .filter(|version| version.content != Content::Tombstone)
                .count();
            return if held < SIBLINGS_MAX {
                Ok(Vec::new())
            } else {
                Err(WriteError::TooManySiblings { held })
            };
        };
        let held = self.versions.len();
        let unseen: Vec<Version> = self
            .versions
            .iter()
            .filter(|version| !seen.covers(version.dot))
            .cloned()
            .collect();
        // A merge may have exceeded the limit; what makes fewer of them is welcome.
        if unseen.len() < SIBLINGS_MAX.max(held) {
            Ok(unseen)
        } else {
            Err(WriteError::TooManySiblings { held })
        }
    }

    /// The context to hand to a writer whose write `dot`, made with the context `seen`, led to this state.
    ///
    /// It is not always the binding's: that covers siblings which this writer has never read, and its next write would
    /// silently remove them. Where the writer's own dot cannot be told apart from such a sibling, as both were
    /// made by one node, it gets back what it had seen, and its next write becomes a sibling of this one.
    #[must_use]
    pub fn context_after(&self, seen: Option<&VersionVector>, dot: Dot) -> VersionVector {
        let mut others = self
            .versions
            .iter()
            .map(|version| version.dot)
            .filter(|&other| other != dot)
            .peekable();
        let Some(seen) = seen.filter(|_| others.peek().is_some()) else {
            return self.context.clone();
        };
        let mut after = seen.clone();
        after.insert(dot);
        if others.any(|other| after.covers(other)) {
            seen.clone()
        } else {
            after
        }
    }

    /// The values that have not expired, the newest first: by timestamp, then by dot.
    #[must_use]
    pub fn live(&self, now_ms: u64) -> Vec<&Version> {
        let mut live: Vec<&Version> = self
            .versions
            .iter()
            .filter(|v| v.live(now_ms).is_some())
            .collect();
        live.sort_unstable_by_key(|version| Reverse((version.hlc, version.dot)));
        live
    }

    /// The newest value that has not expired: the one to show where only one is asked for.
    #[must_use]
    pub fn newest_live(&self, now_ms: u64) -> Option<&Version> {
        let live = self
            .versions
            .iter()
            .filter(|version| version.live(now_ms).is_some());
        live.max_by_key(|version| (version.hlc, version.dot))
    }

    /// The state in which expired values are tombstones, with their dots; `None` if there is none to turn.
    #[must_use]
    pub fn expire(&self, now_ms: u64) -> Option<Self> {
        if !self
            .versions
            .iter()
            .any(|version| version.has_expired(now_ms))
        {
            return None;
        }
        let expire = |version: &Version| match version.has_expired(now_ms) {
            true => version.clone().into_tombstone(),
            false => version.clone(),
        };
        Some(Self {
            context: self.context.clone(),
            versions: self.versions.iter().map(expire).collect(),
        })
    }

    /// Whether it has only tombstones: it may be forgotten once every replica holds it.
    #[must_use]
    pub fn is_collectable(&self) -> bool {
        self.versions
            .iter()
            .all(|version| version.content == Content::Tombstone)
    }

    fn find(&self, dot: Dot) -> Option<&Version> {
        let at = self
            .versions
            .binary_search_by_key(&dot, |version| version.dot)
            .ok()?;
        self.versions.get(at)
    }

    /// The canonical bytes: equal states have equal bytes, on every replica.
    ///
    /// Version 1 | context: number of nodes varint, for each in ascending order node 16 bytes, boot u32 BE, counter
    /// u64 BE | number of versions varint | for each in ascending order of dots: node 16 bytes, boot u32 BE, counter
    /// u64 BE, timestamp u64 BE, kind u8 (1 value, 2 value that expires, 3 tombstone), for kind 2 `expires_ms` u64 BE, for
    /// kinds 1 and 2 length varint and value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Enough for all but strange states: what grows is copied.
        let bytes = bytes_of(&self.versions)
            + (self.context.nodes() + 2 * self.versions.len() + 1) * VERSION_BYTES_MIN;
        let mut out = Vec::with_capacity(bytes);
        out.push(FORMAT);
        self.context.put(&mut out);
        put_varint(&mut out, self.versions.len() as u64);
        for version in &self.versions {
            put_version(&mut out, version);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote. Allocates no more than a small multiple of the bytes given.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_with(bytes, Bytes::copy_from_slice)
    }

    /// As [`decode`](Self::decode); the values are parts of `bytes`, not copies.
    ///
    /// # Errors
    /// As there.
    pub fn decode_shared(bytes: &Bytes) -> Result<Self, DecodeError> {
        Self::decode_with(bytes, |value| bytes.slice_ref(value))
    }

    fn decode_with(bytes: &[u8], keep: impl Fn(&[u8]) -> Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, FORMAT)?;
        let context = VersionVector::take(&mut reader)?;
        let count = reader.count(VERSION_BYTES_MIN)?;
        let mut versions: Vec<Version> = Vec::with_capacity(count);
        for _ in 0..count {
            let version = take_version(&mut reader, &keep)?;
            if versions.last().is_some_and(|last| last.dot >= version.dot) {
                return Err(DecodeError::NotCanonical {
                    what: "the order of versions",
                });
            }
            if !context.covers(version.dot) {
                return Err(DecodeError::NotCanonical {
                    what: "a context that does not cover its versions",
                });
            }
            versions.push(version);
        }
        reader.end()?;
        Ok(Self { context, versions })
    }
}

fn put_version(out: &mut Vec<u8>, version: &Version) {
    put_dot(out, version.dot);
    out.extend(version.hlc.0.to_be_bytes());
    match (&version.content, version.expires_ms) {
        (Content::Value(value), None) => {
            out.push(KIND_VALUE);
            put_bytes(out, value);
        }
        (Content::Value(value), Some(expires_ms)) => {
            out.push(KIND_EXPIRING_VALUE);
            out.extend(expires_ms.to_be_bytes());
            put_bytes(out, value);
        }
        (Content::Tombstone, _) => out.push(KIND_TOMBSTONE),
    }
}

fn take_version(
    reader: &mut Reader<'_>,
    keep: &impl Fn(&[u8]) -> Bytes,
) -> Result<Version, DecodeError> {
    let dot = take_dot(reader)?;
    let hlc = Hlc(reader.u64()?);
    let kind = reader.u8()?;
    let expires_ms = if kind == KIND_EXPIRING_VALUE {
        Some(reader.u64()?)
    } else {
        None
    };
    let content = match kind {
        KIND_VALUE | KIND_EXPIRING_VALUE => Content::Value(keep(reader.bytes()?)),
        KIND_TOMBSTONE => Content::Tombstone,
        found => {
            return Err(DecodeError::UnknownKind {
                what: "the kind of a version",
                found,
            });
        }
    };
    Ok(Version {
        dot,
        hlc,
        expires_ms,
        content,
    })
}
