//! How much a replica holds, and how long it waits.

/// Bounds of one replica. All memory that a replica holds is bounded by these and by what is on its way to the disk.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Limits {
    /// Entries that a leader keeps in memory for followers that lack them, in bytes; older ones are read from the disk.
    pub recent_bytes: usize,
    /// Entries sent to one follower and not acknowledged, in bytes. One entry may always be under way.
    pub window_bytes: usize,
    /// Entries sent to one follower and not acknowledged, in entries.
    pub window_entries: usize,
    /// Entries of one message, and of one read from the disk, in bytes; one entry may be larger.
    pub message_bytes: usize,
    /// After this time without an answer a message is taken for lost, in milliseconds.
    pub resend_ms: u64,
    /// A leader for which something has waited this long asks for another leader, in milliseconds; and again after as
    /// long.
    pub resign_after_ms: u64,
    /// A report that the map has not answered is made again after this time, in milliseconds.
    pub report_again_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            recent_bytes: 4 << 20,
            window_bytes: 4 << 20,
            window_entries: 1024,
            message_bytes: 1 << 20,
            resend_ms: 100,
            resign_after_ms: 3000,
            report_again_ms: 500,
        }
    }
}
