//! The sockets of a client, and dialling with whatever its identity's files hold now.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use quinn::{Connection, Endpoint};
use tokio::net::lookup_host;

use super::{
    back_off::{Attempt, first_to_succeed},
    config::ClientConfig,
    error::{ClientError, Lost},
};
use crate::{
    identity::{Credentials, Fingerprint, LiveIdentity, NODE_SERVER_NAME, Peer, REVOKED_REASON},
    quic::{CLOSE_DONE, CLOSE_REFUSED, Tuning, client_config, client_endpoint},
    tasks::blocking,
};

/// How long a client that closes waits for the nodes to hear of it.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(5);
/// How long one address of a name may take before the next is tried beside it.
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);

/// One socket for each address family that was needed so far, and who the client is.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) identity: LiveIdentity,
    tuning: Tuning,
    open: Mutex<Open>,
    /// TLS made of the credentials beside it.
    tls: Mutex<Option<(Arc<Credentials>, quinn::ClientConfig)>>,
}

#[derive(Debug, Default)]
struct Open {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    closed: bool,
}

impl Sockets {
    pub(super) fn new(config: &ClientConfig) -> Result<Self, ClientError> {
        Ok(Self {
            identity: LiveIdentity::load(&config.files())?,
            tuning: config.tuning.clone(),
            open: Mutex::default(),
            tls: Mutex::default(),
        })
    }

    /// Connects to `node`, at whichever of its addresses answers first.
    pub(super) async fn dial(&self, node: &str) -> Result<(Connection, Fingerprint), Lost> {
        let identity = self.identity.clone();
        blocking(move || identity.reload_if_changed()).await;
        let found = lookup_host(node)
            .await
            .map_err(|e| Lost::Connection(format!("cannot resolve {node}: {e}")))?;
        let attempts: VecDeque<Attempt<'_, _, _>> = found
            .map(|addr| -> Attempt<'_, _, _> { Box::pin(self.dial_address(node, addr)) })
            .collect();
        first_to_succeed(ADDRESS_STAGGER, attempts)
            .await
            .map_err(|failure| {
                failure.unwrap_or_else(|| Lost::Connection(format!("{node} has no address")))
            })
    }

    async fn dial_address(
        &self,
        node: &str,
        addr: SocketAddr,
    ) -> Result<(Connection, Fingerprint), Lost> {
        let connecting = self
            .endpoint(addr)?
            .connect_with(self.tls()?, addr, NODE_SERVER_NAME)
            .map_err(|e| Lost::Connection(format!("{node}: {e}")))?;
        let connection = connecting
            .await
            .map_err(|error| match Lost::of_connection(&error) {
                Lost::Connection(text) => Lost::Connection(format!("{node}: {text}")),
                lost => lost,
            })?;
        let peer = Peer::of_connection(&connection)
            .map_err(|e| Lost::Connection(format!("{node}: {e}")))?;
        if self.identity.revoked().contains(&peer.fingerprint) {
            connection.close(CLOSE_REFUSED, REVOKED_REASON);
            return Err(Lost::Connection(format!(
                "{node}: the certificate of {} is revoked",
                peer.name
            )));
        }
        Ok((connection, peer.fingerprint))
    }

    fn tls(&self) -> Result<quinn::ClientConfig, Lost> {
        let credentials = self.identity.credentials();
        let mut tls = lock(&self.tls);
        if let Some((of, config)) = &*tls
            && Arc::ptr_eq(of, &credentials)
        {
            return Ok(config.clone());
        }
        let config =
            client_config(&credentials, &self.tuning).map_err(|e| Lost::Refused(e.to_string()))?;
        Ok(tls.insert((credentials, config)).1.clone())
    }

    fn endpoint(&self, addr: SocketAddr) -> Result<Endpoint, Lost> {
        let mut open = lock(&self.open);
        if open.closed {
            return Err(Lost::Protocol("the client was closed".into()));
        }
        let slot = if addr.is_ipv4() {
            &mut open.v4
        } else {
            &mut open.v6
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint = client_endpoint(addr, &self.identity.credentials(), &self.tuning)
            .map_err(|e| Lost::Connection(e.to_string()))?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Closes all connections; nothing is dialled any more. Waits a little, so that the nodes are told; one that does not
    /// hear of it finds out by its idle timeout.
    pub(super) async fn close(&self) {
        let endpoints = {
            let mut open = lock(&self.open);
            open.closed = true;
            [open.v4.take(), open.v6.take()]
        };
        for endpoint in endpoints.into_iter().flatten() {
            endpoint.close(CLOSE_DONE, b"");
            // QUIC lingers for three probe timeouts, about 90 ms, which every short command would feel.
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, endpoint.wait_idle()).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
