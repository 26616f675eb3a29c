//! The other nodes: connections to each, what is sent over them, and what comes in.
//!
//! A node dials two connections to each peer, and sends only over those; what peers dial is only listened to, and
//! answered on. So neither side needs to agree with the other on which connection counts.
//!
//! | connection | carries |
//! |---|---|
//! | control | gossip (datagrams), the control plane, and the answers of replicas, so that none of it waits behind batches |
//! | bulk | batches to replicas, live before catch-up, and requests: forwarded ones, transfers |
//!
//! Both are dialled when they are first needed, kept, and dialled again when they are lost. An address must answer with a
//! node's certificate and the id and name that were expected there.
//!
//! - `link`: keeps one connection; `dial`: makes it, and checks who answers
//! - `outbox`: what waits for a lane; `lanes`: writes it; `frames`: replication messages as frames
//! - `starts`: who is refused, by the cluster map
//! - `asking`: requests to a peer; `greeting` and `receiving`: the side that is called

mod asking;
mod dial;
mod frames;
mod greeting;
mod lanes;
mod link;
mod outbox;
mod receiving;
mod starts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use bytes::Bytes;
use mesh_ring::{
    ids::{ClusterId, NodeId, PartitionId},
    map::ClusterMap,
    replica::{Lane, Message},
};
use quinn::Connection;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::asking::{AskError, Replies};
pub use self::dial::DialError;
pub use self::frames::{EntryFault, FrameFault};
pub use self::greeting::{Caller, Greeting};
pub use self::outbox::NotSent;
pub use self::receiving::{Admitted, Arrived, REPLICA_INTAKE_BYTES_MAX, ReceiveError};

pub(in crate::node) use self::starts::{REJOIN, old_copy, removed};

use self::dial::Endpoints;
use self::link::Neighbour;
use self::starts::Starts;
use super::payload::Payload;
use crate::{
    identity::LiveIdentity,
    quic::{DATAGRAM_BUFFER_BYTES, Tuning},
    tasks::TaskSet,
    wire::proto::Channel,
};

/// Connections that came and went, and that nobody has looked at yet. Beyond, links wait.
const EVENTS_MAX: usize = 1024;
/// Most nodes that are talked to without being in the map: those that join.
const STRANGERS_MAX: usize = 64;
/// How long [`Peers::stop`] waits for the peers to hear of it.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(200);

/// Who this node is to its peers.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Its id.
    pub me: NodeId,
    /// Its name, which its certificate says too.
    pub name: String,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Its boot count.
    pub boot: u32,
    /// What it drew at random then.
    pub token: [u8; 16],
    /// `HOST:PORT` at which it is reached.
    pub address: String,
    /// Its credentials, as they are when something is dialled.
    pub identity: LiveIdentity,
    /// Transport settings.
    pub tuning: Tuning,
}

/// Where a node is, and who must answer there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Contact {
    /// Its id.
    pub node: NodeId,
    /// The name in its certificate. Empty: not known yet.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
}

/// What happened to the connections to a peer. Said of each of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerEvent {
    /// A connection is there: what was dropped may be sent again.
    Connected(NodeId),
    /// A connection was lost, or could not be made at all. Further attempts are not told of before one succeeds.
    Disconnected(NodeId),
}

/// How it stands with one peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerStatus {
    /// Its id.
    pub node: NodeId,
    /// Whether the connections for control and for bulk are there.
    pub connected: (bool, bool),
    /// Messages to it that were dropped so far.
    pub dropped: u64,
}

/// The connections to all other nodes. Cheap to clone; all clones are the same.
///
/// Dropping the last clone ends them as a crash would.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    neighbours: RwLock<BTreeMap<NodeId, Known>>,
    intake: Arc<Semaphore>,
    tasks: TaskSet,
    stopping: CancellationToken,
}

/// What the tasks need, which must not keep their owner alive.
#[derive(Debug)]
struct Shared {
    config: PeersConfig,
    endpoints: Endpoints,
    starts: Starts,
    events: mpsc::Sender<PeerEvent>,
}

#[derive(Debug)]
struct Known {
    neighbour: Arc<Neighbour>,
    /// It is in the map.
    member: bool,
}

impl Peers {
    /// Nobody is known and nothing is dialled yet. What happens to connections is said on the receiver, which must be
    /// read.
    pub fn start(config: PeersConfig) -> (Self, mpsc::Receiver<PeerEvent>) {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let peers = Self(Arc::new(Inner {
            shared: Arc::new(Shared {
                config,
                endpoints: Endpoints::default(),
                starts: Starts::default(),
                events,
            }),
            neighbours: RwLock::default(),
            intake: Arc::new(Semaphore::new(REPLICA_INTAKE_BYTES_MAX)),
            tasks: TaskSet::default(),
            stopping: CancellationToken::new(),
        }));
        (peers, received)
    }

    /// This node's id.
    pub fn me(&self) -> NodeId {
        self.0.shared.config.me
    }

    /// Replaces the nodes of the map. Connections to nodes that left are closed. This node itself may be among them, and
    /// is ignored.
    pub fn set_members(&self, members: impl IntoIterator<Item = Contact>) {
        let mut neighbours = self.neighbours_mut();
        let mut leaving: BTreeSet<NodeId> = neighbours
            .iter()
            .filter(|(_, known)| known.member)
            .map(|(node, _)| *node)
            .collect();
        for contact in members {
            leaving.remove(&contact.node);
            self.note(&mut neighbours, contact, true);
        }
        for node in leaving {
            if let Some(left) = neighbours.remove(&node) {
                left.neighbour.leave();
            }
        }
    }

    /// Takes note of which starts of nodes are registered: earlier ones are refused from now on.
    pub fn set_map(&self, map: Arc<ClusterMap>) {
        self.0.shared.starts.set_map(map);
    }

    /// Resolves when another node refuses this one for good, with what it says.
    pub async fn refused(&self) -> String {
        let mut refused = self.0.shared.starts.refused.subscribe();
        let cause = refused.wait_for(Option::is_some).await;
        match cause.map(|cause| cause.clone()) {
            Ok(Some(cause)) => cause,
            _ => std::future::pending().await,
        }
    }

    /// Notes where a node is that may not be in the map yet. Of a member, the map alone says where it is.
    pub fn meet(&self, contact: Contact) {
        let mut neighbours = self.neighbours_mut();
        let known = neighbours.get(&contact.node);
        if known.is_some_and(|known| known.member) {
            return;
        }
        if known.is_none() {
            make_room(&mut neighbours);
        }
        self.note(&mut neighbours, contact, false);
    }

    fn note(&self, neighbours: &mut BTreeMap<NodeId, Known>, contact: Contact, member: bool) {
        if contact.node == self.me() {
            return;
        }
        match neighbours.get_mut(&contact.node) {
            Some(known) => {
                known.member |= member;
                known.neighbour.moved(contact);
            }
            None => {
                let gone = self.0.stopping.child_token();
                let node = contact.node;
                let neighbour = Arc::new(Neighbour::new(contact, gone));
                neighbours.insert(node, Known { neighbour, member });
            }
        }
    }

    /// Sends a replication message, or drops it, without waiting. Messages to one node in one lane arrive in their order
    /// while the connection holds.
    ///
    /// # Errors
    /// [`NotSent`]: it was dropped. Without an error it may still be lost.
    pub fn send(
        &self,
        to: NodeId,
        partition: PartitionId,
        message: Message<Payload>,
        lane: Lane,
    ) -> Result<(), NotSent> {
        let neighbour = self.neighbour(to).ok_or(NotSent::Unknown)?;
        link::want(&self.0, &neighbour, Channel::Control);
        link::want(&self.0, &neighbour, Channel::Bulk);
        neighbour.push(partition, message, lane)
    }

    /// Sends a datagram over the control connection, or drops it.
    ///
    /// # Errors
    /// [`NotSent`]: it was dropped. Without an error it may still be lost.
    pub fn send_datagram(&self, to: NodeId, datagram: Bytes) -> Result<(), NotSent> {
        let neighbour = self.neighbour(to).ok_or(NotSent::Unknown)?;
        link::want(&self.0, &neighbour, Channel::Control);
        let connection = neighbour.link(Channel::Control).living();
        connection
            .ok_or(NotSent::Disconnected)?
            .send_datagram(datagram)
            .map_err(|_| NotSent::Disconnected)
    }

    /// Waits, for `patience` at most, until the datagrams that were taken are sent.
    pub async fn datagrams_sent(&self, patience: Duration) {
        let connections: Vec<_> = {
            let neighbours = self.neighbours();
            let all = neighbours.values();
            all.filter_map(|known| known.neighbour.link(Channel::Control).living())
                .collect()
        };
        let sent = async {
            for connection in connections {
                while connection.close_reason().is_none() && has_datagrams(&connection) {
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        // They are words of farewell, which nobody relies on.
        let _ = timeout(patience, sent).await;
    }

    /// Closes the connections to a node that is taken for dead, and dials it again: whoever waits for an answer need
    /// not wait until the connections are found to be lost.
    pub fn give_up(&self, node: NodeId) {
        if let Some(neighbour) = self.neighbour(node) {
            neighbour.give_up();
        }
    }

    /// Dials a node at once instead of after its pause, because something came from it.
    pub fn nudge(&self, node: NodeId) {
        if let Some(neighbour) = self.neighbour(node) {
            neighbour.nudge();
        }
    }

    /// How it stands with every node that is known.
    pub fn status(&self) -> Vec<PeerStatus> {
        let neighbours = self.neighbours();
        let status = |(node, known): (&NodeId, &Known)| PeerStatus {
            node: *node,
            connected: (
                known.neighbour.link(Channel::Control).living().is_some(),
                known.neighbour.link(Channel::Bulk).living().is_some(),
            ),
            dropped: known.neighbour.dropped(),
        };
        neighbours.iter().map(status).collect()
    }

    /// Whether messages to the node are taken: both connections are there, or were not needed yet, or are being dialled
    /// for the first time. Where not, [`PeerEvent::Connected`] says when they are again.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.neighbour(node)
            .is_some_and(|neighbour| neighbour.takes_messages())
    }

    /// Closes every connection and ends every task.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.join().await;
        self.0.shared.endpoints.close(FAREWELL_TIMEOUT).await;
    }

    fn neighbour(&self, node: NodeId) -> Option<Arc<Neighbour>> {
        Some(Arc::clone(&self.neighbours().get(&node)?.neighbour))
    }

    fn neighbours(&self) -> RwLockReadGuard<'_, BTreeMap<NodeId, Known>> {
        self.0
            .neighbours
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn neighbours_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<NodeId, Known>> {
        self.0
            .neighbours
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn has_datagrams(connection: &Connection) -> bool {
    connection.datagram_send_buffer_space() < DATAGRAM_BUFFER_BYTES
}

/// Forgets strangers until another one fits: those first that do not answer.
fn make_room(neighbours: &mut BTreeMap<NodeId, Known>) {
    let strangers = neighbours.iter().filter(|(_, known)| !known.member);
    let mut strangers: Vec<_> = strangers
        .map(|(node, known)| {
            let answers = known.neighbour.link(Channel::Control).living().is_some();
            (answers, *node)
        })
        .collect();
    strangers.sort_unstable();
    let surplus = (strangers.len() + 1).saturating_sub(STRANGERS_MAX);
    for (_, node) in strangers.into_iter().take(surplus) {
        if let Some(forgotten) = neighbours.remove(&node) {
            forgotten.neighbour.leave();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}
