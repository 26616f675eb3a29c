//! What the opener of a store decides.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_ring::ids::{ClusterId, Offset, PartitionId, TopicKey};

/// Physical time for the store: unix milliseconds.
///
/// Offsets and safety never depend on it; record times, expiry and age retention do.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Called by the writer with topics that have new durable records, each with its next offset. A topic may come more than
/// once; its last offset counts. The next offset of a topic that was deleted is 0.
pub type OnCommitted = Arc<dyn Fn(&[(TopicKey, Offset)]) + Send + Sync>;

/// Called by the writer with the keys of bindings that a durable group has changed or removed, each once, in no order.
/// Whoever listens to none of them need not look at any.
pub type OnBound = Arc<dyn Fn(&mut dyn Iterator<Item = (PartitionId, &[u8])>) + Send + Sync>;

/// Called once, with the reason, when the writer has stopped for good.
pub type OnStopped = Arc<dyn Fn(&str) + Send + Sync>;

/// What to do with a store whose write-ahead log is damaged where it had been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Do not open it, and say how the loss can be accepted. Right where there is no other copy.
    #[default]
    Refuse,
    /// Open it without what is lost, keep that beside the log, and mark every partition suspect before anything else: its
    /// other replicas know better.
    Suspect,
}

/// How a store is opened. `Options::default()` suits a node on a server with a few GiB of memory.
#[derive(Clone)]
pub struct Options {
    /// Refuse a store of any other cluster.
    pub expect_cluster: Option<ClusterId>,
    /// What to do where the write-ahead log is damaged.
    pub on_damage: OnDamage,
    /// Appends and writes are refused while the file system has less than this free, in bytes. It must hold what memory
    /// still has to flush: at least [`RESERVE_BYTES_MIN`].
    pub reserve_bytes: u64,
    /// Cache of index and data blocks, in bytes.
    pub cache_bytes: usize,
    /// Memory that gathers log writes before they are flushed, in bytes; also about the size of a blob file.
    pub write_buffer_bytes: usize,
    /// Most bytes of hints that are kept, for all nodes together. A hint beyond it is refused, and not acknowledged.
    pub hint_bytes_max: u64,
    /// Tombstones are kept at least this long, in milliseconds, where a store is used by itself.
    pub tombstone_age_ms: u64,
    /// Whether the leaves that replicas compare are kept. Only a measurement of what they cost turns it off: such a store
    /// cannot be repaired.
    #[doc(hidden)]
    pub with_leaves: bool,
    /// After this much quiet the writer puts a marker behind the last acknowledged group, so that the group is not the
    /// last record of the write-ahead log, where damage could be taken for a torn write.
    pub marker_after: Duration,
    /// Physical time.
    pub clock: Clock,
    /// Milliseconds since any fixed moment, by a clock that never jumps and goes on while the machine sleeps: what keeps
    /// a wrong physical clock from ending what is not old.
    pub steady: Clock,
    /// Called on the writer's thread after each durable group; it must not block.
    pub on_committed: Option<OnCommitted>,
    /// Called on the writer's thread after each durable group that changed bindings, before anyone is answered; it must
    /// not block. A partition that is dropped as a whole is not told.
    pub on_bound: Option<OnBound>,
    /// Called on the writer's thread when a write or fsync has failed.
    pub on_stopped: Option<OnStopped>,
}

/// Default of [`Options::reserve_bytes`].
pub const RESERVE_BYTES_DEFAULT: u64 = 1 << 30;

/// Default of [`Options::hint_bytes_max`].
pub const HINT_BYTES_MAX_DEFAULT: u64 = 1 << 30;

/// Smallest useful [`Options::reserve_bytes`] at the smallest write buffer.
pub const RESERVE_BYTES_MIN: u64 = 16 << 20;

impl Default for Options {
    fn default() -> Self {
        Options {
            expect_cluster: None,
            on_damage: OnDamage::default(),
            reserve_bytes: RESERVE_BYTES_DEFAULT,
            cache_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            hint_bytes_max: HINT_BYTES_MAX_DEFAULT,
            tombstone_age_ms: 24 * 60 * 60 * 1000,
            with_leaves: true,
            marker_after: Duration::from_millis(10),
            clock: Arc::new(system_clock),
            steady: Arc::new(steady_clock),
            on_committed: None,
            on_bound: None,
            on_stopped: None,
        }
    }
}

fn system_clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn steady_clock() -> u64 {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(since_boot.tv_nsec).unwrap_or(0) / 1_000_000
}
