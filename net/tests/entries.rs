//! Entries that come from another replica are not believed: what does not fit is refused before anything of it is stored.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use bytes::Bytes;
use mesh_engine::{
    Founding, FoundingMember, Identity,
    batch::{BatchBuilder, BatchHeader, Compression, LeaderStamp, stamp},
    journal,
};
use mesh_net::{
    client::{Client, ClientConfig, CopyStatus, Producer, ProducerOptions, Record},
    identity::{Authority, CredentialFiles, Credentials, Grants, NODE_SERVER_NAME, Validity},
    node::{NODE_FILE, Node, NodeConfig},
    quic::{Tuning, client_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{
            ErrorCode, NodeHello, Position, ReplicaAppend, ReplicaEntry, ReplicaFrame, Replicate,
            Reply, Request, replica_frame, reply::Kind as Answer, request::Kind,
        },
    },
};
use mesh_ring::{
    command::Command,
    hash::partition_of,
    ids::{ClusterId, Epoch, NodeId, PartitionId, TopicId},
};
use quinn::Connection;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const CLUSTER: ClusterId = ClusterId([7; 16]);
const PARTITIONS: u16 = 4;
const TOPIC: &str = "t";

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it took too long")
}

/// Three nodes in this process.
struct Cluster {
    nodes: Vec<Node>,
    addresses: Vec<SocketAddr>,
    admin: CredentialFiles,
    dir: TempDir,
}

fn id(number: usize) -> NodeId {
    NodeId([number as u8 + 1; 16])
}

fn name(number: usize) -> String {
    format!("n{}", number + 1)
}

impl Cluster {
    async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let admin = dir.path().join("admin");
        authority
            .issue_client(&admin, "admin", &Grants::all(), Validity::days(1))
            .unwrap();
        // All are held until all are known, so that they differ.
        let sockets: Vec<UdpSocket> = (0..3)
            .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        let addresses: Vec<SocketAddr> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        drop(sockets);
        let member = |number: usize| FoundingMember {
            node: id(number),
            name: name(number),
            address: addresses[number].to_string(),
            zone: String::new(),
        };
        let founding = Founding {
            members: (0..3).map(member).collect(),
            replicas: 3,
        };
        let mut nodes = Vec::new();
        for number in 0..3 {
            let folder = dir.path().join(name(number));
            authority
                .issue_node(
                    &folder.join("identity"),
                    &name(number),
                    &[],
                    Validity::days(1),
                )
                .unwrap();
            let identity = Identity {
                cluster: CLUSTER,
                node: id(number),
                name: name(number),
                partitions: PARTITIONS,
            };
            mesh_engine::prepare_with(&folder.join("data"), &identity, &founding).unwrap();
            let contacts: Vec<String> = addresses.iter().map(|to| format!("\"{to}\"")).collect();
            let text = format!(
                "listen = \"{}\"\ncontacts = [{}]\nreserve_bytes = 16777216\nwrite_buffer_bytes = 4194304\n",
                addresses[number],
                contacts.join(", ")
            );
            std::fs::write(folder.join(NODE_FILE), text).unwrap();
            let config = NodeConfig::load(&folder).unwrap();
            nodes.push(within(Node::start(config)).await.unwrap());
        }
        Cluster {
            nodes,
            addresses,
            admin: CredentialFiles::in_dir(&admin),
            dir,
        }
    }

    async fn client(&self, number: usize) -> Client {
        let address = self.addresses[number].to_string();
        let config = ClientConfig::new(vec![address], self.admin.clone());
        within(Client::connect(config)).await.unwrap()
    }

    /// The topic's partition as it lies on a node.
    async fn copy(&self, number: usize) -> CopyStatus {
        let client = self.client(number).await;
        let status = within(client.node_status()).await.unwrap();
        client.close().await;
        let mut copies = status.partitions.into_iter();
        copies.find(|copy| copy.partition == partition()).unwrap()
    }

    /// A connection on which `from` has said hello to `to`, as it is running now.
    async fn dial_as(&self, from: usize, to: usize) -> Connection {
        let client = self.client(to).await;
        let map = within(client.cluster_map()).await.unwrap();
        client.close().await;
        let boot = map.node(id(from)).unwrap().boot;
        let identity = CredentialFiles::in_dir(&self.dir.path().join(name(from)).join("identity"));
        let credentials = Credentials::load(&identity).unwrap();
        let endpoint =
            client_endpoint(self.addresses[to], &credentials, &Tuning::default()).unwrap();
        let connecting = endpoint.connect(self.addresses[to], NODE_SERVER_NAME);
        let connection = within(connecting.unwrap()).await.unwrap();
        let hello = NodeHello {
            name: name(from),
            node: Bytes::copy_from_slice(&id(from).0),
            cluster: Bytes::copy_from_slice(&CLUSTER.0),
            channel: 0,
            boot: boot.count,
            token: Bytes::copy_from_slice(&boot.token),
        };
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        let hello = Request::new(Kind::NodeHello(hello));
        writer.header(&hello).await.unwrap();
        let greeted = within(FrameReader::new(receive).frame::<Reply>()).await;
        let (greeted, _) = greeted.unwrap().unwrap();
        assert!(
            matches!(greeted.kind, Some(Answer::NodeIs(_))),
            "{greeted:?}"
        );
        connection
    }

    /// Every replica has so many entries of the topic's partition, and knows them to be committed.
    async fn all_have(&self, last: u64) {
        for number in 0..3 {
            within(async {
                while self.copy(number).await.committed < last {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
    }
}

fn partition() -> PartitionId {
    partition_of(TOPIC.as_bytes(), PARTITIONS)
}

async fn publish(producer: &Producer, value: &'static str) {
    let record = Record {
        value: value.into(),
        ..Record::default()
    };
    within(producer.publish(TOPIC, record)).await.unwrap();
}

/// An entry that appends one record, as the leader of `epoch` would send it.
fn good(topic: u64, next: u64, epoch: u64) -> (Command, Bytes) {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push_parts(None, b"forged", &[], 5).unwrap();
    let mut batch = builder.finish(None).unwrap();
    let leader = LeaderStamp {
        base_offset: next,
        base_position: 1 << 20,
        epoch: Epoch(epoch),
        append_time_ms: 1 << 42,
    };
    stamp(&mut batch, leader).unwrap();
    let header = BatchHeader::decode(&batch).unwrap();
    let command = Command::Append {
        topic: TopicId(topic),
        first: next,
        last: next,
        position: header.next_position(),
        time_ms: leader.append_time_ms,
        producer: None,
    };
    (command, batch.into())
}

/// A message of the leader of `epoch` whose one entry follows `prev`.
fn message(epoch: u64, prev: u64, command: Command, batch: Option<&Bytes>) -> ReplicaFrame {
    let stored = journal::Entry {
        epoch: Epoch(epoch),
        command,
    };
    let append = ReplicaAppend {
        epoch,
        boot: 1,
        prev: Some(Position { epoch, index: prev }),
        entries: vec![ReplicaEntry {
            command: stored.encode().into(),
            batch_bytes: batch.map(|batch| batch.len() as u32),
            trimmed: false,
        }],
        commit: prev,
        activated: true,
        answer: true,
    };
    ReplicaFrame {
        partition: partition().0.into(),
        message: Some(replica_frame::Message::Append(append)),
    }
}

type Stream = (FrameWriter, FrameReader<quinn::RecvStream>);

/// Sends a message on a stream of its own.
async fn send(connection: &Connection, frame: &ReplicaFrame, body: &[Bytes]) -> Stream {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    let replicate = Request::new(Kind::Replicate(Replicate {}));
    writer.header(&replicate).await.unwrap();
    writer.frame(frame, body).await.unwrap();
    (writer, FrameReader::new(receive))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_what_it_should_be_is_refused_and_changes_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client(0).await;
    let producer = client.producer(ProducerOptions::default());
    for value in ["a", "b", "c"] {
        publish(&producer, value).await;
    }
    let topic = within(client.describe_topic(TOPIC)).await.unwrap();
    let leader = (0..3).find(|number| name(*number) == topic.leader).unwrap();
    let follower = (leader + 1) % 3;
    let before = cluster.copy(leader).await;
    cluster.all_have(before.last).await;

    let epoch = before.epoch.0;
    let (command, batch) = good(topic.id, topic.next, epoch);
    let mut flipped = batch.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let (_, of_another) = good(topic.id, topic.next + 1, epoch);
    let connection = cluster.dial_as(leader, follower).await;
    for (batch, word) in [
        (Some(Bytes::from(flipped)), "checksum"),
        (Some(of_another), "not the one"),
        (None, "missing"),
    ] {
        let frame = message(epoch, before.last, command.clone(), batch.as_ref());
        let body: Vec<Bytes> = batch.into_iter().collect();
        let (_writer, mut reader) = send(&connection, &frame, &body).await;
        let (reply, _) = within(reader.frame::<Reply>()).await.unwrap().unwrap();
        let Some(Answer::Error(error)) = reply.kind else {
            panic!("{word}: {reply:?}")
        };
        assert_eq!(error.code(), ErrorCode::Malformed);
        let named = format!("entry {} of partition {}", before.last + 1, partition());
        for word in [word, &named] {
            assert!(error.message.contains(word), "no {word:?} in {error:?}");
        }
        let end = within(reader.frame::<Reply>()).await;
        assert!(matches!(end, Ok(None)), "the stream goes on: {end:?}");
        assert_eq!(cluster.copy(follower).await.last, before.last, "{word}");
    }

    // Everyone goes on, and takes what is right.
    for value in ["d", "e"] {
        publish(&producer, value).await;
    }
    cluster.all_have(before.last + 2).await;
    let topic = within(client.describe_topic(TOPIC)).await.unwrap();
    assert_eq!(topic.next, 5);

    // That what was refused would have been stored otherwise is seen last: it is nothing that a leader has sent.
    let (command, batch) = good(topic.id, topic.next, epoch);
    let frame = message(epoch, before.last + 2, command, Some(&batch));
    let _stream = send(&connection, &frame, &[batch]).await;
    within(async {
        while cluster.copy(follower).await.last == before.last + 2 {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(producer);
    client.close().await;
    for node in cluster.nodes {
        within(node.shutdown()).await.unwrap();
    }
}
