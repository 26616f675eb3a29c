//! How far an import has come.

use bytes::Buf;
use mesh_ring::ids::{Index, PartitionId};

use super::behind;
use crate::codec::{CodecError, take_u8, take_u64};
use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::undecodable;

const VERSION: u8 = 1;

/// How far an import has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportState {
    /// Names the export that it takes in.
    pub id: [u8; 16],
    /// The cursor behind what has come of that export.
    pub cursor: Vec<u8>,
    /// Bytes of log rows that have come, of this export and of those that it goes on from.
    pub log_bytes: u64,
}

/// The value at [`keys::import_key`]. It is written with every chunk, so that no crash parts it from the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) id: [u8; 16],
    /// No row is of a later entry.
    pub(super) commit: Index,
    pub(super) log_bytes: u64,
    /// Log rows came from other exports too: some may be of records that were trimmed or deleted since.
    pub(super) continued: bool,
    pub(super) cursor: Vec<u8>,
}

impl Progress {
    /// version u8 | id | commit u64 BE | bytes of log rows u64 BE | continued u8 (0, 1) | cursor.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.id);
        out.extend_from_slice(&self.commit.0.to_be_bytes());
        out.extend_from_slice(&self.log_bytes.to_be_bytes());
        out.push(self.continued.into());
        out.extend_from_slice(&self.cursor);
        out
    }

    fn decode(mut from: &[u8]) -> Result<Progress, CodecError> {
        let from = &mut from;
        match take_u8(from)? {
            VERSION => {}
            other => return Err(CodecError::Unknown("import version", other.into())),
        }
        let mut id = [0; 16];
        from.try_copy_to_slice(&mut id)
            .map_err(|_| CodecError::Short)?;
        let (commit, log_bytes) = (Index(take_u64(from)?), take_u64(from)?);
        let continued = match take_u8(from)? {
            0 => false,
            1 => true,
            other => return Err(CodecError::Unknown("continuation flag", other.into())),
        };
        behind(from)?;
        Ok(Progress {
            id,
            commit,
            log_bytes,
            continued,
            cursor: from.to_vec(),
        })
    }

    /// Names what is held. It changes with every row that comes.
    pub(super) fn token(&self) -> [u8; 32] {
        blake3::hash(&self.encode()).into()
    }
}

impl Engine {
    /// How far a copy of the partition has come in; `None` where none is under way, or it is complete.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn import_state(&self, partition: PartitionId) -> Result<Option<ImportState>, ReadError> {
        let progress = self.progress(partition)?;
        Ok(progress.map(|progress| ImportState {
            id: progress.id,
            cursor: progress.cursor,
            log_bytes: progress.log_bytes,
        }))
    }

    pub(super) fn progress(&self, partition: PartitionId) -> Result<Option<Progress>, ReadError> {
        let value = self
            .store()
            .get(family::REPLICAS, &keys::import_key(partition))?;
        value
            .map(|value| {
                Progress::decode(&value)
                    .map_err(|error| undecodable("the progress of an import", &error))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn progress_bytes() {
        let progress = Progress {
            id: [9; 16],
            commit: Index(2),
            log_bytes: 3,
            continued: true,
            cursor: vec![7, 1, 2],
        };
        let bytes = progress.encode();
        assert_eq!(bytes[..17], [&[1][..], &[9; 16]].concat());
        assert_eq!(
            bytes[17..],
            [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 1, 7, 1, 2]
        );
        assert_eq!(Progress::decode(&bytes), Ok(progress.clone()));
        assert_eq!(Progress::decode(&bytes[..33]), Err(CodecError::Short));
        for (at, wrong) in [(0, 2), (33, 2), (34, 0)] {
            let mut broken = bytes.clone();
            broken[at] = wrong;
            assert!(matches!(
                Progress::decode(&broken),
                Err(CodecError::Unknown(..))
            ));
        }
        let further = Progress {
            cursor: vec![7, 1, 3],
            ..progress.clone()
        };
        assert_ne!(further.token(), progress.token());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(progress) = Progress::decode(&bytes) {
                prop_assert_eq!(progress.encode(), bytes);
            }
        }
    }
}
