//! Who may do what, by the caller's certificate.

use mesh_ring::name::TopicName;

use super::Caller;
use crate::identity::{Access, Peer, Role, Scope};
use crate::node::reply;
use crate::wire::proto::{Error, ErrorCode};

/// A valid topic name that the peer may use.
pub(in crate::node) fn topic_name(
    peer: &Peer,
    access: Access,
    name: &str,
) -> Result<TopicName, Error> {
    let valid = TopicName::new(name).map_err(reply::invalid)?;
    allow(peer, access, Scope::Topic, name.as_bytes())?;
    Ok(valid)
}

/// Refuses what the peer's certificate does not grant.
pub(in crate::node) fn allow(
    peer: &Peer,
    access: Access,
    scope: Scope,
    name: &[u8],
) -> Result<(), Error> {
    if peer.allows(access, scope, name) {
        return Ok(());
    }
    Err(reply::error(
        ErrorCode::Denied,
        format!(
            "client {} may not {access} {scope} {}: `meshctl ca issue client` grants prefixes",
            peer.name,
            name.escape_ascii()
        ),
    ))
}

/// Refuses what only nodes may ask.
pub(in crate::node) fn only_nodes(caller: &Caller) -> Result<(), Error> {
    if caller.peer.role == Role::Node {
        return Ok(());
    }
    Err(reply::error(
        ErrorCode::Denied,
        format!(
            "client {} sent a request that only nodes may send",
            caller.peer.name
        ),
    ))
}
