//! Nodes that speak the protocol and have one shared log, so that leaders move, lag and lie as a test wants it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use mesh_engine::batch::{BatchHeader, LeaderStamp, stamp};
use mesh_net::{
    client::{Client, ClientConfig},
    identity::{Authority, CredentialFiles, Credentials, Fingerprint, Grants, Peer, Validity},
    quic::{Tuning, server_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{
            self, Appended, Appends, Error, ErrorCode, MapIs, NodeState, Reply, Request, TailFrame,
            reply, request, tail_frame,
        },
    },
};
use mesh_ring::{
    hash::partition_of,
    ids::{Epoch, ProducerId},
    producer::{ProducerWindow, SequenceError, Verdict},
};
use prost::Message;
use quinn::{Connection, Endpoint, RecvStream};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};

use crate::relay::Relay;

pub(crate) const PARTITIONS: u16 = 6;

/// What all nodes share.
pub(crate) struct World {
    pub(crate) version: u64,
    pub(crate) addresses: Vec<String>,
    pub(crate) down: BTreeSet<usize>,
    pub(crate) leaders: Vec<Option<usize>>,
    /// Nodes that keep no copies.
    pub(crate) outsiders: BTreeSet<usize>,
    /// Nodes that take appends of a partition into the log although they do not lead any more, and deny it.
    pub(crate) deposed: BTreeMap<u16, usize>,
    /// Whether a node that does not lead says who does.
    pub(crate) hints: bool,
    pub(crate) revoked: Vec<Fingerprint>,
    /// Refuse appends with this.
    pub(crate) refuse: Option<ErrorCode>,
    /// How many records of each topic a node does not know of yet.
    pub(crate) lag: BTreeMap<usize, u64>,
    pub(crate) topics: BTreeMap<String, Topic>,
    /// How often each node was asked to make a topic, and did.
    pub(crate) created: Vec<usize>,
    /// The certificates that clients came with.
    pub(crate) came: Vec<Fingerprint>,
    /// Live connections, by node.
    connections: Vec<Vec<Connection>>,
}

#[derive(Default)]
pub(crate) struct Topic {
    pub(crate) id: u64,
    next: u64,
    batches: Vec<Bytes>,
    windows: HashMap<ProducerId, ProducerWindow>,
}

type Shared = Arc<(Mutex<World>, watch::Sender<u64>)>;

pub(crate) struct Fleet {
    dir: TempDir,
    authority: Authority,
    shared: Shared,
    pub(crate) relays: Vec<Relay>,
    _endpoints: Vec<Endpoint>,
    _tasks: JoinSet<()>,
}

impl Fleet {
    pub(crate) async fn start(nodes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let world = World {
            version: 1,
            addresses: Vec::new(),
            down: BTreeSet::new(),
            leaders: (0..PARTITIONS)
                .map(|p| Some(usize::from(p) % nodes))
                .collect(),
            outsiders: BTreeSet::new(),
            deposed: BTreeMap::new(),
            hints: true,
            revoked: Vec::new(),
            refuse: None,
            lag: BTreeMap::new(),
            topics: BTreeMap::new(),
            created: vec![0; nodes],
            came: Vec::new(),
            connections: (0..nodes).map(|_| Vec::new()).collect(),
        };
        let shared: Shared = Arc::new((Mutex::new(world), watch::Sender::new(0)));
        let (mut relays, mut endpoints, mut tasks) = (Vec::new(), Vec::new(), JoinSet::new());
        for node in 0..nodes {
            let files = dir.path().join(format!("n{node}"));
            authority
                .issue_node(&files, &format!("n{node}"), &[], Validity::days(1))
                .unwrap();
            let credentials = Credentials::load(&CredentialFiles::in_dir(&files)).unwrap();
            let endpoint = server_endpoint(
                (Ipv4Addr::LOCALHOST, 0).into(),
                &credentials,
                &Tuning::default(),
            )
            .unwrap();
            let relay = Relay::to(endpoint.local_addr().unwrap()).await;
            shared
                .0
                .lock()
                .unwrap()
                .addresses
                .push(relay.addr.to_string());
            tasks.spawn(accept(endpoint.clone(), node, shared.clone()));
            relays.push(relay);
            endpoints.push(endpoint);
        }
        Self {
            dir,
            authority,
            shared,
            relays,
            _endpoints: endpoints,
            _tasks: tasks,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.0.lock().unwrap()
    }

    /// A client whose first contacts are these nodes.
    pub(crate) async fn client(&self, contacts: &[usize], timeout: Duration) -> Client {
        let dir = self.path("client");
        if !dir.exists() {
            self.issue_client("client");
        }
        let nodes = contacts
            .iter()
            .map(|&node| self.relays[node].addr.to_string())
            .collect();
        let mut config = ClientConfig::new(nodes, CredentialFiles::in_dir(&dir));
        config.timeout = timeout;
        Client::connect(config).await.unwrap()
    }

    /// Makes an identity of the clients' name.
    pub(crate) fn issue_client(&self, folder: &str) {
        self.authority
            .issue_client(&self.path(folder), "c", &Grants::all(), Validity::days(1))
            .unwrap();
    }

    /// Another node leads the topic's partition from now on, and the map says so.
    pub(crate) fn lead(&self, partition: u16, leader: Option<usize>) {
        let mut world = self.world();
        world.leaders[usize::from(partition)] = leader;
        world.deposed.remove(&partition);
        world.version += 1;
    }

    pub(crate) fn leader(&self, topic: &str) -> Option<usize> {
        self.world().leader(topic)
    }

    /// Ends all connections of a node, whatever is under way on them.
    pub(crate) fn hang_up(&self, node: usize) {
        for connection in self.world().connections[node].drain(..) {
            connection.close(1_u32.into(), b"");
        }
    }

    /// All values of a topic, in their order.
    pub(crate) fn values(&self, topic: &str) -> Vec<String> {
        let world = self.world();
        let mut values = Vec::new();
        for batch in &world.topics[topic].batches {
            for record in mesh_engine::batch::records(batch).unwrap() {
                let value = record.unwrap().1.value;
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
        values
    }

    /// Tells the tails that there may be more.
    pub(crate) fn tell(&self) {
        self.shared.1.send_modify(|changes| *changes += 1);
    }
}

impl World {
    pub(crate) fn leader(&self, topic: &str) -> Option<usize> {
        self.leaders[usize::from(partition_of(topic.as_bytes(), PARTITIONS).0)]
    }

    fn map(&self) -> proto::ClusterMap {
        let nodes = self.addresses.iter().enumerate();
        let nodes = nodes.map(|(node, address)| proto::MapNode {
            name: format!("n{node}"),
            address: address.clone(),
            state: match self.down.contains(&node) {
                true => NodeState::Down,
                false => NodeState::Up,
            }
            .into(),
            ..Default::default()
        });
        let replicas: Vec<u32> = (0..self.addresses.len())
            .filter(|node| !self.outsiders.contains(node))
            .map(|node| node as u32)
            .collect();
        let partitions = self.leaders.iter().map(|leader| proto::MapPartition {
            replicas: replicas.clone(),
            leader: leader.map(|node| node as u32),
            ..Default::default()
        });
        proto::ClusterMap {
            version: self.version,
            nodes: nodes.collect(),
            partitions: partitions.collect(),
            revoked: self
                .revoked
                .iter()
                .map(|f| Bytes::copy_from_slice(&f.0))
                .collect(),
            ..Default::default()
        }
    }

    fn append(&mut self, node: usize, append: &proto::Append, mut batch: Vec<u8>) -> Appended {
        let partition = partition_of(append.topic.as_bytes(), PARTITIONS).0;
        let leader = self.leader(&append.topic);
        let is_deposed = self.deposed.get(&partition) == Some(&node);
        let not_leader = refused(
            append.request,
            Error {
                leader: leader
                    .filter(|_| self.hints)
                    .map(|leader| self.addresses[leader].clone()),
                ..error(ErrorCode::NotLeader)
            },
        );
        if leader != Some(node) && !is_deposed {
            return not_leader;
        }
        if let Some(code) = self.refuse {
            return refused(append.request, error(code));
        }
        let id = self.topics.len() as u64 + 1;
        let topic = self
            .topics
            .entry(append.topic.clone())
            .or_insert_with(|| Topic {
                id,
                ..Topic::default()
            });
        let header = BatchHeader::decode(&batch).unwrap();
        let producer = header.producer.unwrap();
        let window = topic.windows.entry(producer.id).or_default();
        let (first, last) = match window.check(producer.epoch, producer.sequence) {
            Ok(Verdict::Duplicate { first, last }) => (first, last),
            Ok(Verdict::Next) => {
                let stamped = LeaderStamp {
                    base_offset: topic.next,
                    base_position: 0,
                    epoch: Epoch(self.version),
                    append_time_ms: 0,
                };
                stamp(&mut batch, stamped).unwrap();
                let (first, last) = (topic.next, topic.next + u64::from(header.record_count) - 1);
                window.record(producer.epoch, producer.sequence, first, last);
                topic.next = last + 1;
                topic.batches.push(batch.into());
                (first, last)
            }
            Err(why) => {
                let code = match why {
                    SequenceError::Gap { .. } => ErrorCode::SequenceGap,
                    SequenceError::Fenced { .. } => ErrorCode::Fenced,
                    SequenceError::Unknown => ErrorCode::UnknownProducer,
                };
                return refused(append.request, error(code));
            }
        };
        if is_deposed {
            return not_leader;
        }
        Appended {
            request: append.request,
            first,
            last,
            topic: Some(topic_id(partition, topic.id)),
            ..Default::default()
        }
    }

    /// What `node` knows of a topic: its offsets' end.
    fn end(&self, node: usize, topic: &Topic) -> u64 {
        topic
            .next
            .saturating_sub(self.lag.get(&node).copied().unwrap_or(0))
    }
}

fn topic_id(partition: u16, id: u64) -> proto::TopicId {
    proto::TopicId {
        partition: partition.into(),
        id,
    }
}

fn error(code: ErrorCode) -> Error {
    Error {
        code: code.into(),
        message: format!("the node says {code:?}"),
        ..Default::default()
    }
}

fn refused(request: u64, error: Error) -> Appended {
    Appended {
        request,
        error: Some(error),
        ..Default::default()
    }
}

async fn accept(endpoint: Endpoint, node: usize, shared: Shared) {
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let shared = shared.clone();
        tasks.spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            {
                let mut world = shared.0.lock().unwrap();
                let peer = Peer::of_connection(&connection).unwrap();
                world.came.push(peer.fingerprint);
                world.connections[node].push(connection.clone());
            }
            let mut streams = JoinSet::new();
            while let Ok((send, receive)) = connection.accept_bi().await {
                let (writer, reader) = (FrameWriter::new(send), FrameReader::new(receive));
                streams.spawn(serve(node, shared.clone(), reader, writer));
            }
        });
    }
}

async fn serve(
    node: usize,
    shared: Shared,
    mut reader: FrameReader<RecvStream>,
    mut writer: FrameWriter,
) {
    let Ok(Some((request, _))) = reader.frame::<Request>().await else {
        return;
    };
    let (kind, body) = match request.kind.unwrap() {
        request::Kind::Append(_) => return appends(node, shared, reader, writer).await,
        request::Kind::Tail(open) => {
            let _ = tail(node, &shared, &mut writer, open).await;
            writer.finish();
            return writer.delivered().await;
        }
        kind => answer(node, &shared, kind),
    };
    let _ = writer.frame(&Reply { kind: Some(kind) }, [body]).await;
    writer.finish();
    writer.delivered().await;
}

fn answer(node: usize, shared: &Shared, kind: request::Kind) -> (reply::Kind, Bytes) {
    let mut world = shared.0.lock().unwrap();
    let kind = match kind {
        request::Kind::Map(asked) => {
            let version = world.version;
            let map = (asked.known < version).then(|| world.map().encode_to_vec().into());
            return (reply::Kind::Map(MapIs { version }), map.unwrap_or_default());
        }
        request::Kind::CreateTopic(create) if world.topics.contains_key(&create.name) => {
            reply::Kind::Error(error(ErrorCode::TopicExists))
        }
        request::Kind::CreateTopic(create) => {
            world.created[node] += 1;
            let id = world.topics.len() as u64 + 1;
            let topic = Topic {
                id,
                ..Topic::default()
            };
            world.topics.insert(create.name.clone(), topic);
            described(&world, node, &create.name)
        }
        request::Kind::DescribeTopic(describe) => described(&world, node, &describe.name),
        request::Kind::Info(_) => reply::Kind::Info(proto::Info {
            name: format!("n{node}"),
            node: Bytes::from(vec![node as u8; 16]),
            cluster: Bytes::from(vec![1; 16]),
            ..Default::default()
        }),
        _ => reply::Kind::Error(error(ErrorCode::Internal)),
    };
    (kind, Bytes::new())
}

fn described(world: &World, node: usize, name: &str) -> reply::Kind {
    match world.topics.get(name) {
        Some(topic) => reply::Kind::Topic(proto::Topic {
            name: name.into(),
            topic: Some(topic_id(0, topic.id)),
            next: topic.next,
            leader: format!("n{node}"),
            ..Default::default()
        }),
        None => reply::Kind::Error(error(ErrorCode::TopicNotFound)),
    }
}

async fn appends(
    node: usize,
    shared: Shared,
    mut reader: FrameReader<RecvStream>,
    mut writer: FrameWriter,
) {
    while let Ok(Some((append, length))) = reader.header::<proto::Append>().await {
        let Ok(batch) = reader.body_vec(length).await else {
            return;
        };
        let appended = shared.0.lock().unwrap().append(node, &append, batch);
        shared.1.send_modify(|changes| *changes += 1);
        let answers = Appends {
            appended: vec![appended],
            ..Default::default()
        };
        if writer.header(&answers).await.is_err() {
            return;
        }
    }
    writer.finish();
    writer.delivered().await;
}

async fn tail(
    node: usize,
    shared: &Shared,
    writer: &mut FrameWriter,
    open: proto::TailOpen,
) -> Option<()> {
    let mut changes = shared.1.subscribe();
    let begun = {
        let world = shared.0.lock().unwrap();
        let from = match open.start {
            Some(proto::tail_open::Start::Offset(offset)) => offset,
            _ => 0,
        };
        match world.topics.get(&open.topic) {
            _ if world.outsiders.contains(&node) => Err(error(ErrorCode::NotReplica)),
            Some(topic) if world.end(node, topic) > 0 || !world.lag.contains_key(&node) => {
                let end = world.end(node, topic);
                if from > end {
                    Err(error(ErrorCode::OffsetBeyondEnd))
                } else {
                    let until = (!open.follow).then(|| open.until.unwrap_or(end).min(end));
                    Ok((from, topic_id(0, topic.id), until))
                }
            }
            _ => Err(error(ErrorCode::TopicNotFound)),
        }
    };
    let frame = |kind| TailFrame { kind: Some(kind) };
    let (mut next, topic, until) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            return writer
                .header(&frame(tail_frame::Kind::Error(error)))
                .await
                .ok();
        }
    };
    let started = proto::TailStarted {
        topic: Some(topic),
        from: next,
        until,
        leaderless: false,
    };
    writer
        .header(&frame(tail_frame::Kind::Started(started)))
        .await
        .ok()?;
    while until.is_none_or(|until| next < until) {
        changes.mark_unchanged();
        let batch = {
            let world = shared.0.lock().unwrap();
            let topic = &world.topics[&open.topic];
            let end = world.end(node, topic);
            let mut batches = topic.batches.iter();
            batches
                .find(|batch| {
                    let header = BatchHeader::decode(batch).unwrap();
                    header.next_offset() > next && header.next_offset() <= end
                })
                .cloned()
        };
        match batch {
            Some(batch) => {
                next = BatchHeader::decode(&batch).unwrap().next_offset();
                let batches = tail_frame::Kind::Batches(proto::TailBatches {});
                writer.frame(&frame(batches), [batch]).await.ok()?;
            }
            None if until.is_some() => break,
            None => tokio::select! {
                changed = changes.changed() => changed.ok()?,
                () = writer.delivered() => return None,
            },
        }
    }
    let end = tail_frame::Kind::End(proto::TailEnd { next });
    writer.header(&frame(end)).await.ok()
}
