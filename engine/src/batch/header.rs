use super::compression::Compression;
use super::error::BatchError;
use mesh_ring::command::ProducerStamp;
use mesh_ring::ids::{Epoch, Offset, ProducerId};
use mesh_ring::limits::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX};

/// Bytes of a batch before its body.
pub const BATCH_HEADER_BYTES: usize = 104;
/// The format's version, a batch's first byte.
pub const BATCH_VERSION: u8 = 1;

/// Fewest bytes of a record in a body: timestamp, no key, empty value, no headers.
pub(super) const RECORD_ENCODED_BYTES_MIN: usize = 4;

const PRODUCER_CRC: usize = 60;
const LEADER: usize = 64;
const LEADER_CRC: usize = 100;

/// What the leader adds to a batch when it appends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderStamp {
    /// Offset of the first record; the others follow one by one.
    pub base_offset: Offset,
    /// Bytes of the topic's batches before this one since its creation, trimmed ones included, so that the bytes
    /// between two batches are a subtraction.
    pub base_position: u64,
    /// The epoch in which it was appended.
    pub epoch: Epoch,
    /// When it was appended by the leader's clock, in unix ms. Never lower than the batch before.
    pub append_time_ms: u64,
}

/// The fixed first part of a batch.
///
/// What is said of lengths and counts is within the limits. `leader` means nothing until [`verify_stored`] returned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Records in the batch, at least 1.
    pub record_count: u32,
    /// How the body is compressed.
    pub compression: Compression,
    /// Bytes of the body as stored.
    pub body_bytes: u32,
    /// Bytes of the body uncompressed.
    pub uncompressed_bytes: u32,
    /// Timestamp of the first record by the producer's clock, in unix ms.
    pub base_timestamp_ms: i64,
    /// Highest timestamp of a record by the producer's clock, in unix ms.
    pub max_timestamp_ms: i64,
    /// Who sent it, if that producer is idempotent.
    pub producer: Option<ProducerStamp>,
    /// Where and when it was appended.
    pub leader: LeaderStamp,
}

impl BatchHeader {
    /// Reads the header of `batch`, which must hold the batch and nothing after it.
    ///
    /// Checks version, lengths and limits but no checksum.
    ///
    /// # Errors
    /// Says what is wrong first.
    pub fn decode(batch: &[u8]) -> Result<Self, BatchError> {
        let header = Self::decode_prefix(batch)?;
        if batch.len() != header.batch_bytes() {
            return Err(BatchError::Length {
                expected: header.batch_bytes() as u64,
                actual: batch.len() as u64,
            });
        }
        Ok(header)
    }

    /// Reads the header at the front of `bytes`, whatever follows it, so that a receiver knows how much to expect.
    ///
    /// Checks version, lengths and limits but no checksum.
    ///
    /// # Errors
    /// Says what is wrong first; [`BatchError::Length`] below [`BATCH_HEADER_BYTES`].
    pub fn decode_prefix(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(h) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Length {
                expected: BATCH_HEADER_BYTES as u64,
                actual: bytes.len() as u64,
            });
        };
        if h[0] != BATCH_VERSION {
            return Err(BatchError::Version(h[0]));
        }
        let compression = Compression::from_attributes(h[1])?;
        if h[2..4] != [0; 2] || h[56..60] != [0; 4] {
            return Err(BatchError::Malformed("reserved bytes are not zero"));
        }
        let header = Self {
            record_count: u32_at(h, 4),
            compression,
            body_bytes: u32_at(h, 8),
            uncompressed_bytes: u32_at(h, 12),
            base_timestamp_ms: u64_at(h, 16) as i64,
            max_timestamp_ms: u64_at(h, 24) as i64,
            producer: producer_of(h)?,
            leader: LeaderStamp {
                base_offset: u64_at(h, 64),
                base_position: u64_at(h, 72),
                epoch: Epoch(u64_at(h, 80)),
                append_time_ms: u64_at(h, 88),
            },
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.record_count == 0 {
            return Err(BatchError::Empty);
        }
        if self.record_count > BATCH_RECORDS_MAX {
            return Err(BatchError::BatchRecords {
                actual: u64::from(self.record_count),
            });
        }
        let body = u64::from(self.body_bytes.max(self.uncompressed_bytes));
        if body > (BATCH_BYTES_MAX - BATCH_HEADER_BYTES) as u64 {
            return Err(BatchError::BatchBytes {
                actual: BATCH_HEADER_BYTES as u64 + body,
            });
        }
        if self.compression == Compression::None && self.body_bytes != self.uncompressed_bytes {
            return Err(BatchError::Malformed(
                "two lengths of a body that is not compressed",
            ));
        }
        if (self.uncompressed_bytes as usize)
            < self.record_count as usize * RECORD_ENCODED_BYTES_MIN
        {
            return Err(BatchError::Malformed("body is too short for its records"));
        }
        if self.max_timestamp_ms < self.base_timestamp_ms {
            return Err(BatchError::Malformed(
                "highest timestamp is lower than the first",
            ));
        }
        Ok(())
    }

    /// Bytes of the whole batch as stored.
    #[must_use]
    pub fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body_bytes as usize
    }

    /// Offset after the batch's last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.leader
            .base_offset
            .saturating_add(u64::from(self.record_count))
    }

    /// Offset of the batch's last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.leader
            .base_offset
            .saturating_add(u64::from(self.record_count) - 1)
    }

    /// Bytes of the topic's batches up to and with this one since its creation.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.leader
            .base_position
            .saturating_add(self.batch_bytes() as u64)
    }
}

fn producer_of(h: &[u8; BATCH_HEADER_BYTES]) -> Result<Option<ProducerStamp>, BatchError> {
    let mut id = [0; 16];
    id.copy_from_slice(&h[32..48]);
    let (epoch, sequence) = (u32_at(h, 48), u32_at(h, 52));
    if id != [0; 16] {
        return Ok(Some(ProducerStamp {
            id: ProducerId(id),
            epoch,
            sequence,
        }));
    }
    if (epoch, sequence) != (0, 0) {
        return Err(BatchError::Malformed("a sequence without a producer"));
    }
    Ok(None)
}

/// Writes the producer part before a body that is complete.
pub(super) fn write_producer_part(
    batch: &mut [u8],
    header: &BatchHeader,
) -> Result<(), BatchError> {
    batch[0] = BATCH_VERSION;
    batch[1] = header.compression.to_bits();
    batch[4..8].copy_from_slice(&header.record_count.to_le_bytes());
    batch[8..12].copy_from_slice(&header.body_bytes.to_le_bytes());
    batch[12..16].copy_from_slice(&header.uncompressed_bytes.to_le_bytes());
    batch[16..24].copy_from_slice(&header.base_timestamp_ms.to_le_bytes());
    batch[24..32].copy_from_slice(&header.max_timestamp_ms.to_le_bytes());
    if let Some(producer) = header.producer {
        write_producer(batch, producer)?;
    }
    let crc = producer_crc(batch);
    batch[PRODUCER_CRC..LEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

fn write_producer(batch: &mut [u8], producer: ProducerStamp) -> Result<(), BatchError> {
    if producer.id.0 == [0; 16] {
        return Err(BatchError::Malformed("producer id is zero"));
    }
    batch[32..48].copy_from_slice(&producer.id.0);
    batch[48..52].copy_from_slice(&producer.epoch.to_le_bytes());
    batch[52..56].copy_from_slice(&producer.sequence.to_le_bytes());
    Ok(())
}

/// Gives a finished batch another producer stamp, to send it anew after a refusal.
///
/// The checksum is carried over and not computed from the body, so that damage done to it meanwhile stays detectable.
///
/// # Errors
/// If `batch` is not one whole batch or the producer's id is zero.
pub fn set_producer(batch: &mut [u8], producer: ProducerStamp) -> Result<(), BatchError> {
    let body_bytes = BatchHeader::decode(batch)?.body_bytes as usize;
    let before = crc32c::crc32c(&batch[..PRODUCER_CRC]);
    write_producer(batch, producer)?;
    let change = before ^ crc32c::crc32c(&batch[..PRODUCER_CRC]);
    let crc = u32_at(batch, PRODUCER_CRC) ^ crc32c::crc32c_combine(change, 0, body_bytes);
    batch[PRODUCER_CRC..LEADER].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Writes the leader part of a verified batch, over any that it has.
///
/// # Errors
/// If `batch` is not one whole batch, or offset or position would pass 2^64.
pub fn stamp(batch: &mut [u8], leader: LeaderStamp) -> Result<(), BatchError> {
    let header = BatchHeader {
        leader,
        ..BatchHeader::decode(batch)?
    };
    check_leader(&header)?;
    batch[64..72].copy_from_slice(&leader.base_offset.to_le_bytes());
    batch[72..80].copy_from_slice(&leader.base_position.to_le_bytes());
    batch[80..88].copy_from_slice(&leader.epoch.0.to_le_bytes());
    batch[88..96].copy_from_slice(&leader.append_time_ms.to_le_bytes());
    batch[96..100].fill(0);
    let crc = crc32c::crc32c(&batch[PRODUCER_CRC..LEADER_CRC]);
    batch[LEADER_CRC..BATCH_HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Reads the header of one whole batch and checks the producer's checksum. [`super::validate`] checks also what was
/// encoded.
///
/// # Errors
/// Says what is wrong first; [`BatchError::Checksum`] if only that is.
pub fn verify_producer(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::decode(batch)?;
    let (stored, computed) = (u32_at(batch, PRODUCER_CRC), producer_crc(batch));
    if stored != computed {
        return Err(BatchError::Checksum {
            part: "batch",
            stored,
            computed,
        });
    }
    Ok(header)
}

/// Reads the header of one whole stamped batch and checks both checksums: whatever bit was changed since, it is found.
///
/// # Errors
/// Says what is wrong first; [`BatchError::Checksum`] if only that is.
pub fn verify_stored(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::decode(batch)?;
    let computed = crc32c::crc32c(&batch[PRODUCER_CRC..LEADER_CRC]);
    let stored = u32_at(batch, LEADER_CRC);
    if stored != computed {
        return Err(BatchError::Checksum {
            part: "stamp",
            stored,
            computed,
        });
    }
    if batch[96..100] != [0; 4] {
        return Err(BatchError::Malformed("reserved bytes are not zero"));
    }
    check_leader(&header)?;
    verify_producer(batch)
}

fn check_leader(header: &BatchHeader) -> Result<(), BatchError> {
    let LeaderStamp {
        base_offset,
        base_position,
        ..
    } = header.leader;
    if base_offset
        .checked_add(u64::from(header.record_count))
        .is_none()
    {
        return Err(BatchError::Malformed("offsets pass 2^64"));
    }
    if base_position
        .checked_add(header.batch_bytes() as u64)
        .is_none()
    {
        return Err(BatchError::Malformed("position passes 2^64"));
    }
    Ok(())
}

fn producer_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c(&batch[..PRODUCER_CRC]),
        &batch[BATCH_HEADER_BYTES..],
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut le = [0; 4];
    le.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(le)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(le)
}
