//! Everything of Meshlog that crosses a wire: the protocol, the transport, the node and the client.

pub mod identity;
pub mod quic;
pub mod wire;
