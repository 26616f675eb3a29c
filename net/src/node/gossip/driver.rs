//! The task that owns gossip's state: gives it datagrams and the time, and does what it wants done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh_ring::{
    ids::NodeId,
    swim::{Contact, Effect, Input, Swim},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{GossipConfig, Life, Lives, tuning};
use crate::node::peers::{self, NotSent, Peers};

/// Most nodes found by the configured contacts that are kept beside those of the map.
const FOUND_MAX: usize = 64;

pub(super) struct Inputs {
    pub(super) heard: mpsc::Receiver<Bytes>,
    pub(super) members: watch::Receiver<Vec<Contact>>,
    /// Nodes that the configured contacts have led to.
    pub(super) found: mpsc::Receiver<Contact>,
    pub(super) leaving: CancellationToken,
}

pub(super) struct Driver {
    peers: Peers,
    swim: Swim,
    began: Instant,
    found: BTreeMap<NodeId, String>,
    told: watch::Sender<Lives>,
    effects: Vec<Effect>,
}

impl Driver {
    pub(super) fn new(peers: Peers, config: &GossipConfig, told: watch::Sender<Lives>) -> Self {
        let me = Contact {
            node: peers.me(),
            address: config.address.clone(),
        };
        // Without randomness, nodes still differ by their ids.
        let seed = getrandom::u64().unwrap_or_else(|_| {
            let [a, b, c, d, e, f, g, h, ..] = me.node.0;
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        });
        Self {
            peers,
            swim: Swim::new(0, &me, config.boot, seed, tuning(&config.tuning)),
            began: Instant::now(),
            found: BTreeMap::new(),
            told,
            effects: Vec::new(),
        }
    }

    /// Ends once the node has left.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let Some(wake) = self.swim.wakes_at() else {
                return;
            };
            let wake = self.began + Duration::from_millis(wake);
            tokio::select! {
                () = inputs.leaving.cancelled() => self.step(Input::Leave),
                () = sleep_until(wake) => self.step(Input::Timer),
                Some(datagram) = inputs.heard.recv() => self.step(Input::Datagram(&datagram)),
                Ok(()) = inputs.members.changed() => self.meet(&inputs.members.borrow_and_update()),
                Some(found) = inputs.found.recv() => {
                    self.find(found);
                    self.meet(&inputs.members.borrow());
                }
            }
        }
    }

    fn find(&mut self, found: Contact) {
        if self.found.len() >= FOUND_MAX && !self.found.contains_key(&found.node) {
            self.found.pop_first();
        }
        self.found.insert(found.node, found.address);
    }

    /// Of a node that is in the map, the map knows better where it is.
    fn meet(&mut self, members: &[Contact]) {
        let mut contacts = self.found.clone();
        for member in members {
            contacts.insert(member.node, member.address.clone());
        }
        let contacts = contacts
            .into_iter()
            .map(|(node, address)| Contact { node, address })
            .collect();
        self.step(Input::Contacts(contacts));
    }

    fn step(&mut self, input: Input<'_>) {
        let now_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Err(error) = self.swim.step(now_ms, input, &mut self.effects) {
            tracing::debug!(%error, "a datagram was refused");
        }
        let mut changed = false;
        for effect in std::mem::take(&mut self.effects) {
            changed |= self.act(effect);
        }
        if changed {
            let life = |alive| if alive { Life::Alive } else { Life::Dead };
            let lives = self.swim.lives().map(|(node, alive)| (node, life(alive)));
            self.told.send_replace(Arc::new(lives.collect()));
        }
    }

    /// Whether somebody's life has changed.
    fn act(&self, effect: Effect) -> bool {
        match effect {
            Effect::Send {
                to,
                address,
                datagram,
            } => {
                self.send(to, address, datagram);
                false
            }
            Effect::Up {
                node,
                address,
                boot,
            } => {
                tracing::info!(%node, address, boot, "alive");
                self.peers.nudge(node);
                true
            }
            Effect::Down { node } => {
                tracing::warn!(%node, "dead: it does not answer anyone");
                // Whoever waits for it need not wait until the connection is found to be lost.
                self.peers.give_up(node);
                true
            }
            Effect::Restarted { node, boot } => {
                tracing::info!(%node, boot, "alive again after a restart");
                self.peers.nudge(node);
                false
            }
        }
    }

    fn send(&self, to: NodeId, address: String, datagram: Bytes) {
        let sent = self.peers.send_datagram(to, datagram.clone());
        if sent == Err(NotSent::Unknown) && !address.is_empty() {
            self.peers.meet(peers::Contact {
                node: to,
                name: String::new(),
                address,
            });
            // It is dialled now; what comes before the connection is there is lost, and said again.
            let _ = self.peers.send_datagram(to, datagram);
        }
    }
}
