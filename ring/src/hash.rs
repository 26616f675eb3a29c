//! From a key to its partition. Topics hash by their name, bindings by their key.

use std::fmt;

use crate::ids::PartitionId;

/// Where a key lies on the ring: the first 8 bytes of its BLAKE3 hash, as a big-endian number.
///
/// The next 8 bytes of the same hash choose the leaf of the Merkle tree, see [`crate::merkle::leaf_of`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The place of a topic's name or a binding's key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(words(key).0)
    }

    /// The partition that this place belongs to, of `partitions` equal arcs. With no partitions at all it is 0.
    #[must_use]
    pub fn partition(self, partitions: u16) -> PartitionId {
        PartitionId(scale(self.0, partitions))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The partition of a topic's name or a binding's key: hash × partitions / 2^64.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u16) -> PartitionId {
    KeyHash::of(key).partition(partitions)
}

/// The first two big-endian words of the key's hash.
pub(crate) fn words(key: &[u8]) -> (u64, u64) {
    let [
        a0,
        a1,
        a2,
        a3,
        a4,
        a5,
        a6,
        a7,
        b0,
        b1,
        b2,
        b3,
        b4,
        b5,
        b6,
        b7,
        ..,
    ] = *blake3::hash(key).as_bytes();
    let first = u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    let second = u64::from_be_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
    (first, second)
}

/// Spreads a word evenly over `0..buckets`; any number of buckets, not only powers of two.
pub(crate) fn scale(word: u64, buckets: u16) -> u16 {
    // Below `buckets`, so that nothing is cut off.
    ((u128::from(word) * u128::from(buckets)) >> 64) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hashes_are_pinned() {
        // BLAKE3 of the empty input and of "abc" are published test vectors.
        assert_eq!(words(b""), (0xaf13_49b9_f5f9_a1a6, 0xa040_4dea_36dc_c949));
        assert_eq!(
            words(b"abc"),
            (0x6437_b3ac_3846_5133, 0xffb6_3b75_273a_8db5)
        );
        assert_eq!(KeyHash::of(b"abc").to_string(), "6437b3ac38465133");
        assert_eq!(partition_of(b"abc", 64), PartitionId(0x64 >> 2));
        assert_eq!(partition_of(b"abc", 1), PartitionId(0));
        assert_eq!(partition_of(b"abc", 0), PartitionId(0));
    }

    #[test]
    fn the_ends_of_the_ring_are_the_first_and_last_partition() {
        assert_eq!(KeyHash(0).partition(3), PartitionId(0));
        assert_eq!(KeyHash(u64::MAX).partition(3), PartitionId(2));
        assert_eq!(
            KeyHash(u64::MAX).partition(u16::MAX),
            PartitionId(u16::MAX - 1)
        );
    }

    #[test]
    fn keys_spread_over_all_partitions() {
        let mut keys = [0_u32; 64];
        for n in 0..64_000_u32 {
            keys[usize::from(partition_of(&n.to_be_bytes(), 64).0)] += 1;
        }
        assert!(
            keys.iter().all(|&count| (850..1150).contains(&count)),
            "{keys:?}"
        );
    }

    proptest! {
        #[test]
        fn a_partition_is_below_their_number_and_follows_the_ring(a: u64, b: u64, partitions in 1_u16..) {
            let (low, high) = (KeyHash(a.min(b)).partition(partitions), KeyHash(a.max(b)).partition(partitions));
            prop_assert!(low <= high && high.0 < partitions);
        }
    }
}
