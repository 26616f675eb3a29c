use super::compression::{Compression, decompress};
use super::error::BatchError;
use super::header::{BATCH_HEADER_BYTES, BatchHeader, verify_producer};
use super::varint::{take, unzigzag};
use bytes::Bytes;
use mesh_ring::ids::Offset;
use mesh_ring::limits::{HEADER_NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX};

/// One message of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The key, which may be empty and is not the same as none.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Bytes,
    /// Names and values in the producer's order; names may repeat.
    pub headers: Vec<(String, Bytes)>,
    /// When it was made by the producer's clock, in unix ms.
    pub timestamp_ms: i64,
}

/// Checks everything about a batch that a producer sent: header, checksum, that the body decompresses to the stated
/// length, and every record. What passes is read back without error by [`records`].
///
/// Allocates nothing for a body that is not compressed, and otherwise the stated length, which is within the limits.
///
/// # Errors
/// Says what is wrong first.
pub fn validate(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = verify_producer(batch)?;
    let stored = &batch[BATCH_HEADER_BYTES..];
    if header.compression == Compression::None {
        walk(stored, &header)?;
    } else {
        walk(
            &decompress(
                stored,
                header.compression,
                header.uncompressed_bytes as usize,
            )?,
            &header,
        )?;
    }
    Ok(header)
}

fn walk(mut body: &[u8], header: &BatchHeader) -> Result<(), BatchError> {
    let mut max_timestamp_ms = i64::MIN;
    for number in 0..header.record_count {
        let record = RecordRef::take(&mut body, header.base_timestamp_ms)?;
        if number == 0 && record.timestamp_ms != header.base_timestamp_ms {
            return Err(BatchError::Malformed("first timestamp is not the header's"));
        }
        max_timestamp_ms = max_timestamp_ms.max(record.timestamp_ms);
        for entry in record.headers() {
            entry?;
        }
    }
    check_end(body)?;
    if max_timestamp_ms != header.max_timestamp_ms {
        return Err(BatchError::Malformed(
            "highest timestamp is not the header's",
        ));
    }
    Ok(())
}

fn check_end(body: &[u8]) -> Result<(), BatchError> {
    if body.is_empty() {
        Ok(())
    } else {
        Err(BatchError::Malformed("body goes on after its last record"))
    }
}

/// The records of one whole batch with their offsets, in order.
///
/// Checks no checksum: see [`super::verify_stored`]. Keys and values are slices of `batch`, or of one decompressed copy
/// of its body, and keep that alive.
///
/// # Errors
/// If the header is malformed or the body does not decompress to the stated length.
pub fn records(batch: &Bytes) -> Result<Records, BatchError> {
    let header = BatchHeader::decode(batch)?;
    let stored = batch.slice(BATCH_HEADER_BYTES..);
    let body = if header.compression == Compression::None {
        stored
    } else {
        Bytes::from(decompress(
            &stored,
            header.compression,
            header.uncompressed_bytes as usize,
        )?)
    };
    Ok(Records {
        header,
        body,
        at: 0,
        taken: 0,
    })
}

/// Iterator over the records of a batch. It ends after an error.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    body: Bytes,
    at: usize,
    taken: u32,
}

impl Records {
    /// The batch's header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    fn take(&mut self) -> Result<Record, BatchError> {
        let mut rest = &self.body[self.at..];
        let record = RecordRef::take(&mut rest, self.header.base_timestamp_ms)?;
        if self.taken + 1 == self.header.record_count {
            check_end(rest)?;
        }
        let mut headers = Vec::with_capacity(record.header_count);
        for entry in record.headers() {
            let (name, value) = entry?;
            headers.push((name.to_owned(), self.body.slice_ref(value)));
        }
        let record = Record {
            key: record.key.map(|key| self.body.slice_ref(key)),
            value: self.body.slice_ref(record.value),
            headers,
            timestamp_ms: record.timestamp_ms,
        };
        self.at = self.body.len() - rest.len();
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<(Offset, Record), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.taken == self.header.record_count {
            return None;
        }
        let offset = self
            .header
            .leader
            .base_offset
            .wrapping_add(u64::from(self.taken));
        let record = self.take();
        self.taken = if record.is_ok() {
            self.taken + 1
        } else {
            self.header.record_count
        };
        Some(record.map(|record| (offset, record)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let rest = (self.header.record_count - self.taken) as usize;
        (rest.min(1), Some(rest))
    }
}

/// A record where it lies in a body, within the limits of one record.
struct RecordRef<'a> {
    key: Option<&'a [u8]>,
    value: &'a [u8],
    header_count: usize,
    headers: &'a [u8],
    timestamp_ms: i64,
}

impl<'a> RecordRef<'a> {
    #[inline]
    fn take(body: &mut &'a [u8], base_timestamp_ms: i64) -> Result<Self, BatchError> {
        let timestamp_ms = base_timestamp_ms.wrapping_add(unzigzag(take(body)?));
        let key = match take(body)? {
            0 => None,
            length => Some(take_bytes(body, length - 1)?),
        };
        let value = take_field(body)?;
        let mut record = Self {
            key,
            value,
            header_count: 0,
            headers: &[],
            timestamp_ms,
        };
        let mut bytes = key.map_or(0, <[u8]>::len) + value.len();
        let header_count = take(body)?;
        if header_count > 0 {
            bytes += record.take_headers(body, header_count)?;
        }
        if bytes > RECORD_BYTES_MAX {
            return Err(BatchError::RecordBytes {
                actual: bytes as u64,
            });
        }
        Ok(record)
    }

    /// Finds where the headers end and says how many bytes their names and values take.
    fn take_headers(&mut self, body: &mut &'a [u8], count: u64) -> Result<usize, BatchError> {
        if count > RECORD_HEADERS_MAX as u64 {
            return Err(BatchError::RecordHeaders { actual: count });
        }
        self.header_count = count as usize;
        self.headers = body;
        let mut bytes = 0;
        for _ in 0..count {
            let name = take_field(body)?;
            if name.len() > HEADER_NAME_BYTES_MAX {
                return Err(BatchError::HeaderNameBytes {
                    actual: name.len() as u64,
                });
            }
            bytes += name.len() + take_field(body)?.len();
        }
        Ok(bytes)
    }

    fn headers(&self) -> impl Iterator<Item = Result<(&'a str, &'a [u8]), BatchError>> + use<'a> {
        let mut rest = self.headers;
        (0..self.header_count).map(move |_| {
            let name = std::str::from_utf8(take_field(&mut rest)?)
                .map_err(|_| BatchError::Malformed("header name is not UTF-8"))?;
            Ok((name, take_field(&mut rest)?))
        })
    }
}

#[inline]
fn take_field<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], BatchError> {
    let length = take(body)?;
    take_bytes(body, length)
}

#[inline]
fn take_bytes<'a>(body: &mut &'a [u8], length: u64) -> Result<&'a [u8], BatchError> {
    if length > body.len() as u64 {
        return Err(BatchError::Malformed("body ends inside a record"));
    }
    let (bytes, rest) = body.split_at(length as usize);
    *body = rest;
    Ok(bytes)
}
