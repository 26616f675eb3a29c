//! Streams of a Redis server: `XADD` and `XREAD`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bench_drive::{Reader, Result, System, Visit};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, Value};

/// Requests that each has room for.
const PIPELINE: usize = 4096;
/// Entries of one `XREAD`.
const ENTRIES: usize = 1_000;
/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(60);

/// A server, and the connections that publish to it, each of which pipelines what is in flight.
#[derive(Clone)]
pub struct Streams {
    client: Client,
    connections: Arc<[MultiplexedConnection]>,
    next: Arc<AtomicUsize>,
}

impl Streams {
    /// Connects to the server at this port, with so many connections that publish.
    pub async fn connect(port: u16, count: usize) -> Result<Self> {
        let address = format!("redis://127.0.0.1:{port}/").into_connection_info()?;
        let client =
            Client::open(address.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
        let mut connections = Vec::new();
        for _ in 0..count.max(1) {
            connections.push(connect(&client).await?);
        }
        redis::cmd("PING")
            .query_async::<()>(&mut connections[0])
            .await?;
        Ok(Self {
            client,
            connections: connections.into(),
            next: Arc::default(),
        })
    }

    /// A connection for what is not measured.
    pub fn admin(&self) -> MultiplexedConnection {
        self.connections[0].clone()
    }

    fn connection(&self) -> MultiplexedConnection {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections[next % self.connections.len()].clone()
    }
}

async fn connect(client: &Client) -> Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(REQUEST))
        .set_pipeline_buffer_size(PIPELINE);
    Ok(client
        .get_multiplexed_async_connection_with_config(&config)
        .await?)
}

fn xadd(topic: usize, value: &[u8]) -> Cmd {
    let mut add = Cmd::new();
    add.arg("XADD")
        .arg(name(topic))
        .arg("*")
        .arg("v")
        .arg(value);
    add
}

fn name(topic: usize) -> String {
    format!("s{topic}")
}

impl System for Streams {
    type Reader = StreamReader;

    /// The first entry makes a stream.
    async fn make_topics(&self, _: usize) -> Result<()> {
        Ok(())
    }

    async fn publish(&self, topic: usize, value: Bytes) -> Result<()> {
        let _: Value = xadd(topic, &value)
            .query_async(&mut self.connection())
            .await?;
        Ok(())
    }

    /// In one transaction: all of them in a row, or none, and one fsync.
    async fn publish_batch(&self, topic: usize, values: Vec<Bytes>) -> Result<()> {
        let mut together = Pipeline::with_capacity(values.len());
        together.atomic();
        for value in &values {
            together.add_command(xadd(topic, value));
        }
        let _: Value = together.query_async(&mut self.connection()).await?;
        Ok(())
    }

    async fn reader(&self) -> Result<StreamReader> {
        Ok(StreamReader {
            connection: connect(&self.client).await?,
            stream: String::new(),
            last: b"0".to_vec(),
        })
    }
}

/// Reads a stream over a connection of its own.
pub struct StreamReader {
    connection: MultiplexedConnection,
    stream: String,
    /// The id of the last entry that was read.
    last: Vec<u8>,
}

impl Reader for StreamReader {
    async fn begin(&mut self, topic: usize) -> Result<()> {
        self.stream = name(topic);
        self.last = b"0".to_vec();
        Ok(())
    }

    async fn next(&mut self, visit: Visit<'_>) -> Result<()> {
        let mut read = Cmd::new();
        read.arg("XREAD").arg("COUNT").arg(ENTRIES);
        // Less than a request may take: then there is nothing, and it asks again.
        read.arg("BLOCK").arg(REQUEST.as_millis() as u64 / 2);
        read.arg("STREAMS").arg(&self.stream).arg(&self.last[..]);
        let answer: Value = read.query_async(&mut self.connection).await?;
        match entries(&answer) {
            None => Ok(()),
            Some(entries) => self.visit(entries, visit),
        }
    }
}

impl StreamReader {
    /// An entry is its id and its fields, one after the other.
    fn visit(&mut self, entries: &[Value], visit: Visit<'_>) -> Result<()> {
        let mut last = None;
        for entry in entries {
            let Value::Array(entry) = entry else {
                return Err("Redis answers another thing than entries".into());
            };
            let [Value::BulkString(id), Value::Array(fields)] = &entry[..] else {
                return Err("an entry of Redis is not understood".into());
            };
            let [_, Value::BulkString(value)] = &fields[..] else {
                return Err("an entry of Redis has not the field that was added".into());
            };
            visit(value);
            last = Some(id);
        }
        if let Some(id) = last {
            self.last.clone_from(id);
        }
        Ok(())
    }
}

/// The entries of the one stream that was asked for; none where nothing came in time.
fn entries(answer: &Value) -> Option<&[Value]> {
    let Value::Array(streams) = answer else {
        return None;
    };
    let [Value::Array(stream)] = &streams[..] else {
        return None;
    };
    match &stream[..] {
        [_, Value::Array(entries)] => Some(entries),
        _ => None,
    }
}
