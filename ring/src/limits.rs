//! Every limit that a user can meet, in one place, each with its unit in its name.

/// Longest topic name, in bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;
/// Longest cursor name, in bytes.
pub const CURSOR_NAME_BYTES_MAX: usize = 255;
/// Longest binding key, in bytes.
pub const BINDING_KEY_BYTES_MAX: usize = 1024;
/// Largest binding value, in bytes.
pub const BINDING_VALUE_BYTES_MAX: usize = 1 << 20;
/// Most concurrent versions that one binding keeps; a write that would add another is refused as a conflict.
pub const SIBLINGS_MAX: usize = 16;
/// Most bytes of concurrent values that a write may leave one binding with. What several nodes have taken at the same time
/// may come to more; three such states still fit one message.
pub const SIBLINGS_BYTES_MAX: usize = BINDING_VALUE_BYTES_MAX + (256 << 10);
/// Most nodes that one causal context may name.
pub const CONTEXT_NODES_MAX: usize = 1024;
/// Largest record: key, value and headers together, in bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// Most headers of one record.
pub const RECORD_HEADERS_MAX: usize = 64;
/// Longest header name, in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 255;
/// Most records of one batch.
pub const BATCH_RECORDS_MAX: u32 = 65_536;
/// Largest batch, in bytes, header included, before and after compression.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches of one producer and topic that are remembered, and so the most that it may have in flight.
pub const PRODUCER_WINDOW_BATCHES: usize = 64;
/// Most partitions of a cluster.
pub const PARTITIONS_MAX: u16 = 4096;
/// Most names or keys in one page of a listing.
pub const LIST_PAGE_MAX: u32 = 10_000;
/// A producer that has appended nothing to a topic for this long is forgotten there, in milliseconds: its late retries
/// are refused, never appended again.
pub const PRODUCER_AGE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1000;
