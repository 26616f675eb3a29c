//! What a node says of a key, read from its frames.

use bytes::{Buf, Bytes};
use mesh_ring::ids::NodeId;
use mesh_ring::version::{Dot, VersionVector};

use crate::client::ClientError;
use crate::wire::proto::{KeyState, WatchStates};

/// A key as one node holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) key: Bytes,
    /// `None`: the node holds nothing, not even that there was something.
    pub(super) held: Option<HeldState>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct HeldState {
    pub(super) context: VersionVector,
    /// Its newest live value.
    pub(super) value: Option<Bytes>,
    pub(super) siblings: u32,
    /// Of that value, or of the newest tombstone: which write it was, when, and through which node.
    pub(super) version: Dot,
    pub(super) time_ms: u64,
    pub(super) node: String,
    pub(super) expires_ms: Option<u64>,
}

/// The keys of a frame, in order.
pub(super) fn states(header: WatchStates, mut body: Bytes) -> Result<Vec<State>, ClientError> {
    let mut states = Vec::with_capacity(header.keys.len());
    for key in header.keys {
        states.push(state(key, &mut body)?);
    }
    Ok(states)
}

fn state(header: KeyState, body: &mut Bytes) -> Result<State, ClientError> {
    let mut piece = |length: u32| {
        let length = length as usize;
        match body.remaining() < length {
            true => Err(ClientError::protocol("lengths beyond its body")),
            // Small ones are not to keep the whole frame in memory.
            false => Ok(body.split_to(length)),
        }
    };
    let key = Bytes::copy_from_slice(&piece(header.key_length)?);
    let context = piece(header.context_length)?;
    let value = header.value_length.map(&mut piece).transpose()?;
    if context.is_empty() {
        return Ok(State { key, held: None });
    }
    let context = VersionVector::decode(&context)
        .map_err(|_| ClientError::protocol("an ill-formed causal context"))?;
    Ok(State {
        key,
        held: Some(HeldState {
            context,
            value,
            siblings: header.siblings,
            version: dot(&header.version)?,
            time_ms: header.time_ms,
            node: header.node,
            expires_ms: header.expires_ms,
        }),
    })
}

fn dot(mut bytes: &[u8]) -> Result<Dot, ClientError> {
    let node = bytes.split_first_chunk::<16>();
    let Some((node, rest)) = node.filter(|(_, rest)| rest.len() == 12) else {
        return Err(ClientError::protocol("an ill-formed version"));
    };
    bytes = rest;
    Ok(Dot {
        node: NodeId(*node),
        boot: bytes.get_u32(),
        counter: bytes.get_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dot_is_read_byte_by_byte() {
        let bytes = [&[3; 16][..], &[0, 0, 0, 2], &[0, 0, 0, 0, 0, 0, 1, 5]].concat();
        let expected = Dot {
            node: NodeId([3; 16]),
            boot: 2,
            counter: 261,
        };
        assert_eq!(dot(&bytes), Ok(expected));
        assert!(dot(&bytes[1..]).is_err());
    }

    proptest! {
        #[test]
        fn any_frame_is_understood_or_refused(
            lengths in prop::collection::vec((0..40_u32, 0..40_u32, any::<Option<u8>>()), 0..5),
            body in prop::collection::vec(any::<u8>(), 0..200),
            version in prop::collection::vec(any::<u8>(), 0..30),
        ) {
            let keys = lengths.into_iter().map(|(key_length, context_length, value)| KeyState {
                key_length,
                context_length,
                value_length: value.map(u32::from),
                version: version.clone().into(),
                ..Default::default()
            });
            let _ = states(WatchStates { keys: keys.collect() }, body.into());
        }
    }
}
