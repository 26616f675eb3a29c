//! Causality: the name of a write, and the set of writes that somebody has seen.

use std::collections::BTreeMap;
use std::fmt;

use crate::codec::{DecodeError, Reader, put_varint};
use crate::ids::NodeId;
use crate::limits::CONTEXT_NODES_MAX;

const FORMAT: u8 = 1;
const ENTRY_BYTES: usize = 28;

/// The name of one write, which no other write ever has: the node that coordinated it, and a number that the node
/// only raises. The boot count goes first, so that a counter may start again with the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
pub struct Dot {
    /// The node that coordinated the write.
    pub node: NodeId,
    /// How often that node had been started, made durable before the first write of a boot.
    pub boot: u32,
    /// The number of the write within the boot.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.node, self.boot, self.counter)
    }
}

/// The writes of one key that have been seen: per node the highest (boot, counter), which stands for all before it.
///
/// One number a node is enough, without gaps: a node mints dots in ascending order, a write of a key builds on all that its
/// coordinator holds of that key, and states travel and merge whole. So whoever has seen a node's write of a key has seen
/// every earlier one that the node made of that key, or what superseded it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Hash)]
pub struct VersionVector(BTreeMap<NodeId, (u32, u64)>);

impl VersionVector {
    /// Nothing seen.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether this write has been seen.
    #[must_use]
    pub fn covers(&self, dot: Dot) -> bool {
        self.0
            .get(&dot.node)
            .is_some_and(|&highest| (dot.boot, dot.counter) <= highest)
    }

    /// Whether all that `other` has seen has been seen here too.
    #[must_use]
    pub fn covers_all(&self, other: &Self) -> bool {
        other.dots().all(|dot| self.covers(dot))
    }

    /// Sees this write, and every earlier one of its node.
    pub fn insert(&mut self, dot: Dot) {
        let highest = self.0.entry(dot.node).or_default();
        *highest = (*highest).max((dot.boot, dot.counter));
    }

    /// Sees all that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        other.dots().for_each(|dot| self.insert(dot));
    }

    /// The newest write seen of each node, in the order of nodes.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(&node, &(boot, counter))| Dot {
            node,
            boot,
            counter,
        })
    }

    /// The newest write seen of one node.
    #[must_use]
    pub fn newest_of(&self, node: NodeId) -> Option<Dot> {
        self.0.get(&node).map(|&(boot, counter)| Dot {
            node,
            boot,
            counter,
        })
    }

    /// How many nodes it names.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The canonical bytes, which clients carry as a token: version 1 | number of nodes, varint | for each, in ascending
    /// order: node 16 bytes, boot u32 BE, counter u64 BE.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.0.len() * ENTRY_BYTES);
        out.push(FORMAT);
        self.put(&mut out);
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes, and a vector that names more than [`CONTEXT_NODES_MAX`] nodes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::versioned(bytes, FORMAT)?;
        let vector = Self::take(&mut reader)?;
        reader.end()?;
        if vector.nodes() > CONTEXT_NODES_MAX {
            let (count, max) = (vector.nodes() as u64, CONTEXT_NODES_MAX as u64);
            return Err(DecodeError::TooMany {
                what: "nodes in a causal context",
                count,
                max,
            });
        }
        Ok(vector)
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.0.len() as u64);
        self.dots().for_each(|dot| put_dot(out, dot));
    }

    /// Reads a vector of as many nodes as there are bytes for: a merge of replicas cannot be refused, so that what is
    /// stored may exceed the limit that holds for writes.
    pub(crate) fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut highest = BTreeMap::new();
        for _ in 0..reader.count(ENTRY_BYTES)? {
            let Dot {
                node,
                boot,
                counter,
            } = take_dot(reader)?;
            if highest
                .last_key_value()
                .is_some_and(|(&last, _)| last >= node)
            {
                return Err(DecodeError::NotCanonical {
                    what: "the order of nodes",
                });
            }
            highest.insert(node, (boot, counter));
        }
        Ok(Self(highest))
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Self::new();
        dots.into_iter().for_each(|dot| vector.insert(dot));
        vector
    }
}

pub(crate) fn put_dot(out: &mut Vec<u8>, dot: Dot) {
    out.extend(dot.node.0);
    out.extend(dot.boot.to_be_bytes());
    out.extend(dot.counter.to_be_bytes());
}

pub(crate) fn take_dot(reader: &mut Reader<'_>) -> Result<Dot, DecodeError> {
    let node = NodeId(reader.array()?);
    let boot = reader.u32()?;
    let counter = reader.u64()?;
    Ok(Dot {
        node,
        boot,
        counter,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dot(node: u8, boot: u32, counter: u64) -> Dot {
        Dot {
            node: NodeId([node; 16]),
            boot,
            counter,
        }
    }

    fn vectors() -> impl Strategy<Value = VersionVector> {
        prop::collection::vec((0_u8..5, 0_u32..3, 0_u64..4), 0..8)
            .prop_map(|dots| dots.into_iter().map(|(n, b, c)| dot(n, b, c)).collect())
    }

    #[test]
    fn a_vector_covers_a_node_up_to_its_highest_dot() {
        let seen: VersionVector = [dot(1, 2, 3)].into_iter().collect();
        assert!(
            seen.covers(dot(1, 2, 3)) && seen.covers(dot(1, 2, 1)) && seen.covers(dot(1, 1, 99))
        );
        assert!(
            !seen.covers(dot(1, 2, 4)) && !seen.covers(dot(1, 3, 0)) && !seen.covers(dot(2, 0, 0))
        );
        assert!(!VersionVector::new().covers(dot(0, 0, 0)));
    }

    #[test]
    fn vector_bytes() {
        assert_eq!(VersionVector::new().encode(), [1, 0]);
        let vector: VersionVector = [dot(7, 2, 258), dot(3, 1, 5)].into_iter().collect();
        let mut expected = vec![1, 2];
        expected.extend([3; 16]);
        expected.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend([7; 16]);
        expected.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(vector.encode(), expected);
        assert_eq!(VersionVector::decode(&expected), Ok(vector));
    }

    #[test]
    fn a_token_is_canonical_and_bounded() {
        let order = Err(DecodeError::NotCanonical {
            what: "the order of nodes",
        });
        let mut twice = vec![1, 2];
        twice.extend([[0; ENTRY_BYTES]; 2].concat());
        assert_eq!(VersionVector::decode(&twice), order);
        twice.push(0);
        assert_eq!(VersionVector::decode(&twice), order);
        assert_eq!(
            VersionVector::decode(&[1, 0, 0]),
            Err(DecodeError::Trailing { bytes: 1 })
        );
        assert_eq!(
            VersionVector::decode(&[1, 1, 0]),
            Err(DecodeError::Truncated)
        );
        assert_eq!(
            VersionVector::decode(&[9]),
            Err(DecodeError::UnknownVersion { found: 9, known: 1 })
        );

        let of_nodes = |count: u128| -> VersionVector {
            (0..count)
                .map(|n| Dot {
                    node: NodeId(n.to_be_bytes()),
                    boot: 0,
                    counter: 0,
                })
                .collect()
        };
        assert!(VersionVector::decode(&of_nodes(1024).encode()).is_ok());
        let too_many = DecodeError::TooMany {
            what: "nodes in a causal context",
            count: 1025,
            max: 1024,
        };
        assert_eq!(
            VersionVector::decode(&of_nodes(1025).encode()),
            Err(too_many)
        );
    }

    proptest! {
        #[test]
        fn merge_is_the_least_upper_bound(a in vectors(), b in vectors(), c in vectors()) {
            let merged = |a: &VersionVector, b: &VersionVector| { let mut m = a.clone(); m.merge(b); m };
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert!(merged(&a, &b).covers_all(&a) && merged(&a, &b).covers_all(&b));
            prop_assert!(merged(&a, &b).dots().all(|dot| a.covers(dot) || b.covers(dot)));
        }

        #[test]
        fn a_vector_reads_back(vector in vectors()) {
            prop_assert_eq!(VersionVector::decode(&vector.encode()), Ok(vector));
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(
            mut bytes in prop::collection::vec(any::<u8>(), 0..120), honest: bool
        ) {
            if honest && bytes.len() >= 2 {
                (bytes[0], bytes[1]) = (FORMAT, bytes[1] % 4);
                bytes.truncate(2 + usize::from(bytes[1]) * ENTRY_BYTES);
            }
            if let Ok(vector) = VersionVector::decode(&bytes) {
                prop_assert_eq!(vector.encode(), bytes);
            }
        }
    }
}
