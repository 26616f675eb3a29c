//! How often the store was opened, and a random token of each opening: what an old copy of a disk cannot know.
//!
//! A node registers its present boot before it takes part in anything, and presents the earlier ones. The cluster takes
//! it if the boot that it knows is among them. A copy of the disk from before that boot has another token for it, or none.

use std::fs::File;
use std::io::{self, Read};

use bytes::Buf;

use crate::codec::{CodecError, take_u32};

/// Openings that are remembered: more than a node makes in a row without once reaching its cluster.
const BOOTS_KEPT: usize = 256;

/// One opening of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// How often the store was opened until then, that time included.
    pub count: u32,
    /// Random bytes that were drawn then.
    pub token: [u8; 16],
}

/// Every opening that is remembered, the present one last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Boots(pub(crate) Vec<Boot>);

impl Boots {
    pub(crate) fn push(&mut self, boot: Boot) {
        self.0.push(boot);
        let old = self.0.len().saturating_sub(BOOTS_KEPT);
        self.0.drain(..old);
    }

    /// For each, the oldest first: count u32 BE | token.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(20 * self.0.len());
        for boot in &self.0 {
            out.extend_from_slice(&boot.count.to_be_bytes());
            out.extend_from_slice(&boot.token);
        }
        out
    }

    pub(crate) fn decode(mut from: &[u8]) -> Result<Boots, CodecError> {
        let from = &mut from;
        let mut boots = Boots::default();
        while !from.is_empty() {
            let count = take_u32(from)?;
            let mut token = [0; 16];
            from.try_copy_to_slice(&mut token)
                .map_err(|_| CodecError::Short)?;
            boots.0.push(Boot { count, token });
        }
        Ok(boots)
    }
}

/// Random bytes from the system.
pub(crate) fn draw_token() -> io::Result<[u8; 16]> {
    let mut token = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn boots_bytes() {
        let boots = Boots(vec![Boot {
            count: 2,
            token: [9; 16],
        }]);
        let bytes = [0, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
        assert_eq!(boots.encode(), bytes);
        assert_eq!(Boots::decode(&bytes), Ok(boots));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut boots = Boots::default();
        for count in 1..=300 {
            boots.push(Boot {
                count,
                token: [0; 16],
            });
        }
        assert_eq!((boots.0.len(), boots.0[0].count), (BOOTS_KEPT, 45));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(boots) = Boots::decode(&bytes) {
                prop_assert_eq!(boots.encode(), bytes);
            }
        }
    }
}
