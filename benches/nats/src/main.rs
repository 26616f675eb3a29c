//! The load of `meshctl bench publish`, on a NATS JetStream cluster: three servers on this machine, every stream with
//! three replicas, `sync_interval: always`, so that both sides acknowledge what is on three disks' logs.
//!
//! `nats-load SERVER [--records N] [--size BYTES] [--inflight N] [--topics N] [--servers N]` prints one JSON object with
//! the fields of `meshctl bench`.

use std::net::{TcpListener, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use hdrhistogram::Histogram;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, mpsc};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long servers have to form their cluster and elect its leaders.
const START: Duration = Duration::from_secs(60);

struct Load {
    server: String,
    servers: usize,
    records: usize,
    size: usize,
    inflight: usize,
    topics: usize,
}

fn parse() -> Result<Load, Failure> {
    let mut args = std::env::args().skip(1);
    let mut load = Load {
        server: args.next().ok_or("nats-load SERVER [--records N] …")?,
        servers: 3,
        records: 100_000,
        size: 1024,
        inflight: 256,
        topics: 1,
    };
    while let Some(flag) = args.next() {
        let value: usize = args.next().ok_or(format!("{flag} wants a number"))?.parse()?;
        match flag.as_str() {
            "--records" => load.records = value,
            "--size" => load.size = value,
            "--inflight" => load.inflight = value,
            "--topics" => load.topics = value,
            "--servers" => load.servers = value,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(load)
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    // A UDP socket of the same number is not needed; binding one only shows that loopback works.
    drop(UdpSocket::bind("127.0.0.1:0")?);
    Ok(listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect::<Result<_, std::io::Error>>()?)
}

/// Starts the servers; they end with the handles.
fn start(load: &Load, dir: &std::path::Path) -> Result<(Vec<Child>, Vec<u16>), Failure> {
    let ports = free_ports(2 * load.servers)?;
    let (clients, routes) = ports.split_at(load.servers);
    let peers: Vec<String> = routes
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let mut children = Vec::new();
    for n in 0..load.servers {
        let store = dir.join(format!("n{n}"));
        let cluster = if load.servers > 1 {
            format!(
                "cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{}] }}",
                routes[n],
                peers.join(", ")
            )
        } else {
            String::new()
        };
        let config = format!(
            "server_name: n{n}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?}, sync_interval: always, max_mem: 1G, max_file: 40G }}\n{cluster}\n",
            clients[n], store
        );
        let file = dir.join(format!("n{n}.conf"));
        std::fs::write(&file, config)?;
        children.push(
            Command::new(&load.server)
                .arg("-c")
                .arg(&file)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()?,
        );
    }
    Ok((children, clients.to_vec()))
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let load = parse()?;
    let dir = tempfile::tempdir_in(".")?;
    let (mut children, ports) = start(&load, dir.path())?;
    let measured = run(&load, &ports).await;
    for child in &mut children {
        child.kill().await?;
    }
    println!("{}", measured?);
    Ok(())
}

async fn run(load: &Load, ports: &[u16]) -> Result<serde_json::Value, Failure> {
    let deadline = Instant::now() + START;
    let addresses: Vec<String> = ports
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let client = loop {
        match async_nats::connect(addresses.clone()).await {
            Ok(client) => break client,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    let stream = jetstream::ContextBuilder::new()
        .ack_timeout(Duration::from_secs(30))
        .max_ack_inflight(load.inflight.max(1) * 2)
        .build(client);
    for n in 0..load.topics {
        loop {
            let made = stream
                .create_stream(stream::Config {
                    name: format!("s{n}"),
                    subjects: vec![format!("t.{n}")],
                    storage: stream::StorageType::File,
                    num_replicas: load.servers,
                    ..Default::default()
                })
                .await;
            match made {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
    // Every stream has its leader before the clock runs.
    for n in 0..load.topics {
        stream.publish(format!("t.{n}"), "warm".into()).await?.await?;
    }
    publish(load, stream).await
}

async fn publish(load: &Load, stream: jetstream::Context) -> Result<serde_json::Value, Failure> {
    let payload = bytes_of(load.size);
    let places = Arc::new(Semaphore::new(load.inflight));
    let (sender, mut latencies) = mpsc::channel::<Result<Duration, String>>(4096);
    let records = load.records;
    let counting = tokio::spawn(async move {
        let mut histogram = Histogram::<u64>::new(3).map_err(|e| e.to_string())?;
        for _ in 0..records {
            let latency = latencies.recv().await.ok_or("an answer was lost")??;
            histogram
                .record(latency.as_micros().try_into().unwrap_or(u64::MAX))
                .map_err(|e| e.to_string())?;
        }
        Ok::<_, String>(histogram)
    });
    let began = Instant::now();
    for n in 0..records {
        let place = Arc::clone(&places).acquire_owned().await?;
        let sent = Instant::now();
        let ack = stream
            .publish(format!("t.{}", n % load.topics), payload.clone())
            .await?;
        let sender = sender.clone();
        tokio::spawn(async move {
            let answer = ack.await;
            drop(place);
            let latency = answer.map(|_| sent.elapsed()).map_err(|e| e.to_string());
            let _ = sender.send(latency).await;
        });
    }
    drop(sender);
    let histogram = counting.await??;
    let seconds = began.elapsed().as_secs_f64();
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    let rate = records as f64 / seconds;
    Ok(serde_json::json!({
        "records": records, "size": load.size, "inflight": load.inflight, "topics": load.topics,
        "servers": load.servers, "seconds": seconds, "records_per_second": rate,
        "mib_per_second": rate * load.size as f64 / (1 << 20) as f64,
        "latency_ms": { "p50": ms(0.5), "p99": ms(0.99), "p999": ms(0.999), "max": histogram.max() as f64 / 1000.0 },
    }))
}

/// Bytes that do not compress.
fn bytes_of(size: usize) -> bytes::Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}
