//! Record batch format v1: the unit of a topic's log, on the wire and on disk.
//!
//! A producer encodes and checksums a batch once; it is stored and served verbatim. The leader stamps the second part
//! of the header in place, under a checksum of its own that also covers the producer's. All numbers are little-endian.
//!
//! | at | type | producer part | | at | type | leader part |
//! |---|---|---|---|---|---|---|
//! | 0 | u8 | version, 1 | | 64 | u64 | offset of the first record |
//! | 1 | u8 | bits 0–2: compression (0 none, 1 lz4, 2 zstd), others 0 | | 72 | u64 | bytes of the topic's log before this batch |
//! | 2 | u16 | 0 | | 80 | u64 | leader's epoch |
//! | 4 | u32 | records | | 88 | u64 | append time, unix ms |
//! | 8 | u32 | body bytes as stored | | 96 | u32 | 0 |
//! | 12 | u32 | body bytes uncompressed | | 100 | u32 | crc32c of bytes 60..100 |
//! | 16 | i64 | timestamp of the first record, unix ms | | | | |
//! | 24 | i64 | highest timestamp, unix ms | | | | |
//! | 32 | [u8; 16] | producer id, zeros if not idempotent | | | | |
//! | 48 | u32 | producer epoch | | | | |
//! | 52 | u32 | sequence of the batch | | | | |
//! | 56 | u32 | 0 | | | | |
//! | 60 | u32 | crc32c of bytes 0..60 and the body | | | | |
//!
//! The body follows at 104: for each record, all numbers as LEB128 varints, the timestamp's zigzag difference from the
//! header's (modulo 2^64), key length + 1 (0: no key) and key, value length and value, number of headers, and for each
//! header name length, name (UTF-8), value length, value. Compression covers the whole body.
//!
//! What lies where: `header` the fixed part and its checksums, `builder` the producer's side, `records` the reader's,
//! `compression` and `varint` what both need, `error` what can be wrong.

mod builder;
mod compression;
mod error;
mod header;
mod records;
#[cfg(test)]
mod tests;
mod varint;

pub use builder::BatchBuilder;
pub use compression::{Compression, UnknownCompression};
pub use error::BatchError;
pub use header::{
    BATCH_HEADER_BYTES, BATCH_VERSION, BatchHeader, LeaderStamp, set_producer, stamp,
    verify_producer, verify_stored,
};
pub use mesh_ring::command::ProducerStamp;
pub use records::{Record, Records, records, validate};
