//! What the `replicas` family says of a partition beside its epochs.

use mesh_ring::ids::{Epoch, Index};
use mesh_ring::ledger::Checkpointed;
use mesh_ring::replica::Position;

use crate::codec::{CodecError, take_u8, take_u64};

const SUSPECT: u8 = 1;
const INCOMPLETE: u8 = 2;

/// Bytes of an encoded record.
pub(crate) const RECORD_BYTES: usize = 33;

/// What must not be forgotten of a replica. It is written with every change of the journal, and with every batch that
/// applies commands: everything up to `commit` is applied, nothing after it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The disk did not come back whole, and no leader has caught the replica up since.
    pub(crate) suspect: bool,
    /// A copy of the partition has begun to come in and is not complete. Until it is, `before` and `commit` are those of
    /// [`Record::left`].
    pub(crate) incomplete: bool,
    /// The highest epoch promised.
    pub(crate) promised: Epoch,
    /// The first entry that is kept, or will be.
    pub(crate) first: Index,
    /// The epoch of the entry before that.
    pub(crate) before: Epoch,
    /// How far the journal is known to be committed, and is applied.
    pub(crate) commit: Index,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            suspect: false,
            incomplete: false,
            promised: Epoch(0),
            first: Index(1),
            before: Epoch(0),
            commit: Index(0),
        }
    }
}

impl Record {
    /// The last entry of the journal that went to make room for the copy that comes.
    pub(crate) fn left(&self) -> Position {
        Position {
            epoch: self.before,
            index: self.commit,
        }
    }

    /// flags u8 (1: suspect, 2: incomplete) | promised u64 BE | first u64 BE | epoch before it u64 BE | commit u64 BE.
    pub(crate) fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[0] =
            if self.suspect { SUSPECT } else { 0 } | if self.incomplete { INCOMPLETE } else { 0 };
        let numbers = [self.promised.0, self.first.0, self.before.0, self.commit.0];
        for (at, number) in out[1..].chunks_exact_mut(8).zip(numbers) {
            at.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<Record, CodecError> {
        let from = &mut from;
        let flags = take_u8(from)?;
        if flags & !(SUSPECT | INCOMPLETE) != 0 {
            return Err(CodecError::Unknown("replica flags", flags.into()));
        }
        let record = Record {
            suspect: flags & SUSPECT != 0,
            incomplete: flags & INCOMPLETE != 0,
            promised: Epoch(take_u64(from)?),
            first: Index(take_u64(from)?),
            before: Epoch(take_u64(from)?),
            commit: Index(take_u64(from)?),
        };
        if !from.is_empty() {
            return Err(CodecError::Long);
        }
        if record.first.0 == 0 {
            return Err(CodecError::Unknown("first index", 0));
        }
        Ok(record)
    }
}

/// upto u64 BE | forgotten before u64 BE, unix milliseconds.
pub(crate) fn encode_checkpoint(checkpointed: Checkpointed) -> [u8; 16] {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&checkpointed.upto.0.to_be_bytes());
    out[8..].copy_from_slice(&checkpointed.forgotten_before_ms.to_be_bytes());
    out
}

pub(crate) fn decode_checkpoint(mut from: &[u8]) -> Result<Checkpointed, CodecError> {
    let from = &mut from;
    let checkpointed = Checkpointed {
        upto: Index(take_u64(from)?),
        forgotten_before_ms: take_u64(from)?,
    };
    if from.is_empty() {
        Ok(checkpointed)
    } else {
        Err(CodecError::Long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn record_bytes() {
        let record = Record {
            suspect: true,
            incomplete: true,
            promised: Epoch(1),
            first: Index(2),
            before: Epoch(3),
            commit: Index(4),
        };
        assert_eq!(
            record.encode(),
            [
                3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0,
                0, 0, 0, 0, 4
            ]
        );
        let encoded = Record::default().encode();
        assert_eq!((encoded[0], encoded[16]), (0, 1));
        assert_eq!(
            Record::decode(&[0; RECORD_BYTES]),
            Err(CodecError::Unknown("first index", 0))
        );
    }

    #[test]
    fn checkpoint_bytes() {
        let checkpointed = Checkpointed {
            upto: Index(1),
            forgotten_before_ms: 2,
        };
        let bytes = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(encode_checkpoint(checkpointed), bytes);
        assert_eq!(decode_checkpoint(&bytes), Ok(checkpointed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(record) = Record::decode(&bytes) {
                prop_assert_eq!(record.encode().to_vec(), bytes.clone());
            }
            if let Ok(checkpointed) = decode_checkpoint(&bytes) {
                prop_assert_eq!(encode_checkpoint(checkpointed).to_vec(), bytes);
            }
        }
    }
}
