//! Dials a node, and checks that it is the one that was meant.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use mesh_ring::ids::NodeId;
use quinn::{Connection, Endpoint};
use thiserror::Error;
use tokio::{net::lookup_host, time::timeout};

use super::{AskError, Shared, asking};
use crate::{
    identity::{NODE_SERVER_NAME, Peer, REVOKED_REASON, Role},
    quic::{CLOSE_DONE, CLOSE_REFUSED, client_endpoint, peer_config},
    wire::proto::{Channel, ErrorCode, NodeHello, NodeIs, Request, reply, request::Kind},
};

/// How long a handshake, and then the greeting, may take for each address of a name.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most addresses of one name that are tried.
pub(super) const ADDRESSES_MAX: usize = 64;

/// A node could not be dialled.
#[derive(Clone, Debug, Error)]
pub enum DialError {
    /// The name has no address.
    #[error("cannot resolve {address}: {cause}")]
    Resolve {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        cause: String,
    },
    /// Nothing answers, or what does refuses.
    #[error("no connection to {address}: {cause}")]
    Unreachable {
        /// `HOST:PORT`.
        address: String,
        /// Why.
        cause: String,
    },
    /// Someone else answers.
    #[error(
        "{address} is not the node that was meant: {detail}: correct its address, or stop what has taken it"
    )]
    Wrong {
        /// `HOST:PORT`.
        address: String,
        /// Who it is instead.
        detail: String,
    },
}

/// Who must answer.
pub(super) struct Expected<'a> {
    /// Its id. `None`: any other node of the cluster.
    pub(super) node: Option<NodeId>,
    /// Its name. Empty: any.
    pub(super) name: &'a str,
}

/// A connection on which both sides have said who they are.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) connection: Connection,
    /// Whom its certificate is of.
    pub(super) holder: Peer,
    pub(super) node: NodeId,
    pub(super) is: NodeIs,
}

/// The sockets that are dialled from: control has its own, so that it does not wait behind what bulk receives.
#[derive(Debug, Default)]
pub(super) struct Endpoints(Mutex<Opened>);

#[derive(Debug, Default)]
struct Opened {
    control: Families,
    bulk: Families,
    closed: bool,
}

#[derive(Debug, Default)]
struct Families {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl Endpoints {
    fn of(&self, shared: &Shared, channel: Channel, addr: SocketAddr) -> Result<Endpoint, String> {
        let mut opened = self.lock();
        if opened.closed {
            return Err("this node is stopping".into());
        }
        let families = match channel {
            Channel::Control => &mut opened.control,
            Channel::Bulk => &mut opened.bulk,
        };
        let slot = if addr.is_ipv4() {
            &mut families.v4
        } else {
            &mut families.v6
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let config = &shared.config;
        let endpoint = client_endpoint(addr, &config.identity.credentials(), &config.tuning)
            .map_err(|error| error.to_string())?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Closes all connections and waits, for `patience` at most, until the peers have heard of it.
    pub(super) async fn close(&self, patience: Duration) {
        let endpoints: Vec<Endpoint> = {
            let mut opened = self.lock();
            opened.closed = true;
            let Opened { control, bulk, .. } = &mut *opened;
            let slots = [&mut control.v4, &mut control.v6, &mut bulk.v4, &mut bulk.v6];
            slots.into_iter().filter_map(Option::take).collect()
        };
        for endpoint in &endpoints {
            endpoint.close(CLOSE_DONE, b"");
        }
        let idle = async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        };
        // Peers that are gone already need no goodbye.
        let _ = timeout(patience, idle).await;
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials the addresses of `HOST:PORT` in turn until the expected node answers. `patience` is for each step at each
/// address, usually [`DIAL_TIMEOUT`].
pub(super) async fn dial(
    shared: &Shared,
    address: &str,
    expected: &Expected<'_>,
    channel: Channel,
    patience: Duration,
) -> Result<Established, DialError> {
    let mut failure = None;
    for addr in resolve(address).await? {
        match dial_one(shared, address, addr, expected, channel, patience).await {
            Ok(established) => return Ok(established),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| DialError::Resolve {
        address: address.into(),
        cause: "it has no address".into(),
    }))
}

/// The addresses of `HOST:PORT`, each once.
pub(super) async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let failed = |cause: String| DialError::Resolve {
        address: address.into(),
        cause,
    };
    let found = timeout(RESOLVE_TIMEOUT, lookup_host(address))
        .await
        .map_err(|_| failed("no answer in time".into()))?
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for addr in found {
        if addresses.len() < ADDRESSES_MAX && !addresses.contains(&addr) {
            addresses.push(addr);
        }
    }
    Ok(addresses)
}

/// Dials one address, and says hello.
pub(super) async fn dial_one(
    shared: &Shared,
    address: &str,
    addr: SocketAddr,
    expected: &Expected<'_>,
    channel: Channel,
    patience: Duration,
) -> Result<Established, DialError> {
    let unreachable = |cause: String| DialError::Unreachable {
        address: address.into(),
        cause,
    };
    let connection = timeout(patience, connect(shared, addr, channel))
        .await
        .map_err(|_| unreachable("no answer; is the node running?".into()))?
        .map_err(unreachable)?;
    let greeted = timeout(patience, greet(shared, &connection, expected, channel))
        .await
        .unwrap_or_else(|_| Err(Unfit::Silent("no answer to the greeting".into())));
    match greeted {
        Ok((holder, node, is)) => Ok(Established {
            connection,
            holder,
            node,
            is,
        }),
        Err(Unfit::Silent(cause)) => {
            connection.close(CLOSE_DONE, b"");
            Err(unreachable(cause))
        }
        Err(Unfit::Revoked) => {
            connection.close(CLOSE_REFUSED, REVOKED_REASON);
            Err(unreachable("its certificate is revoked".into()))
        }
        Err(Unfit::Wrong(detail)) => {
            connection.close(CLOSE_REFUSED, b"another node was meant");
            Err(DialError::Wrong {
                address: address.into(),
                detail,
            })
        }
    }
}

async fn connect(
    shared: &Shared,
    addr: SocketAddr,
    channel: Channel,
) -> Result<Connection, String> {
    let endpoint = shared.endpoints.of(shared, channel, addr)?;
    let config = &shared.config;
    let client = peer_config(&config.identity.credentials(), &config.tuning)
        .map_err(|error| error.to_string())?;
    endpoint
        .connect_with(client, addr, NODE_SERVER_NAME)
        .map_err(|error| error.to_string())?
        .await
        .map_err(|error| error.to_string())
}

/// Why a connection cannot be used.
enum Unfit {
    Silent(String),
    Revoked,
    Wrong(String),
}

async fn greet(
    shared: &Shared,
    connection: &Connection,
    expected: &Expected<'_>,
    channel: Channel,
) -> Result<(Peer, NodeId, NodeIs), Unfit> {
    let config = &shared.config;
    let holder =
        Peer::of_connection(connection).map_err(|error| Unfit::Wrong(error.to_string()))?;
    if holder.role != Role::Node {
        return Err(Unfit::Wrong(format!("it is client {}", holder.name)));
    }
    if config.identity.revoked().contains(&holder.fingerprint) {
        return Err(Unfit::Revoked);
    }
    if !expected.name.is_empty() && holder.name != expected.name {
        return Err(Unfit::Wrong(format!(
            "it is {}, not {}",
            holder.name, expected.name
        )));
    }
    let hello = Request::new(Kind::NodeHello(NodeHello {
        name: config.name.clone(),
        node: Bytes::copy_from_slice(&config.me.0),
        cluster: Bytes::copy_from_slice(&config.cluster.0),
        channel: channel.into(),
        boot: config.boot,
        token: Bytes::copy_from_slice(&config.token),
    }));
    let answers = asking::exchange(connection, &hello, Bytes::new())
        .await
        .map_err(|error| {
            let cause = error.to_string();
            if let AskError::Refused(error) = error
                && error.code() == ErrorCode::NodeRefused
            {
                shared.starts.refused.send_replace(Some(error.message));
            }
            Unfit::Silent(cause)
        })?;
    let is = match answers.into_iter().next() {
        Some((reply::Kind::NodeIs(is), _)) => is,
        _ => return Err(Unfit::Silent("it does not answer the greeting".into())),
    };
    let node: Result<[u8; 16], _> = is.node.as_ref().try_into();
    let Ok(node) = node.map(NodeId) else {
        return Err(Unfit::Wrong("it has no id".into()));
    };
    if is.cluster != config.cluster.0.as_slice() {
        return Err(Unfit::Wrong(format!(
            "{} is of another cluster",
            holder.name
        )));
    }
    if node == config.me {
        return Err(Unfit::Wrong("it has this node's own id".into()));
    }
    if expected.node.is_some_and(|expected| expected != node) {
        return Err(Unfit::Wrong(format!("{} has the id {node}", holder.name)));
    }
    let refusal = shared
        .starts
        .refusal(node, &holder.name, is.boot, &is.token);
    if let Some(refusal) = refusal {
        return Err(Unfit::Wrong(refusal));
    }
    Ok((holder, node, is))
}
