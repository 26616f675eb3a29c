//! A partition's copy on its way to another node: what is exported, chunk by chunk, and how it is taken in.
//!
//! `export` reads a partition as of one moment while it goes on being changed; `import` writes it, a chunk a batch, each
//! with how far it has come, so that it goes on after a crash of the receiver. What comes after that moment, the receiver
//! follows from the journal.
//!
//! Another export, of whoever leads then, goes on with what an interrupted import holds: committed records are the same
//! on every replica and never change, so that the log, which travels first, is never sent again. What else there is comes
//! last, and always whole from one export.
//!
//! - `export`: the side that reads; `import`: the side that writes, `check`: what it does not believe;
//! - `progress`: how far an import is; `holding`: what it tells another export to go on from.

mod check;
mod export;
mod holding;
mod import;
mod progress;

use bytes::{Buf, Bytes};
use mesh_ring::ids::{Epoch, Index, PartitionId};

use crate::codec::{CodecError, take_u8, take_u32, take_u64};
use crate::keys::family;

pub(crate) use check::Stale;
pub use export::Export;
pub use holding::{HELD_TOPICS_MAX, Holding};
pub use import::ImportError;
pub(crate) use import::{ReplaceOp, Replacement};
pub use progress::ImportState;

/// Bytes of rows from which on a chunk is full. Only one that holds a single larger row has more.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Families that travel, in the order in which they do, with the numbers that stand for them: on the wire and in the
/// progress of imports, never reused. What is derived from bindings follows from the bindings that are held then.
///
/// The log is first, because only of the log another export sends no more than what is missing.
const TRAVELLING: [(u8, &str); 6] = [
    (LOG, family::LOG),
    (1, family::TOPICS),
    (2, family::PRODUCERS),
    (3, family::CURSORS),
    (4, family::JOURNAL),
    (5, family::BINDINGS),
];

const LOG: u8 = 7;

/// The cursor behind everything.
const END: u8 = 255;

const VERSION: u8 = 1;

/// What an export is a copy of. It comes before the chunks, and is needed again after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportHeader {
    /// Names this export: chunks of another one do not follow its chunks.
    pub id: [u8; 16],
    /// Which partition.
    pub partition: PartitionId,
    /// The copy holds exactly what these entries did: they are committed.
    pub commit: Index,
    /// The first journal entry of the copy.
    pub first: Index,
    /// The epoch of the entry before it.
    pub before: Epoch,
    /// Where epochs begin among the entries up to `commit`, ascending.
    pub epochs: Vec<(Epoch, Index)>,
    /// The [`Holding::token`] of what an import held already: its log rows are not in this export's chunks. `None`: all
    /// rows are.
    pub continues: Option<[u8; 32]>,
}

/// A part of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The cursor behind the chunk before; empty for the first.
    pub after: Vec<u8>,
    /// The cursor behind this one.
    pub upto: Vec<u8>,
    /// Its rows, as they are stored.
    pub rows: Bytes,
    /// blake3 of all the above.
    pub hash: [u8; 32],
}

impl ExportHeader {
    /// version u8 | id | partition u16 BE | commit u64 BE | first u64 BE | epoch before u64 BE | number of epochs u32 BE |
    /// of each: epoch u64 BE, index u64 BE | continues u8 (0, 1) | token, 32 bytes, where it does.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.partition.0.to_be_bytes());
        for number in [self.commit.0, self.first.0, self.before.0] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let count = u32::try_from(self.epochs.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for (epoch, index) in &self.epochs {
            out.extend_from_slice(&epoch.0.to_be_bytes());
            out.extend_from_slice(&index.0.to_be_bytes());
        }
        out.push(self.continues.is_some().into());
        out.extend_from_slice(self.continues.as_ref().map_or(&[][..], |token| &token[..]));
        out
    }

    /// Reads what [`ExportHeader::encode`] wrote.
    ///
    /// # Errors
    /// Any other bytes, and numbers that no journal has.
    pub fn decode(mut from: &[u8]) -> Result<ExportHeader, CodecError> {
        let from = &mut from;
        match take_u8(from)? {
            VERSION => {}
            other => return Err(CodecError::Unknown("export version", other.into())),
        }
        let mut id = [0; 16];
        from.try_copy_to_slice(&mut id)
            .map_err(|_| CodecError::Short)?;
        let partition = from.try_get_u16().map_err(|_| CodecError::Short)?;
        let (commit, first) = (take_u64(from)?, take_u64(from)?);
        let before = take_u64(from)?;
        let count = take_u32(from)? as usize;
        if from.len() < count.saturating_mul(16) {
            return Err(CodecError::Unknown("number of epochs", count as u64));
        }
        let mut epochs = Vec::with_capacity(count);
        for _ in 0..count {
            epochs.push((Epoch(take_u64(from)?), Index(take_u64(from)?)));
        }
        let header = ExportHeader {
            id,
            partition: PartitionId(partition),
            commit: Index(commit),
            first: Index(first),
            before: Epoch(before),
            epochs,
            continues: take_token(from)?,
        };
        if !from.is_empty() {
            return Err(CodecError::Long);
        }
        if header.is_possible() {
            Ok(header)
        } else {
            Err(CodecError::Unknown("first index", first))
        }
    }

    fn is_possible(&self) -> bool {
        let ascends = |pair: &[(Epoch, Index)]| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1;
        let within = |(epoch, index): &(Epoch, Index)| {
            *epoch >= self.before && (self.first..=self.commit).contains(index)
        };
        let has_entries = self.first <= self.commit;
        self.first.0 > 0
            && self.first.0 - 1 <= self.commit.0
            && self.epochs.windows(2).all(ascends)
            && self.epochs.iter().all(within)
            && has_entries == (self.epochs.first().map(|(_, index)| *index) == Some(self.first))
    }
}

fn take_token(from: &mut &[u8]) -> Result<Option<[u8; 32]>, CodecError> {
    match take_u8(from)? {
        0 => Ok(None),
        1 => {
            let mut token = [0; 32];
            from.try_copy_to_slice(&mut token)
                .map_err(|_| CodecError::Short)?;
            Ok(Some(token))
        }
        other => Err(CodecError::Unknown("continuation flag", other.into())),
    }
}

/// Where rows go on behind a cursor: the place of the family in [`TRAVELLING`], and the first key.
fn behind(cursor: &[u8]) -> Result<(usize, Vec<u8>), CodecError> {
    match cursor.split_first() {
        None => Ok((0, Vec::new())),
        Some((&END, [])) => Ok((TRAVELLING.len(), Vec::new())),
        Some((number, key)) => TRAVELLING
            .iter()
            .position(|(known, _)| known == number && !key.is_empty())
            .map(|place| (place, [key, &[0]].concat()))
            .ok_or(CodecError::Unknown("cursor", (*number).into())),
    }
}

fn is_in_log(cursor: &[u8]) -> bool {
    matches!(cursor.first(), None | Some(&LOG))
}

impl Chunk {
    fn new(after: &[u8], upto: Vec<u8>, rows: Bytes) -> Chunk {
        Chunk {
            hash: hash(after, &upto, &rows),
            after: after.to_vec(),
            upto,
            rows,
        }
    }

    /// Whether it is the last of its export.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.upto == [END]
    }

    /// Whether it is the one that ends the log's rows: what comes from it on, another export sends again as a whole.
    #[must_use]
    pub fn leaves_log(&self) -> bool {
        is_in_log(&self.after) && !is_in_log(&self.upto)
    }
}

fn hash(after: &[u8], upto: &[u8], rows: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [after, upto, rows] {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// family u8 | key length u16 BE | value length u32 BE | key | value.
fn put_row(out: &mut Vec<u8>, number: u8, key: &[u8], value: &[u8]) {
    out.push(number);
    out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// A row of a chunk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row<'a> {
    pub(crate) family: &'static str,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// Takes the next row from the front of a chunk's rows.
pub(crate) fn take_row<'a>(from: &mut &'a [u8]) -> Result<Row<'a>, CodecError> {
    let number = take_u8(from)?;
    let (_, family) = TRAVELLING
        .into_iter()
        .find(|(known, _)| *known == number)
        .ok_or(CodecError::Unknown("family", number.into()))?;
    let key_bytes = from.try_get_u16().map_err(|_| CodecError::Short)?;
    let value_bytes = take_u32(from)? as usize;
    let mut take = |bytes: usize| {
        let (taken, rest) = from.split_at_checked(bytes).ok_or(CodecError::Short)?;
        *from = rest;
        Ok(taken)
    };
    let key = take(key_bytes.into())?;
    Ok(Row {
        family,
        key,
        value: take(value_bytes)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> ExportHeader {
        ExportHeader {
            id: [9; 16],
            partition: PartitionId(0x0102),
            commit: Index(5),
            first: Index(4),
            before: Epoch(1),
            epochs: vec![(Epoch(2), Index(4))],
            continues: None,
        }
    }

    #[test]
    fn header_bytes() {
        let bytes = header().encode();
        assert_eq!(bytes[..17], [&[1][..], &[9; 16]].concat());
        assert_eq!(
            bytes[17..],
            [
                1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0,
                0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0
            ]
        );
        assert_eq!(ExportHeader::decode(&bytes), Ok(header()));
        let continued = ExportHeader {
            continues: Some([8; 32]),
            ..header()
        };
        let continued_bytes = continued.encode();
        let flag = bytes.len() - 1;
        assert_eq!(continued_bytes[..flag], bytes[..flag]);
        assert_eq!(continued_bytes[flag..], [&[1][..], &[8; 32]].concat());
        assert_eq!(ExportHeader::decode(&continued_bytes), Ok(continued));
        assert_eq!(
            ExportHeader::decode(&continued_bytes[..flag + 32]),
            Err(CodecError::Short)
        );
        assert_eq!(
            ExportHeader::decode(&[bytes, vec![0]].concat()),
            Err(CodecError::Long)
        );
    }

    #[test]
    fn cursors_are_of_families_that_travel() {
        assert_eq!(behind(&[]), Ok((0, vec![])));
        assert_eq!(behind(&[LOG, 3]), Ok((0, vec![3, 0])));
        assert_eq!(behind(&[5, 3, 4]), Ok((5, vec![3, 4, 0])));
        assert_eq!(behind(&[END]), Ok((6, vec![])));
        for wrong in [&[LOG][..], &[0, 1], &[6, 1], &[8, 1], &[END, 1]] {
            assert!(behind(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn impossible_headers_are_refused() {
        let broken = |change: fn(&mut ExportHeader)| {
            let mut header = header();
            change(&mut header);
            ExportHeader::decode(&header.encode()).is_err()
        };
        assert!(broken(|header| header.first = Index(0)));
        assert!(broken(|header| header.first = Index(7)));
        assert!(broken(|header| header.epochs.clear()));
        assert!(broken(|header| header.epochs.push((Epoch(2), Index(5)))));
        assert!(broken(|header| header.epochs.push((Epoch(3), Index(6)))));
        assert!(broken(|header| header.before = Epoch(3)));
        assert!(!broken(|header| {
            header.first = Index(6);
            header.epochs.clear();
        }));
    }

    #[test]
    fn row_bytes() {
        let mut out = Vec::new();
        put_row(&mut out, 7, b"k", b"vw");
        assert_eq!(out, [7, 0, 1, 0, 0, 0, 2, b'k', b'v', b'w']);
        let mut from = &out[..];
        let row = take_row(&mut from).unwrap();
        let expected = Row {
            family: family::LOG,
            key: b"k",
            value: b"vw",
        };
        assert_eq!((row, from), (expected, &b""[..]));
        assert_eq!(
            take_row(&mut &[8, 0][..]),
            Err(CodecError::Unknown("family", 8))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(header) = ExportHeader::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes.clone());
            }
            let mut from = &bytes[..];
            while take_row(&mut from).is_ok() {}
        }
    }
}
