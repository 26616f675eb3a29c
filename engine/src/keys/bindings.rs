//! Keys of bindings, of what is found by them, and of hints.

use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::LeafId;

use super::{meta, partition_prefixed, tagged};

const UNDER_LEAF: u8 = 1;
const TOMBSTONE: u8 = 2;
const HINT: u8 = 3;

/// `bindings` family. Key: partition u16 | key.
pub fn binding_key(partition: PartitionId, key: &[u8]) -> Vec<u8> {
    partition_prefixed(partition, key)
}

/// The partition and binding key that a `bindings` key names.
pub fn parse_binding_key(key: &[u8]) -> Option<(PartitionId, &[u8])> {
    let (partition, key) = key.split_first_chunk::<2>()?;
    Some((PartitionId(u16::from_be_bytes(*partition)), key))
}

/// `binding_index` family. Key: partition u16 | 1 | leaf u16 | key. Present for every binding under the leaf.
pub fn under_leaf_key(partition: PartitionId, leaf: LeafId, key: &[u8]) -> Vec<u8> {
    let mut out = under_leaf_prefix(partition, leaf);
    out.extend_from_slice(key);
    out
}

/// What every key made by [`under_leaf_key`] begins with.
pub fn under_leaf_prefix(partition: PartitionId, leaf: LeafId) -> Vec<u8> {
    tagged(partition, UNDER_LEAF, &leaf.0.to_be_bytes())
}

/// Keys from the first that [`under_leaf_key`] makes of `partition` to the one behind the last.
pub fn under_leaf_bounds(partition: PartitionId) -> (Vec<u8>, Vec<u8>) {
    (
        tagged(partition, UNDER_LEAF, &[]),
        tagged(partition, TOMBSTONE, &[]),
    )
}

/// The leaf and binding key that a key of `partition` made by [`under_leaf_key`] names.
pub fn parse_under_leaf_key(partition: PartitionId, key: &[u8]) -> Option<(LeafId, &[u8])> {
    let rest = key.strip_prefix(&tagged(partition, UNDER_LEAF, &[])[..])?;
    let (leaf, key) = rest.split_first_chunk::<2>()?;
    Some((LeafId(u16::from_be_bytes(*leaf)), key))
}

/// `binding_index` family. Key: partition u16 | 2 | unix ms u64 | key. Present for every binding that is only tombstones;
/// the time is that of the youngest.
pub fn tombstone_key(partition: PartitionId, since_ms: u64, key: &[u8]) -> Vec<u8> {
    let mut out = tombstone_prefix(partition);
    out.extend_from_slice(&since_ms.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// What every key made by [`tombstone_key`] begins with.
pub fn tombstone_prefix(partition: PartitionId) -> Vec<u8> {
    tagged(partition, TOMBSTONE, &[])
}

/// The time and binding key that a key of `partition` made by [`tombstone_key`] names.
pub fn parse_tombstone_key(partition: PartitionId, key: &[u8]) -> Option<(u64, &[u8])> {
    let rest = key.strip_prefix(&tombstone_prefix(partition)[..])?;
    let (since_ms, key) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*since_ms), key))
}

/// Keys from the first to the one behind the last that is about the bindings of `partition`; those about hints come after.
pub fn binding_index_bounds(partition: PartitionId) -> (Vec<u8>, Vec<u8>) {
    (tagged(partition, 0, &[]), tagged(partition, HINT, &[]))
}

/// `binding_index` family. Key: partition u16 | 3 | key length u16 | key | target node. The sequence of the hint that is kept of
/// the key for the target.
pub fn hint_of_key(partition: PartitionId, key: &[u8], target: NodeId) -> Vec<u8> {
    // Keys of bindings have far fewer bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let mut out = tagged(partition, HINT, &length.to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&target.0);
    out
}

/// The binding key and target that a key of `partition` made by [`hint_of_key`] names.
pub fn parse_hint_of_key(partition: PartitionId, key: &[u8]) -> Option<(&[u8], NodeId)> {
    let rest = key.strip_prefix(&tagged(partition, HINT, &[])[..])?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (key, target) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((key, NodeId(target.try_into().ok()?)))
}

/// `expiry` family. Key: partition u16 | due time in unix ms u64 | key.
pub fn expiry_key(due_ms: u64, partition: PartitionId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + key.len());
    out.extend_from_slice(&partition.0.to_be_bytes());
    out.extend_from_slice(&due_ms.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// The due time, partition and binding key that an `expiry` key names.
pub fn parse_expiry_key(key: &[u8]) -> Option<(u64, PartitionId, &[u8])> {
    let (partition, rest) = key.split_first_chunk::<2>()?;
    let (due_ms, key) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*due_ms),
        PartitionId(u16::from_be_bytes(*partition)),
        key,
    ))
}

/// `merkle` family. Key: partition u16 | page u8. The sums of leaves page × 16 to page × 16 + 15.
pub fn merkle_page_key(partition: PartitionId, page: u8) -> [u8; 3] {
    let [high, low] = partition.0.to_be_bytes();
    [high, low, page]
}

/// The page that a `merkle` key of `partition` names.
pub fn parse_merkle_page_key(partition: PartitionId, key: &[u8]) -> Option<u8> {
    match key.strip_prefix(&partition.0.to_be_bytes())? {
        [page] => Some(*page),
        _ => None,
    }
}

/// What every key made by [`merkle_changes_key`] begins with; no partition has this number.
pub const MERKLE_CHANGES_PREFIX: [u8; 2] = [u8::MAX; 2];

/// `merkle` family. Key: u16::MAX | number u64. What a group changed of leaves, until pages and index say so.
pub fn merkle_changes_key(number: u64) -> [u8; 10] {
    let mut key = [u8::MAX; 10];
    key[2..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number that a key made by [`merkle_changes_key`] has.
pub fn parse_merkle_changes_key(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(&MERKLE_CHANGES_PREFIX)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// `hints` family. Key: target node | partition u16 | sequence u64.
pub fn hint_key(target: NodeId, partition: PartitionId, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(26);
    key.extend_from_slice(&target.0);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The partition and sequence that a `hints` key of `target` names.
pub fn parse_hint_key(target: NodeId, key: &[u8]) -> Option<(PartitionId, u64)> {
    let rest = key.strip_prefix(&target.0)?;
    let (partition, sequence) = rest.split_first_chunk::<2>()?;
    Some((
        PartitionId(u16::from_be_bytes(*partition)),
        u64::from_be_bytes(sequence.try_into().ok()?),
    ))
}

/// `meta` family. Key: "hints/" | target node | partition u16. How many hints of the partition are kept for the node.
pub fn hint_count_key(target: NodeId, partition: PartitionId) -> Vec<u8> {
    let mut key = meta::HINT_COUNT.to_vec();
    key.extend_from_slice(&target.0);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// `meta` family. Key: "generation/" | partition u16. Under which name this node writes the partition's bindings.
pub fn generation_key(partition: PartitionId) -> Vec<u8> {
    let mut key = meta::GENERATION.to_vec();
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// The node and partition that a key made by [`hint_count_key`] names.
pub fn parse_hint_count_key(key: &[u8]) -> Option<(NodeId, PartitionId)> {
    let rest = key.strip_prefix(meta::HINT_COUNT)?;
    let (target, partition) = rest.split_first_chunk::<16>()?;
    let partition = u16::from_be_bytes(partition.try_into().ok()?);
    Some((NodeId(*target), PartitionId(partition)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0x0102);

    #[test]
    fn binding_keys_bytes() {
        assert_eq!(binding_key(P, b"k"), [1, 2, b'k']);
        assert_eq!(parse_binding_key(&[1, 2, b'k']), Some((P, &b"k"[..])));
        assert_eq!(parse_binding_key(&[1]), None);
        assert_eq!(merkle_page_key(P, 3), [1, 2, 3]);
        assert_eq!(parse_merkle_page_key(P, &[1, 2, 3]), Some(3));
        assert_eq!(parse_merkle_page_key(P, &[1, 2, 3, 4]), None);
        assert_eq!(
            merkle_changes_key(0x0304),
            [255, 255, 0, 0, 0, 0, 0, 0, 3, 4]
        );
        assert_eq!(parse_merkle_changes_key(&merkle_changes_key(7)), Some(7));
        assert_eq!(parse_merkle_changes_key(&[255, 255, 7]), None);
        assert_eq!(expiry_key(1, P, b"k"), [1, 2, 0, 0, 0, 0, 0, 0, 0, 1, b'k']);
        assert_eq!(
            parse_expiry_key(&expiry_key(1, P, b"k")),
            Some((1, P, &b"k"[..]))
        );
    }

    #[test]
    fn binding_index_keys_bytes() {
        let under = under_leaf_key(P, LeafId(0x0304), b"k");
        assert_eq!(under, [1, 2, 1, 3, 4, b'k']);
        assert_eq!(under_leaf_prefix(P, LeafId(0x0304)), [1, 2, 1, 3, 4]);
        assert_eq!(
            parse_under_leaf_key(P, &under),
            Some((LeafId(0x0304), &b"k"[..]))
        );
        assert_eq!(under_leaf_bounds(P), (vec![1, 2, 1], vec![1, 2, 2]));
        let tombstone = tombstone_key(P, 5, b"k");
        assert_eq!(tombstone, [1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 5, b'k']);
        assert_eq!(tombstone_prefix(P), [1, 2, 2]);
        assert_eq!(parse_tombstone_key(P, &tombstone), Some((5, &b"k"[..])));
        assert_eq!(parse_tombstone_key(P, &under), None);
        assert_eq!(parse_under_leaf_key(P, &tombstone), None);
    }

    #[test]
    fn hint_keys_bytes() {
        let target = NodeId([9; 16]);
        let key = hint_key(target, P, 1);
        assert_eq!(key[..16], [9; 16]);
        assert_eq!(key[16..], [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(parse_hint_key(target, &key), Some((P, 1)));
        assert_eq!(parse_hint_key(NodeId([8; 16]), &key), None);
        let count = hint_count_key(target, P);
        assert_eq!(count, [&b"hints/"[..], &[9; 16], &[1, 2]].concat());
        assert_eq!(parse_hint_count_key(&count), Some((target, P)));
        assert_eq!(parse_hint_count_key(&key), None);
        let of = hint_of_key(P, b"k", target);
        assert_eq!(of, [&[1, 2, 3, 0, 1, b'k'][..], &[9; 16]].concat());
        assert_eq!(parse_hint_of_key(P, &of), Some((&b"k"[..], target)));
        assert_eq!(parse_hint_of_key(P, &of[..20]), None);
        assert_eq!(binding_index_bounds(P), (vec![1, 2, 0], vec![1, 2, 3]));
        assert_eq!(generation_key(P), [&b"generation/"[..], &[1, 2]].concat());
    }
}
