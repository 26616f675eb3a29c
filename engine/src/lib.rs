//! Meshlog's storage engine: append-only topic logs and key/value bindings in one RocksDB, durable before they are
//! acknowledged. Synchronous, and usable by itself as an embedded log:
//!
//! ```
//! use mesh_engine::batch::{BatchBuilder, Compression, Record, records};
//! use mesh_engine::{Append, Identity, Options, Solo, TopicConfig, prepare};
//! use mesh_ring::ids::{ClusterId, NodeId};
//! use mesh_ring::name::TopicName;
//!
//! # let dir = tempfile::tempdir()?;
//! # let data = dir.path().join("data");
//! let identity = Identity { cluster: ClusterId([1; 16]), node: NodeId([2; 16]), name: "n1".into(), partitions: 64 };
//! prepare(&data, &identity)?;
//! let engine = Solo::open(&data, Options::default())?;
//! let topic = engine.create_topic(&TopicName::new("orders")?, TopicConfig::default())?;
//!
//! let mut batch = BatchBuilder::new(Compression::None);
//! batch.push(&Record { key: None, value: "paid".into(), headers: vec![], timestamp_ms: 0 })?;
//! let appended = engine.append(Append { topic: topic.key, batch: batch.finish(None)?, expected: Some(0) })?;
//! assert_eq!((appended.first, appended.last), (0, 0)); // on the disk now, whatever happens next
//!
//! for stored in engine.read(topic.key, 0, 1 << 20)? {
//!     for record in records(&stored)? {
//!         let (offset, record) = record?;
//!         assert_eq!((offset, &record.value[..]), (0, &b"paid"[..]));
//!     }
//! }
//! engine.close()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where things are: [`Engine`] the doors (`engine`) · `open`, `identity`, `lock`, `wal`, `salvage` how a store begins,
//! and begins again after a crash · `writer` the one thread that decides and commits · `read`, `listing` every read ·
//! `keys`, `journal`, `catalogue`, [`mod@batch`] every byte that is stored · `housekeeping`, `reclaim`, `scrub`,
//! `space`, `storage` the care of the disk · `store` RocksDB and its options.

pub mod batch;
mod binding_page;
mod blocks;
mod boots;
mod catalogue;
mod codec;
mod engine;
mod error;
mod founding;
mod hash;
mod hints;
mod housekeeping;
mod identity;
pub mod journal;
pub mod keys;
mod leaves;
mod listing;
mod lock;
mod merge;
mod names;
mod open;
mod options;
mod read;
mod reclaim;
mod remains;
mod repair;
mod replica;
mod rows;
mod salvage;
mod scrub;
mod sizes;
mod solo;
mod space;
mod storage;
mod store;
mod transfer;
mod wal;
mod writer;

pub use blocks::{BLOCK_OFFSETS, BlockDigest, Healed};
pub use boots::Boot;
pub use catalogue::{TopicExtent, TopicMeta};
pub use codec::CodecError;
pub use engine::Engine;
pub use error::{
    AppendError, BindingError, Damage, HealError, HintError, OpenError, ReadError, Stopped,
    TopicError,
};
pub use founding::{FOUNDING_MEMBERS_MAX, Founding, FoundingMember};
pub use hash::TopicHash;
pub use hints::{Hint, HintStats};
pub use identity::{Identity, prepare, prepare_with};
pub use mesh_ring::command::{Command, TopicConfig};
pub use open::settle_log;
pub use options::{
    Clock, HINT_BYTES_MAX_DEFAULT, OnBound, OnCommitted, OnDamage, OnStopped, Options,
    RESERVE_BYTES_DEFAULT, RESERVE_BYTES_MIN,
};
pub use reclaim::{GARBAGE_RATIO_MAX, Reclaimed};
pub use remains::Remains;
pub use repair::{LeafBinding, OldTombstone};
pub use replica::{
    Held, JOURNAL_BYTES_MAX, JOURNAL_ENTRIES_KEPT, JournalEntry, PartitionSource, Persist,
};
pub use rows::{ROW_BYTES_MAX, ReadRows, RowChange};
pub use salvage::{SalvageReport, damage_is_noted, salvage};
pub use scrub::{Pace, ScrubReport};
pub use solo::{Append, Appended, Housekeeping, Solo};
pub use space::Shortage;
pub use storage::FamilyUsage;
pub use transfer::{
    CHUNK_BYTES, Chunk, Export, ExportHeader, HELD_TOPICS_MAX, Holding, ImportError, ImportState,
};
pub use writer::{BindingWrite, QUEUE_BYTES_MAX, Written};

/// Format of everything that a store holds. A change of any layout raises it and adds a step to `mesh-migrations`.
pub const FORMAT_VERSION: u32 = 1;
