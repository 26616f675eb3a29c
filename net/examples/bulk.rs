//! How fast the transport moves bytes on this machine: one stream over loopback, client and server in two processes'
//! worth of runtimes. Run it in release; each setting of [`Tuning`] can be given in the environment.
//!
//! ```sh
//! cargo run --release -p mesh-net --example bulk
//! MTU_MAX=9000 ACK_EVERY=2 cargo run --release -p mesh-net --example bulk
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement for a terminal"
)]

use std::{env, net::Ipv4Addr, time::Instant};

use bytes::Bytes;
use mesh_net::{
    identity::{Authority, CredentialFiles, Credentials, Grants, NODE_SERVER_NAME, Validity},
    quic::{Tuning, client_endpoint, server_endpoint},
};

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    if threads == 0 {
        return tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

fn main() {
    let default = Tuning::default();
    let tuning = Tuning {
        stream_window_bytes: setting("STREAM_WINDOW_BYTES", default.stream_window_bytes),
        connection_window_bytes: setting(
            "CONNECTION_WINDOW_BYTES",
            default.connection_window_bytes,
        ),
        send_window_bytes: setting("SEND_WINDOW_BYTES", default.send_window_bytes),
        mtu_max: setting("MTU_MAX", default.mtu_max),
        socket_buffer_bytes: setting("SOCKET_BUFFER_BYTES", default.socket_buffer_bytes),
        ack_every: setting("ACK_EVERY", default.ack_every),
        initial_window_bytes: setting("INITIAL_WINDOW_BYTES", default.initial_window_bytes),
    };
    let bytes = setting("MIB", 2048_usize) << 20;
    let chunk = setting("CHUNK_KIB", 256_usize) << 10;
    let threads = setting("THREADS", 1);

    let dir = env::temp_dir().join(format!("mesh-bulk-{}", std::process::id()));
    let authority = Authority::create(&dir.join("ca")).unwrap();
    authority
        .issue_node(&dir.join("node"), "n1", &[], Validity::days(1))
        .unwrap();
    authority
        .issue_client(&dir.join("client"), "c", &Grants::none(), Validity::days(1))
        .unwrap();
    let load = |name: &str| Credentials::load(&CredentialFiles::in_dir(&dir.join(name))).unwrap();
    let (node, client) = (load("node"), load("client"));
    std::fs::remove_dir_all(&dir).unwrap();

    let server = runtime(threads);
    let endpoint = server.block_on(async {
        server_endpoint((Ipv4Addr::LOCALHOST, 0).into(), &node, &tuning).unwrap()
    });
    let addr = endpoint.local_addr().unwrap();
    let serving = std::thread::spawn(move || server.block_on(serve(endpoint, bytes, chunk)));
    runtime(threads).block_on(async {
        let endpoint = client_endpoint(addr, &client, &tuning).unwrap();
        let connection = endpoint
            .connect(addr, NODE_SERVER_NAME)
            .unwrap()
            .await
            .unwrap();
        println!("{tuning:?}");
        download(&connection).await;
        for chunk in [1 << 10, 64 << 10, 256 << 10, 1 << 20] {
            rounds(&connection, chunk, setting("ROUNDS", 1000)).await;
        }
        connection.close(0_u32.into(), b"");
        endpoint.wait_idle().await;
    });
    let path = serving.join().unwrap();
    println!(
        "server: mtu {}, lost {} of {} packets, black holes {}, probes {} of {} lost, congestion events {}, rtt {:?}, window {}",
        path.current_mtu,
        path.lost_packets,
        path.sent_packets,
        path.black_holes_detected,
        path.lost_plpmtud_probes,
        path.sent_plpmtud_probes,
        path.congestion_events,
        path.rtt,
        path.cwnd
    );
}

/// The first stream gets `bytes`; on every further one, each `chunk` that has come is answered with a byte.
async fn serve(endpoint: quinn::Endpoint, bytes: usize, chunk: usize) -> quinn::PathStats {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, _) = connection.accept_bi().await.unwrap();
    let piece = Bytes::from(vec![7_u8; chunk]);
    let mut sent = 0;
    while sent < bytes {
        send.write_chunk(piece.clone()).await.unwrap();
        sent += chunk;
    }
    send.finish().unwrap();
    while let Ok((mut send, mut receive)) = connection.accept_bi().await {
        let mut length = [0; 8];
        receive.read_exact(&mut length).await.unwrap();
        let mut chunk = vec![0; usize::from_be_bytes(length)];
        while receive.read_exact(&mut chunk).await.is_ok() {
            send.write_all(&[1]).await.unwrap();
        }
    }
    connection.stats().path
}

async fn download(connection: &quinn::Connection) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    let start = Instant::now();
    send.write_all(b"go").await.unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut got = 0;
    while let Some(n) = receive.read(&mut buffer).await.unwrap() {
        got += n;
    }
    println!(
        "{:.0} MiB/s",
        got as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20)
    );
}

async fn rounds(connection: &quinn::Connection, chunk: usize, count: usize) {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&chunk.to_be_bytes()).await.unwrap();
    let piece = Bytes::from(vec![7_u8; chunk]);
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        send.write_chunk(piece.clone()).await.unwrap();
        receive.read_exact(&mut [0]).await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!(
        "{} KiB and a byte back: p50 {:?}, p99 {:?}",
        chunk >> 10,
        times[count / 2],
        times[count * 99 / 100]
    );
}
