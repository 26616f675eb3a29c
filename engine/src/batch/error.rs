use mesh_ring::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, HEADER_NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};

/// Why a batch or a record was refused. Nothing was changed by the call that returned it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A record is too large: its key, value and headers together. Split it, or send a reference to it.
    #[error("record of {actual} bytes is larger than the limit of {RECORD_BYTES_MAX} bytes")]
    RecordBytes {
        /// Bytes of key, value and headers.
        actual: u64,
    },
    /// A record has too many headers.
    #[error("record has {actual} headers, more than the limit of {RECORD_HEADERS_MAX}")]
    RecordHeaders {
        /// Headers of the record.
        actual: u64,
    },
    /// A header's name is too long.
    #[error(
        "header name of {actual} bytes is longer than the limit of {HEADER_NAME_BYTES_MAX} bytes"
    )]
    HeaderNameBytes {
        /// Bytes of the name.
        actual: u64,
    },
    /// The batch would be, or is, too large. A builder is full: finish it and begin another.
    #[error("batch of {actual} bytes is larger than the limit of {BATCH_BYTES_MAX} bytes")]
    BatchBytes {
        /// Bytes of header and body, uncompressed or as stored.
        actual: u64,
    },
    /// The batch would have, or has, too many records. A builder is full: finish it and begin another.
    #[error("batch of {actual} records is larger than the limit of {BATCH_RECORDS_MAX} records")]
    BatchRecords {
        /// Records of the batch.
        actual: u64,
    },
    /// The batch holds no record.
    #[error("batch holds no record")]
    Empty,
    /// The bytes end early, or go on after the batch's end.
    #[error("batch of {actual} bytes should be of {expected} bytes")]
    Length {
        /// What the header says, or a header's length if there is not even that.
        expected: u64,
        /// What there is.
        actual: u64,
    },
    /// The version is not one this program knows; another version of it may.
    #[error("unknown batch version {0}")]
    Version(u8),
    /// An attribute bit or compression is not one this program knows; another version of it may.
    #[error("unknown batch attributes {0:#04x}")]
    Attributes(u8),
    /// The bytes are not those that were written: the named checksum is wrong.
    #[error("{part} checksum is {stored:08x} in the header but {computed:08x} of the bytes")]
    Checksum {
        /// `batch` for the producer's checksum, `stamp` for the leader's.
        part: &'static str,
        /// The header's.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The bytes break a rule of the format.
    #[error("malformed batch: {0}")]
    Malformed(&'static str),
}

impl BatchError {
    /// Says whether a builder refused a record only because of those it holds already, so that the same record goes
    /// into the next batch.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::BatchBytes { .. } | Self::BatchRecords { .. })
    }
}
