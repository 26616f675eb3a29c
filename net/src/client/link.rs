//! The client's one connection: dialled when it is needed, shared by everything, dialled again when it is lost.

use std::{
    net::SocketAddr,
    sync::{Mutex as SyncMutex, MutexGuard, PoisonError},
    time::Duration,
};

use quinn::{Connection, Endpoint};
use tokio::{
    net::lookup_host,
    sync::Mutex,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    config::ClientConfig,
    error::{ClientError, Lost},
};
use crate::{
    identity::{Credentials, NODE_SERVER_NAME},
    quic::{CLOSE_DONE, Tuning, client_endpoint},
};

/// How long a client that closes waits for the node to hear of it.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(5);
/// The longest that one attempt at one address may take before the next is tried.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a round over all addresses, doubled each time up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A pause that grows with each failure.
#[derive(Debug)]
pub(super) struct BackOff(Duration);

impl BackOff {
    pub(super) fn new() -> Self {
        Self(BACK_OFF_MIN)
    }

    /// Waits, but not beyond `deadline`.
    pub(super) async fn pause(&mut self, deadline: Instant) {
        sleep_until(deadline.min(Instant::now() + self.0)).await;
        self.0 = (self.0 * 2).min(BACK_OFF_MAX);
    }

    /// Waits, however short a timeout is.
    pub(super) async fn pause_fully(&mut self) {
        self.pause(Instant::now() + BACK_OFF_MAX).await;
    }
}

/// Where the nodes are, and the connection to one of them.
#[derive(Debug)]
pub(super) struct Link {
    nodes: Vec<String>,
    credentials: Credentials,
    tuning: Tuning,
    pub(super) timeout: Duration,
    current: SyncMutex<Current>,
    /// Held by the one that dials.
    dialling: Mutex<()>,
    /// Sockets, one for each address family that was needed so far.
    endpoints: SyncMutex<Endpoints>,
}

#[derive(Debug, Default)]
struct Current {
    connection: Option<Connection>,
    /// Index of the node to try first: the one that answered last.
    node: usize,
}

#[derive(Debug, Default)]
struct Endpoints {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    closed: bool,
}

impl Link {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        if config.nodes.is_empty() {
            return Err(ClientError::Invalid("no node address is configured".into()));
        }
        Ok(Self {
            nodes: config.nodes.clone(),
            credentials: Credentials::load(&config.files())?,
            tuning: config.tuning.clone(),
            timeout: config.timeout,
            current: SyncMutex::default(),
            dialling: Mutex::default(),
            endpoints: SyncMutex::default(),
        })
    }

    /// The connection, dialled anew where there is none that lives. Tries every node, again and again, until `deadline`.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] at the deadline; [`ClientError::Refused`] where a node will not have this client.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Connection, ClientError> {
        let late = |cause: &str| {
            ClientError::Unavailable(format!(
                "no connection to {} within the timeout: {cause}",
                self.nodes.join(", ")
            ))
        };
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        let _dialling = timeout_at(deadline, self.dialling.lock())
            .await
            .map_err(|_| late("still dialling"))?;
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        let first = self.current().node;
        let mut back_off = BackOff::new();
        loop {
            for turn in 0..self.nodes.len() {
                let node = (first + turn) % self.nodes.len();
                let attempt = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
                let cause = match timeout_at(attempt, self.dial(&self.nodes[node])).await {
                    Ok(Ok(connection)) => {
                        *self.current() = Current {
                            connection: Some(connection.clone()),
                            node,
                        };
                        return Ok(connection);
                    }
                    Ok(Err(Lost::Connection(text))) => text,
                    Ok(Err(lost)) => return Err(lost.into_error("cannot connect")),
                    Err(_) => format!("{} does not answer; is the node running?", self.nodes[node]),
                };
                if Instant::now() >= deadline {
                    return Err(late(&cause));
                }
            }
            back_off.pause(deadline).await;
        }
    }

    /// Dials anew for whoever asks next, and leaves those who still use `connection` alone.
    pub(super) fn forget(&self, connection: &Connection) {
        let mut current = self.current();
        if current
            .connection
            .as_ref()
            .is_some_and(|c| c.stable_id() == connection.stable_id())
        {
            current.connection = None;
        }
    }

    fn living(&self) -> Option<Connection> {
        self.current()
            .connection
            .clone()
            .filter(|connection| connection.close_reason().is_none())
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn dial(&self, node: &str) -> Result<Connection, Lost> {
        let found = lookup_host(node)
            .await
            .map_err(|e| Lost::Connection(format!("cannot resolve {node}: {e}")))?;
        let mut cause = format!("{node} has no address");
        for addr in found {
            let endpoint = self.endpoint(addr)?;
            let connecting = endpoint
                .connect(addr, NODE_SERVER_NAME)
                .map_err(|e| Lost::Connection(format!("{node}: {e}")))?;
            match connecting.await {
                Ok(connection) => return Ok(connection),
                Err(error) => match Lost::of_connection(&error) {
                    Lost::Connection(text) => cause = format!("{node}: {text}"),
                    lost => return Err(lost),
                },
            }
        }
        Err(Lost::Connection(cause))
    }

    fn endpoint(&self, addr: SocketAddr) -> Result<Endpoint, Lost> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if endpoints.closed {
            return Err(Lost::Protocol("the client was closed".into()));
        }
        let slot = if addr.is_ipv4() {
            &mut endpoints.v4
        } else {
            &mut endpoints.v6
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = client_endpoint(addr, &self.credentials, &self.tuning)
            .map_err(|e| Lost::Connection(e.to_string()))?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Closes the connection; nothing is dialled any more. Waits a little, so that the node is told; where it does not
    /// hear of it, it finds out by its idle timeout.
    pub(super) async fn close(&self) {
        let endpoints = {
            let mut endpoints = self
                .endpoints
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            endpoints.closed = true;
            [endpoints.v4.take(), endpoints.v6.take()]
        };
        for endpoint in endpoints.into_iter().flatten() {
            endpoint.close(CLOSE_DONE, b"");
            // QUIC lingers for three probe timeouts, about 90 ms, which every short command would feel.
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, endpoint.wait_idle()).await;
        }
    }
}
