//! Everything of Meshlog that crosses a wire: the protocol, the transport, the node and the client.

pub mod client;
pub mod identity;
pub mod node;
mod pipeline;
pub mod quic;
mod tasks;
pub mod wire;
