//! Who is alive: drives `ring::swim` over datagrams on the control connections.
//!
//! What is found out is one picture, replaced as a whole: whoever reads it late misses nothing that still holds. A datagram
//! to a node without a control connection is dropped, which is what makes that node suspected; meanwhile it is dialled.
//!
//! - `driver`: the task that owns the state; `contacts`: the way to the first other node

mod contacts;
mod driver;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh_ring::swim::Tuning;
use quinn::Connection;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{config::GossipTuning, peers::Peers};
use crate::tasks::TaskSet;

pub use mesh_ring::swim::Contact;

pub use super::control::{Gossip as Lives, Life};

/// Datagrams that have come in and have not been looked at. Further ones are dropped, as a network may.
const HEARD_MAX: usize = 1024;
/// How long a node that leaves waits until its last words are sent.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(50);

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct GossipConfig {
    /// Where others reach it, `HOST:PORT`.
    pub address: String,
    /// The count of its start, higher each time.
    pub boot: u32,
    /// Other nodes, `HOST:PORT`; names are resolved, all their addresses tried, and resolved anew.
    pub contacts: Vec<String>,
    /// How soon a silent node counts as dead.
    pub tuning: GossipTuning,
}

/// Gossip of one node. Cheap to clone; all clones are the same. Dropping the last clone ends it without a word.
#[derive(Clone, Debug)]
pub struct Gossip(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    peers: Peers,
    heard: mpsc::Sender<Bytes>,
    /// Datagrams that were dropped because too many came at once.
    missed: AtomicU64,
    members: watch::Sender<Vec<Contact>>,
    lives: watch::Receiver<Lives>,
    leaving: CancellationToken,
    /// Everything ends, and at once.
    stopping: CancellationToken,
    tasks: TaskSet,
}

impl Gossip {
    /// Starts to take part. Who is to be talked to is said with [`Gossip::set_members`], or found by the contacts.
    pub fn start(peers: Peers, config: GossipConfig) -> Self {
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        let (told, lives) = watch::channel(Lives::default());
        let members = watch::Sender::new(Vec::new());
        let (found, finding) = mpsc::channel(1);
        let leaving = CancellationToken::new();
        let stopping = CancellationToken::new();
        let tasks = TaskSet::default();
        if !config.contacts.is_empty() {
            let looking =
                contacts::look(peers.clone(), config.contacts.clone(), lives.clone(), found);
            let (stop, leave) = (stopping.clone(), leaving.clone());
            tasks.spawn("contacts", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    // Who leaves waits for every task of gossip.
                    () = leave.cancelled() => {}
                    () = looking => {}
                }
            });
        }
        let driver = driver::Driver::new(peers.clone(), &config, told);
        let driving = driver.run(driver::Inputs {
            heard: hearing,
            members: members.subscribe(),
            found: finding,
            leaving: leaving.clone(),
        });
        let stop = stopping.clone();
        tasks.spawn("gossip", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = driving => {}
            }
        });
        Self(Arc::new(Inner {
            peers,
            heard,
            missed: AtomicU64::new(0),
            members,
            lives,
            leaving,
            stopping,
            tasks,
        }))
    }

    /// Says which nodes should be there: those of the map, this one may be among them. Those that are not alive are called
    /// again and again.
    pub fn set_members(&self, members: Vec<Contact>) {
        self.0.members.send_if_modified(|known| {
            let differs = *known != members;
            *known = members;
            differs
        });
    }

    /// Who is alive, now and whenever that changes.
    pub fn lives(&self) -> watch::Receiver<Lives> {
        self.0.lives.clone()
    }

    /// Takes in a datagram that came over a control connection.
    pub fn hear(&self, datagram: Bytes) {
        if self.0.heard.try_send(datagram).is_err() {
            self.0.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes in what comes over an accepted control connection, until it ends.
    pub async fn listen(&self, connection: &Connection) {
        while let Ok(datagram) = connection.read_datagram().await {
            self.hear(datagram);
        }
    }

    /// Datagrams that were dropped because too many came at once.
    pub fn missed(&self) -> u64 {
        self.0.missed.load(Ordering::Relaxed)
    }

    /// Tells others that this node stops, so that they need not find out. To be followed by [`Gossip::stop`].
    pub async fn leave(&self) {
        self.0.leaving.cancel();
        self.0.tasks.join().await;
        self.0.peers.datagrams_sent(LAST_WORDS_TIMEOUT).await;
    }

    /// Ends every task.
    pub async fn stop(&self) {
        self.0.stopping.cancel();
        self.0.tasks.join().await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

fn tuning(tuning: &GossipTuning) -> Tuning {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Tuning {
        probe_interval_ms: ms(tuning.probe_interval),
        probe_timeout_ms: ms(tuning.probe_timeout),
        suspect_ms: ms(tuning.suspect_after),
        ..Tuning::default()
    }
}

impl From<&super::peers::Contact> for Contact {
    fn from(contact: &super::peers::Contact) -> Self {
        Self {
            node: contact.node,
            address: contact.address.clone(),
        }
    }
}
