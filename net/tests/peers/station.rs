//! What of a node its peers see: an endpoint that takes their messages and answers them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use mesh_net::{
    identity::{Authority, CredentialFiles, LiveIdentity, Peer, Validity},
    node::{
        GossipTuning,
        gossip::{Gossip, GossipConfig},
        peers::{Arrived, Contact, Greeting, PeerEvent, Peers, PeersConfig},
    },
    quic::{EndpointError, Tuning, server_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{
            Channel, ControlAnswer, Done, Error, ErrorCode, Info, Reply, Request,
            reply::Kind as Answer, request::Kind,
        },
    },
};
use mesh_ring::ids::{ClusterId, NodeId};
use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::Instant};

use crate::support::{PATIENCE, within};

pub(crate) fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// An authority, and the identities that it has issued.
pub(crate) struct Cluster {
    dir: TempDir,
    pub(crate) authority: Authority,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        Self { dir, authority }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The identity of node `name`, made where it is not there yet.
    pub(crate) fn node(&self, name: &str) -> CredentialFiles {
        let dir = self.path(name);
        if !dir.exists() {
            self.authority
                .issue_node(&dir, name, &[], Validity::days(1))
                .unwrap();
        }
        CredentialFiles::in_dir(&dir)
    }
}

pub(crate) fn id(number: u8) -> NodeId {
    NodeId([number; 16])
}

/// A node that is called `n1` and so on, on a free port of loopback.
pub(crate) struct Station {
    pub(crate) peers: Peers,
    pub(crate) identity: LiveIdentity,
    pub(crate) addr: SocketAddr,
    pub(crate) arrived: mpsc::Receiver<Arrived>,
    pub(crate) events: mpsc::Receiver<PeerEvent>,
    /// Datagrams that came in.
    pub(crate) datagrams: mpsc::Receiver<(NodeId, Bytes)>,
    contact: Contact,
    endpoint: Endpoint,
    gossip: Arc<OnceLock<Gossip>>,
}

impl Station {
    pub(crate) fn start(cluster: &Cluster, number: u8) -> Self {
        Self::start_as(cluster, number, id(number))
    }

    /// `n{number}` with any id, on a free port.
    pub(crate) fn start_as(cluster: &Cluster, number: u8, me: NodeId) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::open(cluster, number, me, free).unwrap()
    }

    /// The node of that number again, where it was before.
    pub(crate) async fn start_again(cluster: &Cluster, number: u8, addr: SocketAddr) -> Self {
        let opening = async {
            loop {
                match Self::open(cluster, number, id(number), addr) {
                    Ok(station) => return station,
                    // The socket of the one before is closed when the runtime has dropped it.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        within(opening).await
    }

    fn open(
        cluster: &Cluster,
        number: u8,
        me: NodeId,
        addr: SocketAddr,
    ) -> Result<Self, EndpointError> {
        let name = format!("n{number}");
        let identity = LiveIdentity::load(&cluster.node(&name)).unwrap();
        let tuning = Tuning::default();
        let endpoint = server_endpoint(addr, &identity.credentials(), &tuning)?;
        let addr = endpoint.local_addr().unwrap();
        let contact = Contact {
            node: me,
            name: name.clone(),
            address: addr.to_string(),
        };
        let (peers, events) = Peers::start(PeersConfig {
            me,
            name,
            cluster: ClusterId([7; 16]),
            boot: 1,
            token: [number; 16],
            address: addr.to_string(),
            identity: identity.clone(),
            tuning,
        });
        let (arrivals, arrived) = mpsc::channel(8);
        let (heard, datagrams) = mpsc::channel(64);
        let gossip = Arc::new(OnceLock::new());
        let accepting = accept(
            endpoint.clone(),
            Door {
                peers: peers.clone(),
                arrivals,
                heard,
                gossip: gossip.clone(),
            },
        );
        tokio::spawn(accepting);
        Ok(Self {
            peers,
            identity,
            addr,
            arrived,
            events,
            datagrams,
            contact,
            endpoint,
            gossip,
        })
    }

    pub(crate) fn contact(&self) -> Contact {
        self.contact.clone()
    }

    /// Lets it take part in gossip.
    pub(crate) fn gossip(&self, boot: u32, contacts: &[String], tuning: GossipTuning) -> Gossip {
        let config = GossipConfig {
            address: self.contact.address.clone(),
            boot,
            contacts: contacts.to_vec(),
            tuning,
        };
        let gossip = Gossip::start(self.peers.clone(), config);
        self.gossip.set(gossip.clone()).unwrap();
        gossip
    }

    /// Ends it as an orderly shutdown does.
    pub(crate) async fn stop(self) {
        within(self.peers.stop()).await;
        self.endpoint
            .close(VarInt::from_u32(1), b"the node is stopping");
        within(self.endpoint.wait_idle()).await;
    }

    pub(crate) async fn next(&mut self) -> Arrived {
        within(self.arrived.recv()).await.unwrap()
    }

    pub(crate) async fn event(&mut self) -> PeerEvent {
        within(self.events.recv()).await.unwrap()
    }
}

#[derive(Clone)]
struct Door {
    peers: Peers,
    arrivals: mpsc::Sender<Arrived>,
    heard: mpsc::Sender<(NodeId, Bytes)>,
    gossip: Arc<OnceLock<Gossip>>,
}

async fn accept(endpoint: Endpoint, door: Door) {
    while let Some(incoming) = endpoint.accept().await {
        let door = door.clone();
        tokio::spawn(async move {
            if let Ok(connection) = incoming.await {
                serve(connection, door).await;
            }
        });
    }
}

async fn serve(connection: Connection, door: Door) {
    let peer = Arc::new(Peer::of_connection(&connection).unwrap());
    let greeting = Arc::new(Greeting::default());
    loop {
        tokio::select! {
            stream = connection.accept_bi() => {
                let Ok((send, receive)) = stream else { return };
                let (peer, greeting, door) = (peer.clone(), greeting.clone(), door.clone());
                tokio::spawn(async move { answer(send, receive, &peer, &greeting, &door).await });
            }
            datagram = connection.read_datagram() => {
                let (Ok(datagram), Some(caller)) = (datagram, greeting.caller()) else { continue };
                assert_eq!(caller.channel, Channel::Control);
                match door.gossip.get() {
                    Some(gossip) => gossip.hear(datagram),
                    None => drop(door.heard.try_send((caller.node, datagram))),
                }
            }
        }
    }
}

async fn answer(
    send: SendStream,
    receive: RecvStream,
    peer: &Peer,
    greeting: &Greeting,
    door: &Door,
) {
    let mut reader = FrameReader::new(receive);
    let mut writer = FrameWriter::new(send);
    let Ok(Some((request, body))) = reader.frame::<Request>().await else {
        return;
    };
    let answer = match request.kind.unwrap() {
        Kind::NodeHello(hello) => greeting
            .answer(&door.peers, peer, &hello, 1)
            .map(|is| (Answer::NodeIs(is), Bytes::new())),
        Kind::Replicate(_) => match greeting.require() {
            Ok(caller) => {
                let take = |arrived| async {
                    let _ = door.arrivals.send(arrived).await;
                };
                match door.peers.receive(caller.node, &mut reader, take).await {
                    Err(error) if error.is_malformed() => Err(Error {
                        code: ErrorCode::Malformed.into(),
                        message: error.to_string(),
                        ..Error::default()
                    }),
                    _ => return,
                }
            }
            Err(error) => Err(error),
        },
        // The call comes back, and again as long.
        Kind::ControlCall(_) => greeting.require().map(|_| {
            let twice = [&body[..], &body[..]].concat();
            (Answer::ControlAnswer(ControlAnswer {}), twice.into())
        }),
        Kind::Info(_) => Ok((
            Answer::Info(Info {
                name: peer.name.clone(),
                ..Info::default()
            }),
            body,
        )),
        // Never answered.
        Kind::Storage(_) => std::future::pending().await,
        Kind::ListTopics(_) => {
            for _ in 0..3 {
                let reply = Reply {
                    kind: Some(Answer::Done(Done {})),
                };
                writer.frame(&reply, [body.clone()]).await.unwrap();
            }
            writer.finish();
            return;
        }
        _ => Err(Error {
            code: ErrorCode::NotLeader.into(),
            leader: Some("elsewhere:1".into()),
            ..Error::default()
        }),
    };
    let (kind, body) = answer.unwrap_or_else(|error| (Answer::Error(error), Bytes::new()));
    let reply = Reply { kind: Some(kind) };
    let _ = writer.frame(&reply, [body]).await;
    writer.finish();
    writer.delivered().await;
}
