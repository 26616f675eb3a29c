//! What crosses the wire: frames of a protobuf header and a raw body.
//!
//! - [`proto`]: the messages, compiled from `proto/meshlog/v1`;
//! - [`frame`]: how a message and the bytes that go with it are laid on a stream, with every length checked before
//!   anything is allocated.

pub mod frame;

/// The messages of `proto/meshlog/v1`, as prost compiles them.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/meshlog.v1.rs"));
}

use mesh_ring::limits::BATCH_BYTES_MAX;

/// The protocol version that this build speaks, in [`proto::Request::version`] and in the ALPN name.
pub const PROTOCOL_VERSION: u32 = 1;
/// The ALPN name of the protocol. Peers of another one do not get past the handshake.
pub const ALPN: &[u8] = b"meshlog/1";
/// Longest header of a frame, in bytes.
pub const FRAME_HEADER_BYTES_MAX: usize = 64 << 10;
/// Longest body of a frame, in bytes: one batch of the largest size, and some room.
pub const FRAME_BODY_BYTES_MAX: usize = BATCH_BYTES_MAX + (64 << 10);
/// Bytes of stored batches that a tail frame carries before the next one begins. A larger batch goes alone.
pub const TAIL_FRAME_BYTES: usize = 1 << 20;

impl proto::Request {
    /// A request of this build's version.
    pub fn new(kind: proto::request::Kind) -> Self {
        Self {
            version: PROTOCOL_VERSION,
            kind: Some(kind),
            forwarded: false,
        }
    }
}
