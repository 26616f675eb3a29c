use super::compression::{Compression, compress};
use super::error::BatchError;
use super::header::{BATCH_HEADER_BYTES, BatchHeader, LeaderStamp, write_producer_part};
use super::records::Record;
use super::varint::{encoded_len, put, zigzag};
use bytes::Bytes;
use mesh_ring::command::ProducerStamp;
use mesh_ring::ids::Epoch;
use mesh_ring::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, HEADER_NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};

/// Encodes records into one batch.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the body so far.
    batch: Vec<u8>,
    compression: Compression,
    count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 0)
    }

    /// An empty batch with room for records of `body_bytes` encoded bytes.
    #[must_use]
    pub fn with_capacity(compression: Compression, body_bytes: usize) -> Self {
        let mut batch = Vec::with_capacity(BATCH_HEADER_BYTES + body_bytes.min(BATCH_BYTES_MAX));
        batch.resize(BATCH_HEADER_BYTES, 0);
        Self {
            batch,
            compression,
            count: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
        }
    }

    /// Adds a record at the end.
    ///
    /// # Errors
    /// A limit that it would break; the batch is then as it was. See [`BatchError::is_full`].
    pub fn push(&mut self, record: &Record) -> Result<(), BatchError> {
        self.push_parts(
            record.key.as_deref(),
            &record.value,
            &record.headers,
            record.timestamp_ms,
        )
    }

    /// Adds a record at the end from its parts.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_parts(
        &mut self,
        key: Option<&[u8]>,
        value: &[u8],
        headers: &[(String, Bytes)],
        timestamp_ms: i64,
    ) -> Result<(), BatchError> {
        let base = if self.count == 0 {
            timestamp_ms
        } else {
            self.base_timestamp_ms
        };
        // Modulo 2^64, so that no pair of timestamps is refused.
        let delta = zigzag(timestamp_ms.wrapping_sub(base));
        let key_bytes = key.map_or(0, |key| key.len() as u64 + 1);
        let payload = payload_bytes(key, value, headers)?;
        let lengths = encoded_len(delta)
            + encoded_len(key_bytes)
            + encoded_len(value.len() as u64)
            + encoded_len(headers.len() as u64)
            + headers
                .iter()
                .map(|(name, value)| {
                    encoded_len(name.len() as u64) + encoded_len(value.len() as u64)
                })
                .sum::<usize>();
        let end = self.batch.len() + lengths + payload;
        if end > BATCH_BYTES_MAX {
            return Err(BatchError::BatchBytes { actual: end as u64 });
        }
        if self.count == BATCH_RECORDS_MAX {
            return Err(BatchError::BatchRecords {
                actual: u64::from(self.count) + 1,
            });
        }

        self.batch.reserve(lengths + payload);
        put(&mut self.batch, delta);
        put(&mut self.batch, key_bytes);
        self.batch.extend_from_slice(key.unwrap_or_default());
        put(&mut self.batch, value.len() as u64);
        self.batch.extend_from_slice(value);
        put(&mut self.batch, headers.len() as u64);
        for (name, value) in headers {
            put(&mut self.batch, name.len() as u64);
            self.batch.extend_from_slice(name.as_bytes());
            put(&mut self.batch, value.len() as u64);
            self.batch.extend_from_slice(value);
        }
        self.max_timestamp_ms = if self.count == 0 {
            timestamp_ms
        } else {
            self.max_timestamp_ms.max(timestamp_ms)
        };
        self.base_timestamp_ms = base;
        self.count += 1;
        Ok(())
    }

    /// Records added so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Says whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, header included, before compression.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        self.batch.len()
    }

    /// The whole batch: compressed if that makes it smaller, checksummed, the leader part zeros.
    ///
    /// # Errors
    /// [`BatchError::Empty`] without a record; [`BatchError::Malformed`] if the producer's id is zero.
    pub fn finish(self, producer: Option<ProducerStamp>) -> Result<Vec<u8>, BatchError> {
        if self.count == 0 {
            return Err(BatchError::Empty);
        }
        let mut batch = self.batch;
        let uncompressed_bytes = batch.len() - BATCH_HEADER_BYTES;
        let mut compression = Compression::None;
        if let Some(body) = compress(&batch[BATCH_HEADER_BYTES..], self.compression) {
            compression = self.compression;
            // A new vector, because the old one would keep the uncompressed body's memory for as long as the batch
            // waits.
            batch = Vec::with_capacity(BATCH_HEADER_BYTES + body.len());
            batch.resize(BATCH_HEADER_BYTES, 0);
            batch.extend_from_slice(&body);
        }
        let header = BatchHeader {
            record_count: self.count,
            compression,
            body_bytes: (batch.len() - BATCH_HEADER_BYTES) as u32,
            uncompressed_bytes: uncompressed_bytes as u32,
            base_timestamp_ms: self.base_timestamp_ms,
            max_timestamp_ms: self.max_timestamp_ms,
            producer,
            leader: LeaderStamp {
                base_offset: 0,
                base_position: 0,
                epoch: Epoch(0),
                append_time_ms: 0,
            },
        };
        write_producer_part(&mut batch, &header)?;
        Ok(batch)
    }
}

/// Bytes of key, value and headers, within the limits of one record.
fn payload_bytes(
    key: Option<&[u8]>,
    value: &[u8],
    headers: &[(String, Bytes)],
) -> Result<usize, BatchError> {
    if headers.len() > RECORD_HEADERS_MAX {
        return Err(BatchError::RecordHeaders {
            actual: headers.len() as u64,
        });
    }
    let mut bytes = key.map_or(0, <[u8]>::len) + value.len();
    for (name, value) in headers {
        if name.len() > HEADER_NAME_BYTES_MAX {
            return Err(BatchError::HeaderNameBytes {
                actual: name.len() as u64,
            });
        }
        bytes += name.len() + value.len();
    }
    if bytes > RECORD_BYTES_MAX {
        return Err(BatchError::RecordBytes {
            actual: bytes as u64,
        });
    }
    Ok(bytes)
}
