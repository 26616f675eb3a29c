//! Bindings as a watch tells of them.

use bytes::Bytes;
use mesh_ring::binding::{Binding, Version};
use mesh_ring::map::ClusterMap;
use mesh_ring::version::Dot;

use crate::wire::TAIL_FRAME_BYTES;
use crate::wire::proto::{KeyState, WatchStates};

/// Most keys in a frame, whose header has to stay below its limit however long the nodes' names are.
pub(super) const FRAME_KEYS_MAX: usize = 128;

/// A key, and what the node holds under it; nothing where it holds nothing.
pub(super) type Found = (Bytes, Binding);

/// One frame.
#[derive(Default)]
pub(super) struct StatesFrame {
    pub(super) header: WatchStates,
    pub(super) body: Vec<Bytes>,
    bytes: usize,
}

/// These bindings in their order, in as many frames as they need.
pub(super) fn frames(map: &ClusterMap, now_ms: u64, found: Vec<Found>) -> Vec<StatesFrame> {
    let mut frames: Vec<StatesFrame> = Vec::new();
    for (key, binding) in found {
        let (state, pieces) = describe(map, now_ms, key, &binding);
        let has_room = |frame: &&mut StatesFrame| {
            frame.header.keys.len() < FRAME_KEYS_MAX && frame.bytes < TAIL_FRAME_BYTES
        };
        if frames.last_mut().filter(has_room).is_none() {
            frames.push(StatesFrame::default());
        }
        if let Some(frame) = frames.last_mut() {
            frame.header.keys.push(state);
            frame.bytes += pieces.iter().map(Bytes::len).sum::<usize>();
            frame.body.extend(pieces);
        }
    }
    frames
}

fn describe(
    map: &ClusterMap,
    now_ms: u64,
    key: Bytes,
    binding: &Binding,
) -> (KeyState, Vec<Bytes>) {
    let live = binding.live(now_ms);
    let newest_of_all = || {
        let versions = binding.versions().iter();
        versions.max_by_key(|version| (version.hlc, version.dot))
    };
    let newest: Option<&Version> = live.first().copied().or_else(newest_of_all);
    let value = newest.and_then(|version| version.live(now_ms)).cloned();
    let context = match newest {
        Some(_) => Bytes::from(binding.context().encode()),
        None => Bytes::new(),
    };
    let length = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let state = KeyState {
        key_length: length(&key),
        context_length: length(&context),
        value_length: value.as_ref().map(length),
        siblings: u32::try_from(live.len()).unwrap_or(u32::MAX),
        time_ms: newest.map_or(0, |version| version.hlc.millis()),
        node: newest.map_or_else(String::new, |version| writer(map, version.dot)),
        version: newest.map_or_else(Bytes::new, |version| encode_dot(version.dot)),
        expires_ms: newest.and_then(|version| version.expires_ms),
    };
    let pieces = [key, context].into_iter().chain(value).collect();
    (state, pieces)
}

/// The name of the node that made a version, or its id where the map has forgotten it.
fn writer(map: &ClusterMap, dot: Dot) -> String {
    map.node(dot.node)
        .map_or_else(|| dot.node.to_string(), |member| member.name.clone())
}

fn encode_dot(dot: Dot) -> Bytes {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend_from_slice(&dot.node.0);
    bytes.extend_from_slice(&dot.boot.to_be_bytes());
    bytes.extend_from_slice(&dot.counter.to_be_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use mesh_ring::binding::Content;
    use mesh_ring::hlc::Hlc;
    use mesh_ring::ids::{ClusterId, Epoch, NodeId};
    use prost::Message;

    use super::*;
    use crate::wire::{FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES_MAX};

    fn map(name: &str) -> ClusterMap {
        ClusterMap::single(ClusterId([7; 16]), NodeId([1; 16]), name, 4, Epoch(1)).unwrap()
    }

    fn bound(counter: u64, content: Content, expires_ms: Option<u64>) -> Binding {
        let version = Version {
            dot: Dot {
                node: NodeId([1; 16]),
                boot: 2,
                counter,
            },
            hlc: Hlc(1_000 << 16),
            expires_ms,
            content,
        };
        Binding::default().write(None, version).unwrap()
    }

    #[test]
    fn a_binding_is_its_newest_value_and_its_context() {
        let value = bound(5, Content::Value("v".into()), Some(2_000));
        let context = value.context().encode();
        let found = vec![("k".into(), value.clone())];
        let frame = &frames(&map("n1"), 1_999, found.clone())[0];
        assert_eq!(frame.body.concat(), [b"k", &context[..], b"v"].concat());
        let state = &frame.header.keys[0];
        let dot = [&[1; 16][..], &[0, 0, 0, 2], &[0, 0, 0, 0, 0, 0, 0, 5]].concat();
        let expected = KeyState {
            key_length: 1,
            context_length: u32::try_from(context.len()).unwrap(),
            value_length: Some(1),
            siblings: 1,
            time_ms: 1_000,
            node: "n1".into(),
            version: dot.into(),
            expires_ms: Some(2_000),
        };
        assert_eq!(*state, expected);
        // At that time it has expired.
        let frame = &frames(&map("n1"), 2_000, found)[0];
        assert_eq!(frame.body.concat(), [b"k", &context[..]].concat());
        assert_eq!(frame.header.keys[0].value_length, None);
        assert_eq!(frame.header.keys[0].siblings, 0);
        let nothing = &frames(&map("n1"), 0, vec![("k".into(), Binding::default())])[0];
        assert_eq!(nothing.header.keys[0].context_length, 0);
        assert_eq!(nothing.body.concat(), b"k");
    }

    #[test]
    fn no_frame_exceeds_its_limits() {
        let name = "n".repeat(255);
        let large = vec![9; mesh_ring::limits::BINDING_VALUE_BYTES_MAX];
        let found: Vec<Found> = (0..1_000_u64)
            .map(|number| {
                let value = if number % 100 == 0 {
                    large.clone()
                } else {
                    vec![1]
                };
                let key = Bytes::from(vec![b'k'; mesh_ring::limits::BINDING_KEY_BYTES_MAX]);
                (key, bound(number + 1, Content::Value(value.into()), None))
            })
            .collect();
        let frames = frames(&map(&name), 0, found);
        let keys: usize = frames.iter().map(|frame| frame.header.keys.len()).sum();
        assert_eq!(keys, 1_000);
        for frame in frames {
            assert!(frame.header.encoded_len() + 16 <= FRAME_HEADER_BYTES_MAX);
            assert!(frame.body.concat().len() <= FRAME_BODY_BYTES_MAX);
        }
    }
}
