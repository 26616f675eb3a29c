//! Handshakes that are begun and never ended, by the thousand: they cost the node little and keep nobody out.
//!
//! One test only: it measures the memory of its process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{net::SocketAddr, time::Duration};

use mesh_net::{
    identity::{Credentials, Grants, NODE_SERVER_NAME, Validity},
    quic::{Tuning, client_endpoint},
};
use quinn::Endpoint;
use support::{Mesh, within};
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

/// More than the node would bear if each cost it what a connection costs: about 100 KB.
const FLOOD: usize = 6_000;
const AT_ONCE: usize = 50;
const GROWTH_BYTES_MAX: usize = 150 << 20;

/// Lets a client begin handshakes with a node that it never hears of again: what it sends passes through here, and of
/// what comes back at most the demand to prove its address.
struct Abandoned {
    node: SocketAddr,
    client: Endpoint,
    /// Where the node sees the client.
    outside: UdpSocket,
    /// Whether the client gets to prove that it is where it says.
    proves_address: bool,
}

impl Abandoned {
    async fn new(mesh: &Mesh, proves_address: bool) -> Self {
        let files = mesh.identity(&Grants::all(), Validity::days(1));
        let credentials = Credentials::load(&files).unwrap();
        Self {
            node: mesh.addr,
            client: client_endpoint(mesh.addr, &credentials, &Tuning::default()).unwrap(),
            outside: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            proves_address,
        }
    }

    /// Keeps the client's own memory, which is this process's too, out of the measurement.
    async fn client_forgets(&self) {
        while self.client.open_connections() > 5 * AT_ONCE {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Begins some handshakes. Once the client has said hello in all of them they are dropped, of which the node does
    /// not hear.
    async fn begin(&self, count: usize) {
        // A new one each time: what the client says at the end goes nowhere.
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let here = inside.local_addr().unwrap();
        let connect = |_| self.client.connect(here, NODE_SERVER_NAME).unwrap();
        let _connecting: Vec<_> = (0..count).map(connect).collect();
        let mut client = self.client.local_addr().unwrap();
        let (mut out, mut back) = ([0; 2048], [0; 2048]);
        for _ in 0..count * 8 {
            let passing = async {
                tokio::select! {
                    sent = inside.recv_from(&mut out) => {
                        let (length, from) = sent.unwrap();
                        client = from;
                        self.outside.send_to(&out[..length], self.node).await.unwrap();
                    }
                    answer = self.outside.recv(&mut back) => {
                        let answer = &back[..answer.unwrap()];
                        // The first byte of a Retry packet of QUIC version 1.
                        if self.proves_address && answer[0] & 0xf0 == 0xf0 {
                            inside.send_to(answer, client).await.unwrap();
                        }
                    }
                }
            };
            if timeout(Duration::from_millis(5), passing).await.is_err() {
                return;
            }
        }
    }
}

/// Memory of this process that is in RAM.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoned_handshakes_cost_little_and_keep_nobody_out() {
    let mesh = Mesh::start().await;
    let old = mesh.client().await;
    mesh.assert_serves().await;
    for proves_address in [false, true] {
        let before = resident_bytes();
        let flood = Abandoned::new(&mesh, proves_address).await;
        for round in 0..FLOOD / AT_ONCE {
            flood.begin(AT_ONCE).await;
            within(flood.client_forgets()).await;
            let growth = resident_bytes().saturating_sub(before);
            assert!(
                growth < GROWTH_BYTES_MAX,
                "{growth} bytes more after {} handshakes (address proved: {proves_address})",
                (round + 1) * AT_ONCE
            );
            if round % 20 == 10 {
                let key = round.to_string();
                within(old.put(key.as_bytes(), "v".into(), Default::default()))
                    .await
                    .unwrap();
                // Those that prove an address can take every place for a while; others cannot.
                if !proves_address {
                    mesh.assert_serves().await;
                }
            }
        }
        mesh.assert_serves().await;
    }
    // Others say goodbye at once, and linger no longer than QUIC demands.
    let (before, flood) = (resident_bytes(), Abandoned::new(&mesh, true).await);
    for _ in 0..FLOOD / AT_ONCE {
        for _ in 0..AT_ONCE {
            drop(flood.client.connect(mesh.addr, NODE_SERVER_NAME).unwrap());
        }
        within(flood.client_forgets()).await;
    }
    mesh.assert_serves().await;
    let growth = resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes more");
}
