//! The transport: QUIC endpoints for both sides, and the settings that they share.

mod restart;
mod socket;

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TokioRuntime, TransportConfig, VarInt, congestion::CubicConfig,
};
use socket2::{Domain, Protocol, Socket, Type};

use restart::ConnectionIds;
pub(crate) use restart::RestartKey;
use socket::CuttingSocket;

use crate::identity::{Credentials, IdentityError, LiveIdentity};

/// A connection over which nothing arrives for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client with nothing to say says so this often, well within [`IDLE_TIMEOUT`].
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// The same between nodes, which are to find each other again soon after a network came back. Longer than a node may
/// stall on a loaded machine.
pub const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The same for nodes, well within [`PEER_IDLE_TIMEOUT`].
pub const PEER_KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Bytes of datagrams that wait to be sent, and that wait to be read. Beyond, the oldest are dropped.
pub(crate) const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;
/// Most streams that one peer may have open at a time. Further ones wait at the peer.
pub const STREAMS_MAX: u32 = 1024;

/// Most peers that have knocked and wait to be let in. A further one is not heard, and knocks again.
const WAITING_MAX: usize = 512;
/// Most bytes kept of what such a peer sends after its first packet: the rest of its greeting.
const WAITING_BYTES_MAX: u64 = 16 << 10;
/// The same for all of them.
const WAITING_BYTES_TOTAL_MAX: u64 = 2 << 20;

/// The code of a connection that ends because its work is done.
pub const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// The code of a connection that ends because the node stops. Another node, or this one later, may serve.
pub const CLOSE_STOPPING: VarInt = VarInt::from_u32(1);
/// The code of a connection whose peer is not accepted; the reason says why.
pub const CLOSE_REFUSED: VarInt = VarInt::from_u32(2);

/// The code with which either side resets or stops a stream that it gives up.
pub(crate) const STREAM_GIVEN_UP: VarInt = VarInt::from_u32(0);

/// Settings that trade memory and the path's character for speed. The defaults were measured with
/// `cargo run --release --example bulk`; see there.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Bytes that a peer may send on one stream ahead of the reader.
    pub stream_window_bytes: u32,
    /// Bytes that a peer may send on all streams of a connection ahead of their readers: the most that a slow reader
    /// makes this side buffer.
    pub connection_window_bytes: u32,
    /// Bytes written and not yet acknowledged that a connection keeps: the most that a slow peer makes this side buffer.
    /// What is above the receiver's socket buffer only overruns it.
    pub send_window_bytes: u64,
    /// Largest UDP payload to look for. What the path carries is found by probing, starting low.
    pub mtu_max: u16,
    /// Bytes asked of the kernel for each of the socket's two buffers. It may give less.
    pub socket_buffer_bytes: usize,
    /// Packets that a receiver may take in before it acknowledges.
    pub ack_every: u32,
    /// Bytes sent at once on a new connection.
    pub initial_window_bytes: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            stream_window_bytes: 8 << 20,
            connection_window_bytes: 32 << 20,
            send_window_bytes: 4 << 20,
            mtu_max: 16_000,
            socket_buffer_bytes: 8 << 20,
            ack_every: 10,
            initial_window_bytes: 1 << 20,
        }
    }
}

impl Tuning {
    fn transport(&self) -> TransportConfig {
        let mut mtu = MtuDiscoveryConfig::default();
        // Lost packets can look like a smaller MTU; do not stay slow for long.
        mtu.upper_bound(self.mtu_max)
            .black_hole_cooldown(Duration::from_secs(5));
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(self.ack_every));
        let mut congestion = CubicConfig::default();
        congestion.initial_window(self.initial_window_bytes);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(self.send_window_bytes)
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
                IDLE_TIMEOUT.as_millis() as u32,
            ))))
            .initial_rtt(Duration::from_millis(10))
            .mtu_discovery_config(Some(mtu))
            .ack_frequency_config(Some(acks))
            .congestion_controller_factory(Arc::new(congestion));
        transport
    }

    fn endpoint(&self, restart: RestartKey) -> io::Result<EndpointConfig> {
        let mut config = EndpointConfig::new(restart.reset_key());
        config.cid_generator(|| Box::new(ConnectionIds));
        config
            .max_udp_payload_size(self.mtu_max)
            .map_err(io::Error::other)?;
        Ok(config)
    }

    fn socket(&self, addr: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            // Where the system cannot do both families, IPv6 alone is what was asked for.
            let _ = socket.set_only_v6(false);
        }
        // The kernel gives what its limits allow, and smaller buffers only cost speed.
        let _ = socket.set_recv_buffer_size(self.socket_buffer_bytes);
        let _ = socket.set_send_buffer_size(self.socket_buffer_bytes);
        socket.bind(&addr.into())?;
        Ok(socket.into())
    }
}

/// An endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr}: {source}: stop what has the address, or change `listen` in node.toml"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why; most often that another process has it.
        source: io::Error,
    },
}

/// Opens an endpoint that accepts connections on `addr` (port 0: any free one) and can dial too.
///
/// # Errors
/// [`EndpointError`].
pub fn server_endpoint(
    addr: SocketAddr,
    credentials: &Credentials,
    tuning: &Tuning,
) -> Result<Endpoint, EndpointError> {
    let config = server_config(credentials, tuning)?;
    open(addr, Some(config), credentials.restart_key(), tuning)
        .map_err(|source| EndpointError::Listen { addr, source })
}

fn server_config(
    credentials: &Credentials,
    tuning: &Tuning,
) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::with_crypto(Arc::new(credentials.server()?));
    let mut transport = tuning.transport();
    // Who it is shows only after the handshake; what a client sends goes unread, and costs no more than this.
    transport.datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES));
    config.transport_config(Arc::new(transport));
    // A client that moves is a new client.
    config.migration(false);
    config
        .max_incoming(WAITING_MAX)
        .incoming_buffer_size(WAITING_BYTES_MAX)
        .incoming_buffer_size_total(WAITING_BYTES_TOTAL_MAX);
    Ok(config)
}

/// Follows the files of `identity` and lets `endpoint` accept connections with what they hold. Established ones go on.
/// Never ends.
pub async fn follow_identity(endpoint: Endpoint, identity: LiveIdentity, tuning: Tuning) {
    let mut changes = identity.changes();
    let taking_over = async {
        while changes.changed().await.is_ok() {
            let credentials = Arc::clone(&changes.borrow_and_update());
            match server_config(&credentials, &tuning) {
                Ok(config) => endpoint.set_server_config(Some(config)),
                Err(error) => tracing::warn!(%error, "the identity before stays in use"),
            }
        }
    };
    tokio::join!(identity.follow(), taking_over);
}

/// How a client dials with these credentials: for [`Endpoint::connect_with`], where they may have changed since the
/// endpoint was opened.
///
/// # Errors
/// [`IdentityError`].
pub fn client_config(
    credentials: &Credentials,
    tuning: &Tuning,
) -> Result<ClientConfig, IdentityError> {
    let mut transport = tuning.transport();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(0));
    let mut config = ClientConfig::new(Arc::new(credentials.client()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// How a node dials another one: it soon knows when a connection is lost, and may send datagrams.
///
/// # Errors
/// [`IdentityError`].
pub(crate) fn peer_config(
    credentials: &Credentials,
    tuning: &Tuning,
) -> Result<ClientConfig, IdentityError> {
    let mut transport = tuning.transport();
    transport
        .keep_alive_interval(Some(PEER_KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
            PEER_IDLE_TIMEOUT.as_millis() as u32,
        ))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    let mut config = ClientConfig::new(Arc::new(credentials.client()?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Opens an endpoint that dials addresses of `peer`'s family, from any free port.
///
/// # Errors
/// [`EndpointError`].
pub fn client_endpoint(
    peer: SocketAddr,
    credentials: &Credentials,
    tuning: &Tuning,
) -> Result<Endpoint, EndpointError> {
    let addr = match peer {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let config = client_config(credentials, tuning)?;
    let mut endpoint = open(addr, None, credentials.restart_key(), tuning)
        .map_err(|source| EndpointError::Listen { addr, source })?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

fn open(
    addr: SocketAddr,
    server: Option<ServerConfig>,
    restart: RestartKey,
    tuning: &Tuning,
) -> io::Result<Endpoint> {
    let socket = Arc::new(CuttingSocket::new(tuning.socket(addr)?)?);
    Endpoint::new_with_abstract_socket(
        tuning.endpoint(restart)?,
        server,
        socket,
        Arc::new(TokioRuntime),
    )
}
