use super::error::BatchError;
use std::fmt;
use std::str::FromStr;

/// zstd's level: above 1 it costs more than a disk or a network saves on messages.
const ZSTD_LEVEL: i32 = 1;

/// How a batch's body is compressed. `none`, `lz4` and `zstd` as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// One LZ4 block.
    Lz4,
    /// Zstandard frames.
    Zstd,
}

/// The text names no compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression {0:?}: none, lz4 or zstd is expected")]
pub struct UnknownCompression(pub String);

impl Compression {
    /// The kind's number in a batch's attributes. Never reused.
    pub(super) fn to_bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    pub(super) fn from_attributes(attributes: u8) -> Result<Self, BatchError> {
        match attributes {
            0 => Ok(Self::None),
            1 => Ok(Self::Lz4),
            2 => Ok(Self::Zstd),
            _ => Err(BatchError::Attributes(attributes)),
        }
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "zstd" => Ok(Self::Zstd),
            _ => Err(UnknownCompression(text.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// The body compressed, or nothing if that makes it no smaller.
pub(super) fn compress(body: &[u8], compression: Compression) -> Option<Vec<u8>> {
    let compressed = match compression {
        Compression::None => return None,
        Compression::Lz4 => lz4_flex::block::compress(body),
        Compression::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).ok()?,
    };
    (compressed.len() < body.len()).then_some(compressed)
}

/// The body of exactly `bytes` bytes that `stored` decompresses to. Takes no more memory than that, whatever `stored`
/// holds.
pub(super) fn decompress(
    stored: &[u8],
    compression: Compression,
    bytes: usize,
) -> Result<Vec<u8>, BatchError> {
    if compression == Compression::None {
        return Ok(stored.to_vec());
    }
    let mut body = vec![0; bytes];
    let length = if compression == Compression::Lz4 {
        lz4_flex::block::decompress_into(stored, &mut body).ok()
    } else {
        zstd::bulk::decompress_to_buffer(stored, &mut body[..]).ok()
    };
    if length == Some(bytes) {
        Ok(body)
    } else {
        Err(BatchError::Malformed(
            "body does not decompress to the length that the header says",
        ))
    }
}
