//! RocksDB's log format: blocks of 32 KiB that each begin with a fragment. A fragment is masked crc32c u32 LE | payload
//! length u16 LE | kind u8 | payload, lies within one block, and its checksum covers kind and payload. Less than a header's
//! room at a block's end is padding. A record is one `Full` fragment, or a `First`, any `Middle`s and a `Last`, of which
//! all but the last reach their block's end. Its payload is a write batch: sequence u64 LE | count u32 LE | ….

/// Bytes of a block; only a file's last one may be shorter.
pub(super) const BLOCK_BYTES: usize = 32 * 1024;
/// Bytes of a fragment before its payload.
pub(super) const HEADER_BYTES: usize = 7;
/// Bytes of a write batch before its operations.
pub(super) const BATCH_HEAD_BYTES: usize = 12;

/// Which part of a record a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Full,
    First,
    Middle,
    Last,
    /// Says that all records of the file are compressed.
    Compressed,
    /// Describes the file, or is of a kind that readers are to pass over.
    About,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Full),
            2 => Some(Self::First),
            3 => Some(Self::Middle),
            4 => Some(Self::Last),
            9 => Some(Self::Compressed),
            // 131 is the recycled form of 130, with a longer header: we never recycle.
            131 => None,
            10 | 128.. => Some(Self::About),
            _ => None,
        }
    }
}

/// A fragment with a right checksum.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    pub(super) kind: Kind,
    pub(super) payload: &'a [u8],
    /// Where it ends in its block.
    pub(super) end: usize,
}

/// The fragment at `at` in `block`, `None` if only padding is left, or why there is none.
pub(super) fn fragment(block: &[u8], at: usize) -> Result<Option<Fragment<'_>>, &'static str> {
    let rest = &block[at..];
    let Some(header) = rest.first_chunk::<HEADER_BYTES>() else {
        let padding = block.len() == BLOCK_BYTES || rest.is_empty();
        return if padding {
            Ok(None)
        } else {
            Err("a record's header is cut off")
        };
    };
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let end = HEADER_BYTES + usize::from(u16::from_le_bytes([l0, l1]));
    if (end, kind) == (HEADER_BYTES, 0) {
        return Err("zeros where a record should begin");
    }
    let kind = Kind::from_byte(kind).ok_or("a record of unknown type")?;
    if end > rest.len() {
        let cut = block.len() < BLOCK_BYTES;
        return Err(if cut {
            "a record is cut off"
        } else {
            "a record is longer than its block"
        });
    }
    if mask(crc32c::crc32c(&rest[HEADER_BYTES - 1..end])) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err("a record's checksum is wrong");
    }
    Ok(Some(Fragment {
        kind,
        payload: &rest[HEADER_BYTES..end],
        end: at + end,
    }))
}

/// RocksDB stores checksums so that data which contains checksums can be checksummed well.
pub(super) fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// First sequence number of a write batch and the next one after it.
pub(super) fn sequences(batch_head: &[u8; BATCH_HEAD_BYTES]) -> (u64, u64) {
    let [s0, s1, s2, s3, s4, s5, s6, s7, c0, c1, c2, c3] = *batch_head;
    let sequence = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
    (
        sequence,
        sequence.saturating_add(u64::from(u32::from_le_bytes([c0, c1, c2, c3]))),
    )
}
