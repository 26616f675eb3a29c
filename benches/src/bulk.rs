//! What the transport itself can do: bytes on one QUIC stream between two processes, with the node's and the client's own
//! endpoint settings and identities, and no protocol above.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_net::identity::{CredentialFiles, Credentials, NODE_SERVER_NAME};
use mesh_net::quic::{Tuning, client_endpoint, server_endpoint};
use quinn::{Connection, Endpoint};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use crate::Result;
use crate::children::Child;

/// Which of the transport's settings a transfer has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// Datagrams as large as quinn looks for by itself: 1,452 bytes, what any network carries.
    AsQuinnComes,
    /// Datagrams as large as Meshlog looks for: a loopback device carries them, an ordinary network does not.
    AsMeshlogHasIt,
}

impl Path {
    fn tuning(self) -> Tuning {
        match self {
            Path::AsQuinnComes => Tuning {
                mtu_max: 1_452,
                ..Tuning::default()
            },
            Path::AsMeshlogHasIt => Tuning::default(),
        }
    }

    /// What it is called between processes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Path::AsQuinnComes => "quinn",
            Path::AsMeshlogHasIt => "meshlog",
        }
    }

    /// The one of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Path> {
        [Path::AsQuinnComes, Path::AsMeshlogHasIt]
            .into_iter()
            .find(|path| path.name() == name)
            .ok_or_else(|| format!("no path is called {name}").into())
    }
}

/// How long the sender may take until it can be reached.
const READY: Duration = Duration::from_secs(60);
/// Bytes of each write.
const CHUNK_BYTES: usize = 256 << 10;

/// Moves `bytes` bytes from a process of its own to each of so many receivers in this one; returns MiB/s of them all.
///
/// # Errors
/// The transport's.
pub fn rate(
    node: &FilePath,
    client: &FilePath,
    path: Path,
    bytes: u64,
    receivers: usize,
) -> Result<f64> {
    let node = node.to_str().ok_or("the folder's name is not UTF-8")?;
    let numbers = [bytes, receivers as u64].map(|number| number.to_string());
    let mut sender = Child::start("send-bulk", &[node, path.name(), &numbers[0], &numbers[1]])?;
    let address: SocketAddr = sender.line_within(READY)?.parse()?;
    let credentials = Credentials::load(&CredentialFiles::in_dir(client))?;
    let seconds = runtime()?.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..receivers {
            let endpoint = client_endpoint(address, &credentials, &path.tuning())?;
            let connection = endpoint.connect(address, NODE_SERVER_NAME)?.await?;
            connections.push((endpoint, connection));
        }
        let (began, mut receiving) = (Instant::now(), JoinSet::new());
        for (endpoint, connection) in connections {
            receiving.spawn(receive(endpoint, connection, bytes));
        }
        let mut last = began;
        while let Some(received) = receiving.join_next().await {
            last = last.max(received??);
        }
        Ok::<_, crate::Error>((last - began).as_secs_f64())
    })?;
    sender.finish()?;
    Ok(bytes as f64 * receivers as f64 / f64::from(1 << 20) / seconds)
}

/// Serves so many clients: sends `bytes` bytes to each and ends when they have gone. `ready` is told the address.
///
/// # Errors
/// The transport's.
pub fn send(
    identity: &FilePath,
    path: Path,
    bytes: u64,
    receivers: usize,
    ready: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let credentials = Credentials::load(&CredentialFiles::in_dir(identity))?;
    runtime()?.block_on(async {
        let endpoint = server_endpoint(
            (Ipv4Addr::LOCALHOST, 0).into(),
            &credentials,
            &path.tuning(),
        )?;
        ready(endpoint.local_addr()?)?;
        let mut sending = JoinSet::new();
        for _ in 0..receivers {
            let incoming = endpoint.accept().await.ok_or("the endpoint was closed")?;
            sending.spawn(async move { send_one(incoming.await?, bytes).await });
        }
        while let Some(sent) = sending.join_next().await {
            sent??;
        }
        Ok(())
    })
}

async fn send_one(connection: Connection, bytes: u64) -> Result<()> {
    let (mut stream, mut request) = connection.accept_bi().await?;
    request.read_to_end(16).await?;
    let chunk = Bytes::from(vec![7; CHUNK_BYTES]);
    let mut left = bytes;
    while left > 0 {
        let piece = chunk.slice(..left.min(CHUNK_BYTES as u64) as usize);
        left -= piece.len() as u64;
        stream.write_chunk(piece).await?;
    }
    stream.finish()?;
    connection.closed().await;
    Ok(())
}

/// Returns when the last byte came.
async fn receive(endpoint: Endpoint, connection: Connection, bytes: u64) -> Result<Instant> {
    let (mut request, mut stream) = connection.open_bi().await?;
    request.write_all(b"go").await?;
    request.finish()?;
    let mut received = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        received += chunk.bytes.len() as u64;
    }
    let last = Instant::now();
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    if received != bytes {
        return Err(format!("{bytes} bytes were sent, but {received} received").into());
    }
    Ok(last)
}

/// As `meshctl` has it.
fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}
