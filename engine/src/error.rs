//! One error for each kind of call. Each variant tells the caller what is true now and what to do.

use std::path::PathBuf;

use mesh_ring::binding::WriteError;
use mesh_ring::ids::{Index, Offset, TopicKey};
use mesh_ring::producer::SequenceError;

use crate::batch::BatchError;

/// Why a store could not be opened. Nothing was changed in it, except where a torn tail was cut as documented.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is neither a store nor a bootstrap file.
    #[error(
        "{0} holds no store, and none may be made there: a cluster begins with `meshctl init`; a node that has lost its disk comes back as a new one, with `meshctl node new` and `meshctl node join`"
    )]
    Missing(PathBuf),
    /// Another process has the store open.
    #[error("{0} is in use by another process: stop it first")]
    Locked(PathBuf),
    /// The store is of an older format.
    #[error(
        "{data} has format {found}, this version reads {current}: run `meshctl migrate` on the node's folder"
    )]
    Older {
        /// The data directory.
        data: PathBuf,
        /// Its format.
        found: u32,
        /// This version's format.
        current: u32,
    },
    /// The store is of a newer format.
    #[error("{data} has format {found}, this version reads up to {current}: run a newer meshctl")]
    Newer {
        /// The data directory.
        data: PathBuf,
        /// Its format.
        found: u32,
        /// This version's format.
        current: u32,
    },
    /// A migration of the store was begun and not finished.
    #[error(
        "{0} is half migrated: run `meshctl migrate` on the node's folder again, it goes on where it stopped"
    )]
    HalfMigrated(PathBuf),
    /// The store belongs to another cluster.
    #[error(
        "{data} belongs to cluster {found}, not to {expected}: this node was given another node's data"
    )]
    OtherCluster {
        /// The data directory.
        data: PathBuf,
        /// The cluster it belongs to.
        found: String,
        /// The cluster it should belong to.
        expected: String,
    },
    /// The write-ahead log is damaged where it had been acknowledged.
    #[error(
        "{file} is damaged at byte {offset} ({detail}), and what follows was acknowledged: restore the disk, or accept \
         the loss with `meshctl salvage --accept-loss` on the node's folder"
    )]
    WalDamaged {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The store does not open for what it holds.
    #[error("{data} is damaged: {detail}: restore the disk, or rebuild the node as a new one")]
    Damaged {
        /// The data directory.
        data: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The operating system refused.
    #[error("cannot open {data}: {detail}: check the path, its owner and its mode")]
    Io {
        /// The data directory.
        data: PathBuf,
        /// What it said.
        detail: String,
    },
}

/// The store takes no more writes until it is opened again: a write or an fsync failed, or it was closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store has stopped: {cause}: restart the node once the cause is gone")]
pub struct Stopped {
    /// The first failure.
    pub cause: String,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The topic does not exist (any more): deleted, or never made. A topic made again has another id.
    #[error("the topic was deleted")]
    TopicDeleted,
    /// The offset was trimmed away. Read from `first`.
    #[error("offset {from} was trimmed: the first that remains is {first}")]
    Trimmed {
        /// What was asked.
        from: Offset,
        /// The first offset that can be read.
        first: Offset,
    },
    /// The offset is beyond the next that will be given out.
    #[error("offset {from} is beyond the end: the next record will get {next}")]
    BeyondEnd {
        /// What was asked.
        from: Offset,
        /// The next offset.
        next: Offset,
    },
    /// The journal no longer keeps the entry. Copy the partition instead.
    #[error("the entry was let go of: the journal begins at {first}")]
    JournalGone {
        /// The first entry that is kept.
        first: Index,
    },
    /// A copy of the partition has begun to come in and is not complete. Ask another node.
    #[error("this node's copy of the partition is not complete yet")]
    Incomplete,
    /// Stored bytes do not match their checksum. They are not served.
    #[error("damaged: {0}")]
    Damaged(Damage),
    /// RocksDB could not read.
    #[error("the store could not be read: {0}")]
    Store(String),
}

/// Stored bytes that do not read back as what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What is damaged, in words: a topic's batch, a binding, a leaf.
    pub what: String,
    /// The topic, where it is in one.
    pub topic: Option<TopicKey>,
    /// Last offset of the damaged batch, or the offset at which reading failed.
    pub offset: Option<Offset>,
    /// The files that may hold the damaged bytes, by name.
    pub files: Vec<String>,
    /// What is wrong with it.
    pub detail: String,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)?;
        if self.files.is_empty() {
            Ok(())
        } else {
            write!(f, " (in {})", self.files.join(" or "))
        }
    }
}

/// Why an append was refused. Except for `Stopped`, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The batch is not a valid one.
    #[error("invalid batch: {0}")]
    Invalid(BatchError),
    /// The topic does not exist (any more).
    #[error("the topic was deleted")]
    TopicDeleted,
    /// The topic's next offset is not the expected one.
    #[error("expected offset {expected}, but the next is {next}")]
    WrongOffset {
        /// What the caller expected.
        expected: Offset,
        /// The next offset.
        next: Offset,
    },
    /// The producer's epoch or sequence does not fit.
    #[error("{0}")]
    Sequence(SequenceError),
    /// The file system is at the reserve. Appends resume by themselves when space is back.
    #[error(
        "disk reserve reached: {free} bytes free, {reserve} are kept: free space or trim topics, then retry"
    )]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// State that the append depends on cannot be read.
    #[error("{0}")]
    Read(ReadError),
    /// The store stopped. The append may or may not be there after a restart: retry with the same sequence.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// Why a change of a topic was refused. Except for `Stopped`, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// A topic of that name exists.
    #[error("topic {0} already exists")]
    Exists(String),
    /// The topic does not exist (any more).
    #[error("the topic does not exist")]
    Unknown,
    /// The offset is beyond the next that will be given out.
    #[error("offset {offset} is beyond the end: the next record will get {next}")]
    BeyondEnd {
        /// What was asked.
        offset: Offset,
        /// The next offset.
        next: Offset,
    },
    /// As in [`AppendError::DiskFull`].
    #[error(
        "disk reserve reached: {free} bytes free, {reserve} are kept: free space or trim topics, then retry"
    )]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// State that the change depends on cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. The change may or may not be there after a restart.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// Why a write of a binding was refused. Except for `Stopped`, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The value is over the limit.
    #[error("value of {bytes} bytes is over the limit of {max}")]
    ValueTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The write does not fit the versions that are held, or its context.
    #[error("{0}")]
    Refused(WriteError),
    /// As in [`AppendError::DiskFull`].
    #[error("disk reserve reached: {free} bytes free, {reserve} are kept: free space, then retry")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// The present value cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. The write may or may not be there after a restart.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// Why a hint was refused. Except for `Stopped`, nothing was written, and the write that it is of is not acknowledged here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    /// As many bytes of hints are kept as may be. Ask the next node of the preference list.
    #[error(
        "{held} bytes of hints are kept, and {max} is the limit: bring the nodes back that they are for, or remove those nodes"
    )]
    Full {
        /// Bytes that are kept.
        held: u64,
        /// The limit.
        max: u64,
    },
    /// As in [`AppendError::DiskFull`].
    #[error("disk reserve reached: {free} bytes free, {reserve} are kept: free space, then retry")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// The write that was to be made is refused.
    #[error("{0}")]
    Refused(Box<BindingError>),
    /// What is known of the key cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. The hint may or may not be there after a restart.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}

/// Why batches of another replica were not taken. Except for `Stopped`, nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealError {
    /// What came is damaged itself, or no part of the topic. Ask another replica.
    #[error("what came cannot replace damaged records: {0}")]
    Invalid(String),
    /// Two valid batches for one offset: what must never be. People have to look; neither is written over.
    #[error(
        "topic {topic} has two histories: this node holds {ours}, another one {theirs}: stop both, keep their disks, and report it"
    )]
    Conflict {
        /// The topic.
        topic: TopicKey,
        /// What is stored here.
        ours: String,
        /// What came.
        theirs: String,
    },
    /// It is not known here that these records are committed. They come by the journal.
    #[error("offset {offset} is not known to be committed here")]
    NotCommitted {
        /// The last offset that came.
        offset: Offset,
    },
    /// As in [`AppendError::DiskFull`].
    #[error("disk reserve reached: {free} bytes free, {reserve} are kept: free space, then retry")]
    DiskFull {
        /// Bytes free.
        free: u64,
        /// Bytes that are kept free.
        reserve: u64,
    },
    /// What stands here cannot be looked at: the topic was deleted, or the store cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The store stopped. The batches may or may not be there after a restart.
    #[error("{0}")]
    Stopped(#[from] Stopped),
}
