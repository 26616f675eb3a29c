//! What is kept of fences on the disk: rows of the engine's `control` family.
//!
//! | key | value |
//! |---|---|
//! | 8, partition u16 BE | version u8, fence u64 BE, version of the map u64 BE |
//! | 9 | version u8, the first version of the map in which this node is registered, u64 BE |
//! | 10, partition u16 BE | version u8, the fence under which this node looked last, u64 BE, 1 where the disk has lost its end since, else 0, u8 |

use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use mesh_engine::{Engine, ReadError, RowChange, Stopped};
use mesh_ring::ids::PartitionId;

use super::fences::{Fences, Kept, Looked};

const FENCE: u8 = 8;
const SINCE: u8 = 9;
const LOOKED: u8 = 10;
const VERSION: u8 = 1;

/// Reads them all. Where the disk did not come back whole, that is noted first. Blocks.
///
/// # Errors
/// A row cannot be read or written, or is of another release: without its fences this node could bring back what was deleted.
pub(in crate::node) fn load(engine: &Engine) -> Result<Fences, ReadError> {
    let mut kept = Vec::new();
    for partition in (0..engine.identity().partitions).map(PartitionId) {
        let fence = match engine.row(&fence_key(partition))? {
            None => Kept::default(),
            Some(value) => parse_fence(&value).ok_or_else(|| unknown(&value))?,
        };
        let looked = match engine.row(&looked_key(partition))? {
            None => Looked::default(),
            Some(value) => parse_looked(&value).ok_or_else(|| unknown(&value))?,
        };
        kept.push((fence, looked));
    }
    if engine.found_damage().is_some() {
        let suspected = suspect_all(engine, &mut kept);
        suspected.map_err(|stopped| ReadError::Store(stopped.to_string()))?;
    }
    let since = match engine.row(&[SINCE])? {
        None => None,
        Some(value) => Some(parse_since(&value).ok_or_else(|| unknown(&value))?),
    };
    Ok(Fences::new(kept, since))
}

fn suspect_all(engine: &Engine, kept: &mut [(Kept, Looked)]) -> Result<(), Stopped> {
    let rows = (0..).map(PartitionId).zip(kept).map(|(partition, kept)| {
        kept.1.is_suspect = true;
        looked_row(partition, kept.1)
    });
    let (done, written) = sync_channel(1);
    engine.submit_rows(rows.collect(), move |result| {
        let _ = done.send(result);
    });
    written.recv().unwrap_or_else(|_| {
        Err(Stopped {
            cause: "the store is closing".into(),
        })
    })
}

fn unknown(value: &[u8]) -> ReadError {
    ReadError::Store(format!(
        "a fence of tombstones is not what this release writes ({value:02x?}): use the release that wrote it"
    ))
}

pub(super) fn fence_row(partition: PartitionId, kept: Kept) -> RowChange {
    let value = [
        &[VERSION],
        &kept.fence.to_be_bytes()[..],
        &kept.map_version.to_be_bytes(),
    ];
    RowChange::Put {
        key: fence_key(partition),
        value: value.concat(),
    }
}

pub(super) fn looked_row(partition: PartitionId, looked: Looked) -> RowChange {
    let value = [
        &[VERSION],
        &looked.fence.to_be_bytes()[..],
        &[u8::from(looked.is_suspect)],
    ];
    RowChange::Put {
        key: looked_key(partition),
        value: value.concat(),
    }
}

pub(super) fn since_row(map_version: u64) -> RowChange {
    RowChange::Put {
        key: vec![SINCE],
        value: [&[VERSION], &map_version.to_be_bytes()[..]].concat(),
    }
}

fn fence_key(PartitionId(partition): PartitionId) -> Vec<u8> {
    [&[FENCE], &partition.to_be_bytes()[..]].concat()
}

fn looked_key(PartitionId(partition): PartitionId) -> Vec<u8> {
    [&[LOOKED], &partition.to_be_bytes()[..]].concat()
}

fn parse_looked(value: &Bytes) -> Option<Looked> {
    let value: &[u8; 10] = value.as_ref().try_into().ok()?;
    let (version, rest) = value.split_first()?;
    let (fence, suspect) = rest.split_at(8);
    (*version == VERSION && suspect[0] <= 1).then_some(Looked {
        fence: u64::from_be_bytes(fence.try_into().ok()?),
        is_suspect: suspect[0] == 1,
    })
}

fn parse_fence(value: &Bytes) -> Option<Kept> {
    let value: &[u8; 17] = value.as_ref().try_into().ok()?;
    let (version, numbers) = value.split_first()?;
    let (fence, map_version) = numbers.split_at(8);
    (*version == VERSION).then_some(Kept {
        fence: u64::from_be_bytes(fence.try_into().ok()?),
        map_version: u64::from_be_bytes(map_version.try_into().ok()?),
    })
}

fn parse_since(value: &Bytes) -> Option<u64> {
    let value: &[u8; 9] = value.as_ref().try_into().ok()?;
    let (version, number) = value.split_first()?;
    (*version == VERSION).then_some(u64::from_be_bytes(number.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(change: RowChange) -> (Vec<u8>, Bytes) {
        match change {
            RowChange::Put { key, value } => (key, value.into()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn row_bytes() {
        let kept = Kept {
            fence: 3,
            map_version: 258,
        };
        let (key, value) = row(fence_row(PartitionId(258), kept));
        assert_eq!(key, [8, 1, 2]);
        assert_eq!(
            value[..],
            [1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]
        );
        assert_eq!(parse_fence(&value), Some(kept));
        let looked = Looked {
            fence: 3,
            is_suspect: true,
        };
        let (key, value) = row(looked_row(PartitionId(258), looked));
        assert_eq!(key, [10, 1, 2]);
        assert_eq!(value[..], [1, 0, 0, 0, 0, 0, 0, 0, 3, 1]);
        assert_eq!(parse_looked(&value), Some(looked));
        let (key, value) = row(since_row(258));
        assert_eq!(key, [9]);
        assert_eq!(value[..], [1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(parse_since(&value), Some(258));
        for strange in [&[2; 17][..], &[2; 10], &[2; 9], b"short"] {
            let strange = Bytes::from_static(strange);
            assert_eq!((parse_fence(&strange), parse_since(&strange)), (None, None));
            assert_eq!(parse_looked(&strange), None);
        }
    }
}
