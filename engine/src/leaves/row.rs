//! Rows of the `merkle` family: pages of sums, and what a group changed of sums and of the keys under leaves.

use bytes::Buf;
use mesh_ring::ids::PartitionId;
use mesh_ring::merkle::{FANOUT, LeafId, LeafSum, MERKLE_LEAVES};

use crate::codec::{CodecError, take_u8};

/// Leaves whose sums lie in one page: those under one node of the tree.
pub(super) const PAGE_LEAVES: usize = FANOUT;

const SUM_BYTES: usize = 32;
pub(super) const PAGE_BYTES: usize = PAGE_LEAVES * SUM_BYTES;

// Persisted: a number is never used again for something else.
const WIPED: u8 = 1;
const SUM: u8 = 2;
const BOUND: u8 = 3;
const GONE: u8 = 4;

/// One change in a row of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// All leaves of the partition are empty.
    Wiped(PartitionId),
    /// The leaf has this sum.
    Sum(PartitionId, LeafId, LeafSum),
    /// A binding with this key lies under the leaf.
    Bound(PartitionId, LeafId, &'a [u8]),
    /// None does any more.
    Gone(PartitionId, LeafId, &'a [u8]),
}

impl Entry<'_> {
    /// kind u8 (1 wiped, 2 sum, 3 bound, 4 gone) | partition u16 BE | but for 1: leaf u16 BE | for 2: sum, 32 bytes BE |
    /// for 3 and 4: length u16 BE, key.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let head = |out: &mut Vec<u8>, kind: u8, partition: PartitionId, leaf: LeafId| {
            let ([p, q], [l, m]) = (partition.0.to_be_bytes(), leaf.0.to_be_bytes());
            out.extend_from_slice(&[kind, p, q, l, m]);
        };
        match self {
            Entry::Wiped(partition) => {
                out.push(WIPED);
                out.extend_from_slice(&partition.0.to_be_bytes());
            }
            Entry::Sum(partition, leaf, sum) => {
                head(out, SUM, *partition, *leaf);
                out.extend_from_slice(&sum.to_bytes());
            }
            Entry::Bound(partition, leaf, key) | Entry::Gone(partition, leaf, key) => {
                let kind = match self {
                    Entry::Bound(..) => BOUND,
                    _ => GONE,
                };
                head(out, kind, *partition, *leaf);
                // Keys of bindings have far fewer bytes.
                let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(key);
            }
        }
    }
}

impl<'a> Entry<'a> {
    fn take(from: &mut &'a [u8]) -> Result<Entry<'a>, CodecError> {
        let kind = take_u8(from)?;
        let partition = PartitionId(take_u16(from)?);
        if kind == WIPED {
            return Ok(Entry::Wiped(partition));
        }
        let leaf = LeafId(take_u16(from)?);
        if leaf.0 >= MERKLE_LEAVES {
            return Err(CodecError::Unknown("leaf", leaf.0.into()));
        }
        match kind {
            SUM => {
                let (sum, rest) = from.split_first_chunk().ok_or(CodecError::Short)?;
                *from = rest;
                Ok(Entry::Sum(partition, leaf, LeafSum::from_bytes(*sum)))
            }
            BOUND | GONE => {
                let length = take_u16(from)?;
                let (key, rest) = from
                    .split_at_checked(length.into())
                    .ok_or(CodecError::Short)?;
                *from = rest;
                Ok(match kind {
                    BOUND => Entry::Bound(partition, leaf, key),
                    _ => Entry::Gone(partition, leaf, key),
                })
            }
            other => Err(CodecError::Unknown("kind of change", other.into())),
        }
    }
}

fn take_u16(from: &mut &[u8]) -> Result<u16, CodecError> {
    from.try_get_u16().map_err(|_| CodecError::Short)
}

/// The entries of a row of changes, in their order, each with its bytes. Ends behind the first that cannot be read.
pub(crate) fn entries(row: &[u8]) -> impl Iterator<Item = Result<(Entry<'_>, &[u8]), CodecError>> {
    let mut rest = row;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let before = rest;
        let entry = Entry::take(&mut rest);
        if entry.is_err() {
            rest = &[];
        }
        let bytes = &before[..before.len() - rest.len()];
        Some(entry.map(|entry| (entry, bytes)))
    })
}

/// The sums of a page, one after the other, 32 bytes BE each.
pub(super) fn encode_page(sums: &[LeafSum]) -> Vec<u8> {
    sums.iter().flat_map(|sum| sum.to_bytes()).collect()
}

pub(crate) fn decode_page(value: &[u8]) -> Result<[LeafSum; PAGE_LEAVES], CodecError> {
    let (sums, rest) = value.as_chunks::<SUM_BYTES>();
    if sums.len() < PAGE_LEAVES {
        return Err(CodecError::Short);
    }
    if sums.len() > PAGE_LEAVES || !rest.is_empty() {
        return Err(CodecError::Long);
    }
    let mut page = [LeafSum::ZERO; PAGE_LEAVES];
    for (to, from) in page.iter_mut().zip(sums) {
        *to = LeafSum::from_bytes(*from);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: PartitionId = PartitionId(0x0102);

    fn read(row: &[u8]) -> Result<Vec<Entry<'_>>, CodecError> {
        entries(row)
            .map(|entry| entry.map(|(entry, _)| entry))
            .collect()
    }

    #[test]
    fn entry_bytes() {
        let sum = LeafSum([5, 0, 0, 0x0700_0000_0000_0000]);
        let all = [
            Entry::Wiped(P),
            Entry::Sum(P, LeafId(0x0304), sum),
            Entry::Bound(P, LeafId(1), b"k"),
            Entry::Gone(P, LeafId(1), b"kk"),
        ];
        let mut row = Vec::new();
        all.iter().for_each(|entry| entry.put(&mut row));
        let mut expected = vec![1, 1, 2, 2, 1, 2, 3, 4, 7];
        expected.extend([0; 30]);
        expected.push(5);
        expected.extend([3, 1, 2, 0, 1, 0, 1, b'k', 4, 1, 2, 0, 1, 0, 2, b'k', b'k']);
        assert_eq!(row, expected);
        assert_eq!(read(&row).as_deref(), Ok(&all[..]));
        assert_eq!(read(&row[..row.len() - 1]), Err(CodecError::Short));
        assert_eq!(
            read(&[9, 0, 0, 0, 0]),
            Err(CodecError::Unknown("kind of change", 9))
        );
        assert_eq!(
            read(&[3, 0, 0, 0x10, 0, 0, 0]),
            Err(CodecError::Unknown("leaf", 0x1000))
        );
        assert_eq!(
            entries(&row)
                .flatten()
                .map(|(_, bytes)| bytes.len())
                .sum::<usize>(),
            row.len()
        );
    }

    #[test]
    fn page_bytes() {
        let mut sums = [LeafSum::ZERO; PAGE_LEAVES];
        sums[1] = LeafSum([9, 0, 0, 0]);
        let mut expected = vec![0; 512];
        expected[63] = 9;
        assert_eq!(encode_page(&sums), expected);
        assert_eq!(decode_page(&expected), Ok(sums));
        assert_eq!(decode_page(&expected[1..]), Err(CodecError::Short));
        expected.push(0);
        assert_eq!(decode_page(&expected), Err(CodecError::Long));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(row in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: Result<Vec<_>, _> = entries(&row).collect();
            if let Ok(read) = read {
                let mut again = Vec::new();
                read.iter().for_each(|(entry, _)| entry.put(&mut again));
                prop_assert_eq!(again, row);
            }
        }
    }
}
