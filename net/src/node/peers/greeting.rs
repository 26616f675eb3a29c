//! The side that is called: who calls, and whether it may.

use std::sync::OnceLock;

use bytes::Bytes;
use mesh_ring::ids::NodeId;

use super::Peers;
use crate::{
    identity::{Peer, Role},
    node::reply,
    wire::proto::{Channel, Error, ErrorCode, NodeHello, NodeIs},
};

/// A node that has said hello on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Caller {
    /// Its id.
    pub node: NodeId,
    /// What the connection is for.
    pub channel: Channel,
}

/// What is known of the node at the other end of an accepted connection. One for each connection.
#[derive(Debug, Default)]
pub struct Greeting(OnceLock<Caller>);

impl Greeting {
    /// Who has said hello.
    pub fn caller(&self) -> Option<Caller> {
        self.0.get().copied()
    }

    /// The caller, of a request that only nodes may send after their hello.
    ///
    /// # Errors
    /// What to answer instead.
    pub fn require(&self) -> Result<Caller, Error> {
        self.caller().ok_or_else(|| {
            reply::error(
                ErrorCode::Denied,
                "a request between nodes, on a connection whose caller has not said which node it is",
            )
        })
    }

    /// Answers a hello. `peer` is what the caller's certificate says, `map_version` that of this node's map.
    ///
    /// # Errors
    /// What to answer instead: the caller is no node, not the one that it says, of another cluster, or refused.
    pub fn answer(
        &self,
        peers: &Peers,
        peer: &Peer,
        hello: &NodeHello,
        map_version: u64,
    ) -> Result<NodeIs, Error> {
        let config = &peers.0.shared.config;
        if peer.role != Role::Node {
            let message = format!(
                "client {} sent a request that only nodes may send",
                peer.name
            );
            return Err(reply::error(ErrorCode::Denied, message));
        }
        if !hello.cluster.is_empty() && hello.cluster != config.cluster.0.as_slice() {
            let message = format!(
                "node {} is of another cluster than {}: correct the addresses in its node.toml",
                peer.name, config.name
            );
            return Err(reply::error(ErrorCode::WrongNode, message));
        }
        // A node that dials itself, as a name for all nodes may make it do, finds that out by the answer.
        let own = hello.node == config.me.0.as_slice() && peer.name == config.name;
        if !hello.node.is_empty() && !own {
            let caller = identify(peers, peer, hello)?;
            if *self.0.get_or_init(|| caller) != caller {
                return Err(reply::malformed("two different greetings on a connection"));
            }
            // It is there: what could not be dialled a moment ago may be now.
            peers.nudge(caller.node);
        }
        Ok(NodeIs {
            node: Bytes::copy_from_slice(&config.me.0),
            boot: config.boot,
            map_version,
            cluster: Bytes::copy_from_slice(&config.cluster.0),
            name: config.name.clone(),
            address: config.address.clone(),
            token: Bytes::copy_from_slice(&config.token),
        })
    }
}

fn identify(peers: &Peers, peer: &Peer, hello: &NodeHello) -> Result<Caller, Error> {
    let node: [u8; 16] = hello
        .node
        .as_ref()
        .try_into()
        .map_err(|_| reply::malformed("a node's id has 16 bytes"))?;
    let node = NodeId(node);
    let impostor = |whose: &str| {
        let message = format!(
            "node {} says that it has the id {node}, which is {whose}: every node needs its own data directory",
            peer.name
        );
        Err(reply::error(ErrorCode::WrongNode, message))
    };
    if hello.name != peer.name {
        return impostor(&format!("{}'s by its own word", hello.name));
    }
    if node == peers.me() {
        return impostor("this node's own");
    }
    if let Some(neighbour) = peers.neighbour(node) {
        let name = neighbour.name();
        if !name.is_empty() && name != peer.name {
            return impostor(&format!("{name}'s"));
        }
    }
    let starts = &peers.0.shared.starts;
    if let Some(refusal) = starts.refusal(node, &peer.name, hello.boot, &hello.token) {
        tracing::warn!(name = peer.name, refusal, "refused a node");
        return Err(reply::error(ErrorCode::NodeRefused, refusal));
    }
    Ok(Caller {
        node,
        channel: hello.channel(),
    })
}
