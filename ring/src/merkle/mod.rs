//! What replicas compare instead of their bindings.
//!
//! A partition's bindings fall into [`MERKLE_LEAVES`] leaves by the hash of their key. A leaf is the sum of its bindings'
//! digests, so that a write updates it from the old and the new digest alone, in any order. Above the leaves,
//! every node hashes [`FANOUT`] below it, in three levels. [`walk`] finds where two replicas differ.

mod tree;
pub mod walk;

use std::cell::RefCell;
use std::fmt;

pub use tree::Tree;

use crate::codec::put_varint;
use crate::hash::{scale, words};
use crate::ids::PartitionId;

/// Leaves of one partition.
pub const MERKLE_LEAVES: u16 = 4096;
/// Children of each node above the leaves.
pub const FANOUT: usize = 16;

const DIGEST_DOMAIN: &str = "meshlog merkle binding digest v1";

/// A leaf's number in its partition, below [`MERKLE_LEAVES`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct LeafId(pub u16);

impl fmt::Display for LeafId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The leaf of a binding's key.
///
/// Chosen by bytes 8 to 15 of the key's hash. Bytes 0 to 7 choose the partition: within one partition they are
/// much alike, and would leave most leaves empty.
#[must_use]
pub fn leaf_of(key: &[u8]) -> LeafId {
    LeafId(scale(words(key).1, MERKLE_LEAVES))
}

/// The partition and the leaf of a binding's key, for one hash of it; see [`partition_of`](crate::hash::partition_of) and
/// [`leaf_of`].
#[must_use]
pub fn place_of(key: &[u8], partitions: u16) -> (PartitionId, LeafId) {
    let (first, second) = words(key);
    let leaf = LeafId(scale(second, MERKLE_LEAVES));
    (PartitionId(scale(first, partitions)), leaf)
}

/// A sum of digests, modulo 2^256; the lowest word first. The default, zero, is a leaf without bindings.
#[derive(Clone, Copy, Default, Eq, PartialEq, Hash)]
pub struct LeafSum(pub [u64; 4]);

impl LeafSum {
    /// A leaf without bindings.
    pub const ZERO: Self = Self([0; 4]);

    /// The sum with a digest added.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "an operator would hide that it wraps"
    )]
    pub fn add(self, digest: Self) -> Self {
        self.fold(digest, |a, b, carry| {
            let (sum, over) = a.overflowing_add(b);
            let (sum, over_again) = sum.overflowing_add(carry.into());
            (sum, over || over_again)
        })
    }

    /// The sum with a digest that is in it taken out.
    #[must_use]
    #[expect(
        clippy::should_implement_trait,
        reason = "an operator would hide that it wraps"
    )]
    pub fn sub(self, digest: Self) -> Self {
        self.fold(digest, |a, b, borrow| {
            let (rest, under) = a.overflowing_sub(b);
            let (rest, under_again) = rest.overflowing_sub(borrow.into());
            (rest, under || under_again)
        })
    }

    /// Big-endian: the number as one writes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (to, word) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    /// The number that these big-endian bytes are; every 32 bytes are one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let (parts, _) = bytes.as_chunks::<8>();
        let mut words = [0; 4];
        for (word, part) in words.iter_mut().zip(parts.iter().rev()) {
            *word = u64::from_be_bytes(*part);
        }
        Self(words)
    }

    fn fold(self, other: Self, step: impl Fn(u64, u64, bool) -> (u64, bool)) -> Self {
        let mut carry = false;
        let mut words = [0; 4];
        for (word, (a, b)) in words.iter_mut().zip(self.0.into_iter().zip(other.0)) {
            (*word, carry) = step(a, b, carry);
        }
        Self(words)
    }
}

impl fmt::Display for LeafSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .rev()
            .try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for LeafSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafSum({self})")
    }
}

/// What one binding adds to its leaf: a hash of its key and of [`Binding::encode`](crate::binding::Binding::encode).
#[must_use]
pub fn binding_digest(key: &[u8], encoded: &[u8]) -> LeafSum {
    thread_local! {
        // Made once: the domain is hashed before any input, and the state is large to copy.
        static HASHER: RefCell<blake3::Hasher> = RefCell::new(blake3::Hasher::new_derive_key(DIGEST_DOMAIN));
    }
    HASHER.with_borrow_mut(|hasher| {
        hasher.reset();
        match u8::try_from(key.len()) {
            // A varint of one byte.
            Ok(length @ 0..0x80) => hasher.update(&[length]),
            _ => {
                let mut length = Vec::new();
                put_varint(&mut length, key.len() as u64);
                hasher.update(&length)
            }
        };
        hasher.update(key).update(encoded);
        LeafSum::from_bytes(hasher.finalize().into())
    })
}

/// The root over all leaves of a partition, in their order. Two replicas with equal roots hold equal bindings.
#[must_use]
pub fn root(leaves: &[LeafSum; MERKLE_LEAVES as usize]) -> [u8; 32] {
    Tree::of(leaves).root()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::partition_of;
    use crate::ids::PartitionId;

    fn sums() -> impl Strategy<Value = LeafSum> {
        // Words at the ends of their range, so that carries run through.
        let word = prop_oneof![Just(0), Just(1), Just(u64::MAX), any::<u64>()];
        prop::array::uniform4(word).prop_map(LeafSum)
    }

    #[test]
    fn bytes_are_the_number_in_big_endian() {
        let sum = LeafSum([4, 3, 2, 0x0102]);
        let mut expected = [0; 32];
        (
            expected[6],
            expected[7],
            expected[15],
            expected[23],
            expected[31],
        ) = (1, 2, 2, 3, 4);
        assert_eq!(sum.to_bytes(), expected);
        assert_eq!(LeafSum::from_bytes(expected), sum);
        assert!(
            sum.to_string()
                .starts_with("00000000000001020000000000000002")
        );
    }

    #[test]
    fn carries_run_through_and_wrap() {
        let (one, all) = (LeafSum([1, 0, 0, 0]), LeafSum([u64::MAX; 4]));
        assert_eq!(
            LeafSum([u64::MAX, u64::MAX, 0, 0]).add(one),
            LeafSum([0, 0, 1, 0])
        );
        assert_eq!(all.add(one), LeafSum::ZERO);
        assert_eq!(LeafSum::ZERO.sub(one), all);
        assert_eq!(
            all.add(all),
            LeafSum([u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX])
        );
    }

    #[test]
    fn leaves_and_digests_are_pinned() {
        // The hash of "abc" goes on with ffb63b75… after its first 8 bytes.
        assert_eq!(leaf_of(b"abc"), LeafId(0xffb));
        assert_eq!(
            binding_digest(b"k", b"v").to_string(),
            "e04b2f8321bb0ef7b91790a2e468ff352fef7fc9586472679430e10f67fd8e2b"
        );
        let mut leaves = [LeafSum::ZERO; MERKLE_LEAVES as usize];
        let empty = root(&leaves);
        assert_eq!(
            LeafSum::from_bytes(empty).to_string(),
            "a5a6e3ce521db0ed7d3fae96d94aca8c99cb8d98ae14465dc1ff6c917dd2326d"
        );
        leaves[4095] = binding_digest(b"k", b"v");
        assert_eq!(
            LeafSum::from_bytes(root(&leaves)).to_string(),
            "8d75ac9081d9ef365fd6cd1d3b71fb27f6e80a739206e547ec6c16db1461ff2d"
        );
    }

    #[test]
    fn a_key_of_any_length_is_hashed_behind_its_length() {
        for length in [0, 1, 127, 128, 300, 1024] {
            let key = vec![7; length];
            let mut input = Vec::new();
            crate::codec::put_bytes(&mut input, &key);
            input.extend_from_slice(b"encoded");
            let expected = LeafSum::from_bytes(blake3::derive_key(DIGEST_DOMAIN, &input));
            assert_eq!(binding_digest(&key, b"encoded"), expected, "{length}");
        }
    }

    #[test]
    fn a_digest_tells_where_the_key_ends() {
        assert_ne!(binding_digest(b"ab", b"c"), binding_digest(b"a", b"bc"));
    }

    #[test]
    fn the_keys_of_one_partition_spread_over_the_leaves() {
        let keys = (0..400_000_u32).map(u32::to_be_bytes);
        let mine = keys.filter(|key| partition_of(key, 64) == PartitionId(5));
        let leaves: BTreeSet<LeafId> = mine.map(|key| leaf_of(&key)).collect();
        // 6,250 keys thrown at 4,096 leaves miss about e^-1.5 of them.
        assert!((3_050..3_350).contains(&leaves.len()), "{}", leaves.len());
    }

    #[test]
    fn the_place_of_a_key_is_its_partition_and_its_leaf() {
        for key in (0..1_000_u32).map(u32::to_be_bytes) {
            assert_eq!(place_of(&key, 64), (partition_of(&key, 64), leaf_of(&key)));
        }
    }

    #[test]
    fn a_root_depends_on_which_leaf_holds_a_sum() {
        let mut leaves = [LeafSum::ZERO; MERKLE_LEAVES as usize];
        let mut roots = BTreeSet::from([root(&leaves)]);
        for at in [0, 1, 15, 16, 255, 256, 4095] {
            leaves[at] = LeafSum([1, 0, 0, 0]);
            assert!(roots.insert(root(&leaves)), "leaf {at}");
            leaves[at] = LeafSum::ZERO;
        }
    }

    proptest! {
        #[test]
        fn the_order_of_additions_does_not_matter(
            (digests, shuffled) in prop::collection::vec(sums(), 0..12)
                .prop_flat_map(|digests| (Just(digests.clone()), Just(digests).prop_shuffle()))
        ) {
            let total = |digests: &[LeafSum]| digests.iter().fold(LeafSum::ZERO, |sum, &digest| sum.add(digest));
            prop_assert_eq!(total(&digests), total(&shuffled));
            let rest = shuffled.iter().fold(total(&digests), |sum, &digest| sum.sub(digest));
            prop_assert_eq!(rest, LeafSum::ZERO);
        }

        #[test]
        fn adding_then_subtracting_changes_nothing(a in sums(), b in sums()) {
            prop_assert_eq!(a.add(b).sub(b), a);
            prop_assert_eq!(a.sub(b).add(b), a);
        }

        #[test]
        fn a_sum_reads_back(a in sums()) {
            prop_assert_eq!(LeafSum::from_bytes(a.to_bytes()), a);
        }
    }
}
