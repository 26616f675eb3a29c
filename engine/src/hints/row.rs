//! A hint as it is stored.

use bytes::Buf;
use mesh_ring::ids::NodeId;

use crate::codec::{CodecError, put_bytes, take_bytes, take_u8, take_u64};

const VERSION: u8 = 1;

/// The value of a hint. Key and binding are not checked here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HintRow<'a> {
    pub(crate) home: NodeId,
    pub(crate) oldest_ms: u64,
    pub(crate) key: &'a [u8],
    pub(crate) binding: &'a [u8],
}

impl<'a> HintRow<'a> {
    /// version u8 | home node | oldest version's unix ms u64 BE | key length u32 BE, key | binding length u32 BE, binding.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(33 + self.key.len() + self.binding.len());
        out.push(VERSION);
        out.extend_from_slice(&self.home.0);
        out.extend_from_slice(&self.oldest_ms.to_be_bytes());
        put_bytes(&mut out, self.key);
        put_bytes(&mut out, self.binding);
        out
    }

    pub(crate) fn decode(mut from: &'a [u8]) -> Result<HintRow<'a>, CodecError> {
        let from = &mut from;
        match take_u8(from)? {
            VERSION => {}
            other => return Err(CodecError::Unknown("version of a hint", other.into())),
        }
        let mut home = [0; 16];
        from.try_copy_to_slice(&mut home)
            .map_err(|_| CodecError::Short)?;
        let row = HintRow {
            home: NodeId(home),
            oldest_ms: take_u64(from)?,
            key: take_bytes(from)?,
            binding: take_bytes(from)?,
        };
        if from.is_empty() {
            Ok(row)
        } else {
            Err(CodecError::Long)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hint_row_bytes() {
        let row = HintRow {
            home: NodeId([9; 16]),
            oldest_ms: 5,
            key: b"k",
            binding: b"vw",
        };
        let bytes = row.encode();
        assert_eq!(bytes[..17], [&[1][..], &[9; 16]].concat());
        assert_eq!(
            bytes[17..],
            [
                0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 1, b'k', 0, 0, 0, 2, b'v', b'w'
            ]
        );
        assert_eq!(HintRow::decode(&bytes), Ok(row));
        assert_eq!(
            HintRow::decode(&bytes[..bytes.len() - 1]),
            Err(CodecError::Short)
        );
        assert_eq!(
            HintRow::decode(&[&bytes[..], &[0]].concat()),
            Err(CodecError::Long)
        );
        assert_eq!(
            HintRow::decode(&[2; 40]),
            Err(CodecError::Unknown("version of a hint", 2))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(row) = HintRow::decode(&bytes) {
                prop_assert_eq!(row.encode(), bytes);
            }
        }
    }
}
