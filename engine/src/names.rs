//! Under which name this node writes bindings of a partition: see [`mesh_ring::quorum::actor`].
//!
//! Whatever makes this node forget a write of its own (an old copy that is removed, a hint that was delivered, a row that
//! cannot be read any more) is noted in its batch; the next write then goes under a new name, in the batch that has it. A
//! start that does not follow a clean stop makes a new name for all partitions: what was under way may have reached others.

use mesh_ring::ids::PartitionId;

use crate::codec::{CodecError, take_u8, take_u32};
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::store::Store;

/// The name that is in use in a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    /// How often something was forgotten before a write.
    pub(crate) forgotten: u32,
    /// Whether anything that was written under it may have been forgotten.
    pub(crate) forgot: bool,
}

impl Generation {
    /// forgotten u32 BE | forgot u8.
    pub(crate) fn encode(self) -> [u8; 5] {
        let mut out = [0; 5];
        out[..4].copy_from_slice(&self.forgotten.to_be_bytes());
        out[4] = self.forgot.into();
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<Generation, CodecError> {
        let from = &mut from;
        let forgotten = take_u32(from)?;
        let forgot = match take_u8(from)? {
            0 => false,
            1 => true,
            other => return Err(CodecError::Unknown("forgot", other.into())),
        };
        match from.is_empty() {
            true => Ok(Generation { forgotten, forgot }),
            false => Err(CodecError::Long),
        }
    }

    pub(crate) fn load(store: &Store, partition: PartitionId) -> Result<Generation, ReadError> {
        match store.get(family::META, &keys::generation_key(partition))? {
            None => Ok(Generation::default()),
            Some(value) => Generation::decode(&value)
                .map_err(|error| undecodable("the generation of a partition's writes", &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_bytes() {
        let generation = Generation {
            forgotten: 0x0102_0304,
            forgot: true,
        };
        assert_eq!(generation.encode(), [1, 2, 3, 4, 1]);
        assert_eq!(Generation::decode(&[1, 2, 3, 4, 1]), Ok(generation));
        assert_eq!(Generation::decode(&[1, 2, 3, 4]), Err(CodecError::Short));
        assert_eq!(Generation::decode(&[0; 6]), Err(CodecError::Long));
        assert_eq!(
            Generation::decode(&[0, 0, 0, 0, 2]),
            Err(CodecError::Unknown("forgot", 2))
        );
    }
}
