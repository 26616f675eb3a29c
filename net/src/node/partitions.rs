//! The partitions that this node keeps: which run here, by the cluster map.
//!
//! One task follows the map. For each partition that the map gives this node it runs an actor and tells it what the map
//! says; a partition whose data has to come from elsewhere first is pulled by `transfer`; one that the map has given
//! to others for good is let go, and its data dropped when `repair` has seen that those others have all of it.
//!
//! - `slots`: what there is of each at a moment.

mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_engine::{Held, ReadError};
use mesh_ring::ids::{Epoch, NodeId, PartitionId};
use mesh_ring::map::{Assignment, ClusterMap, NodeState};
use mesh_ring::replica::{Config, Position, Report, ResignCause};
use tokio::sync::mpsc;

pub(super) use self::slots::{Outdated, Partitions, Stop};

use self::slots::Slot;
use super::doors::NodeDoors;
use super::partition::{Actor, Ask, Partition};
use super::peers::{PeerEvent, removed};
use super::transfer::Arrival;
use super::{Shared, repair, transfer};
use crate::tasks::blocking;

/// How often a partition that cannot be opened is looked at: whether the map wants this node to lead it.
const CLOSED_LOOK: Duration = Duration::from_secs(1);

/// What the map says of a partition, in the words of the replication core.
fn config(assignment: &Assignment) -> Config {
    Config {
        epoch: assignment.epoch,
        leader: assignment.leader,
        replicas: assignment.replicas.clone(),
        learners: assignment.learners.clone(),
        activated: assignment.activated.clone(),
    }
}

/// Tells every partition that a node can be reached, or not any more.
pub(super) async fn follow_peers(shared: Arc<Shared>, mut events: mpsc::Receiver<PeerEvent>) {
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            () = shared.tasks.stopping() => return,
        };
        let Some(event) = event else { return };
        for partition in shared.partitions.running() {
            let ask = match event {
                PeerEvent::Connected(node) => Ask::Connected(node),
                PeerEvent::Disconnected(node) => Ask::Disconnected(node),
            };
            // One that has just ended needs to know nothing.
            let _ = partition.send(ask).await;
        }
    }
}

/// What the task that follows the map remembers.
#[derive(Default)]
struct Following {
    /// What each actor was told last.
    told: BTreeMap<PartitionId, Config>,
    /// Partitions of others of which nothing is left here.
    clean: BTreeSet<PartitionId>,
}

/// Keeps what runs here in line with the map, until the node stops. No other task opens a partition or lets go of one.
pub(super) async fn follow_map(shared: Arc<Shared>) {
    let mut map = shared.control.map();
    let mut following = Following::default();
    loop {
        let now = Arc::clone(&map.borrow_and_update());
        shared.take_map(&now);
        if now.is_removed(shared.me()) {
            return shared.end(removed(&shared.engine.identity().name));
        }
        // Before this start is registered, the map speaks of an earlier one, which may have led.
        let boot = shared.engine.boot_token();
        let registered = now.node(shared.me()).is_some_and(|member| {
            (member.boot.count, member.boot.token) == (boot.count, boot.token)
        });
        if registered {
            for (id, assignment) in now.assignments() {
                if shared.tasks.is_stopping() {
                    return;
                }
                settle(&shared, &now, id, assignment, &mut following).await;
            }
        }
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = shared.again.notified() => {}
            () = shared.tasks.stopping() => return,
        }
    }
}

async fn settle(
    shared: &Arc<Shared>,
    map: &ClusterMap,
    id: PartitionId,
    assignment: &Assignment,
    following: &mut Following,
) {
    let outdated = shared.partitions.outdated().remove(&id);
    let slot = shared.partitions.slot(id);
    if !assignment.needs_copy(shared.me()) {
        following.told.remove(&id);
        // What a crash has left of an earlier time goes too.
        let goes = match &slot {
            Some(Slot::Leaving(_)) => false,
            Some(_) => true,
            None => !following.clean.contains(&id),
        };
        if goes && let_go(shared, id, slot).await {
            following.clean.insert(id);
        }
        return;
    }
    following.clean.remove(&id);
    let slot = match slot {
        // The copy that was not dropped yet is as good as any to go on from.
        Some(Slot::Leaving(stop)) => {
            stop.and_wait().await;
            shared.partitions.remove(id);
            None
        }
        slot => slot,
    };
    let slot = match (slot, outdated) {
        (Some(Slot::Running(partition, stop)), Some(asked))
            if is_outdated(shared, assignment, &partition, &asked) =>
        {
            return rebuild(shared, id, assignment, &stop).await;
        }
        (slot, _) => slot,
    };
    let told = &mut following.told;
    let config = config(assignment);
    match slot {
        Some(Slot::Running(partition, _)) => {
            if told.get(&id) != Some(&config) {
                told.insert(id, config.clone());
                // Where the actor has ended, the node stops.
                let _ = partition.send(Ask::Configure(config)).await;
            }
        }
        Some(Slot::Arriving(arrival)) => arrival.configure(config),
        Some(Slot::Leaving(_) | Slot::Closed) => {}
        None => {
            told.remove(&id);
            begin(shared, map, id, assignment).await;
            if let Some(partition) = shared.partitions.get(id) {
                told.insert(id, config.clone());
                let _ = partition.send(Ask::Configure(config)).await;
            }
        }
    }
}

/// Opens a partition that is not open, or has its data brought here first.
async fn begin(shared: &Arc<Shared>, map: &ClusterMap, id: PartitionId, assignment: &Assignment) {
    let me = shared.me();
    let engine = Arc::clone(&shared.engine);
    let held = blocking(move || engine.held(id)).await;
    let voted = assignment.activated.replicas.contains(&me);
    let founded = assignment.activated.epoch == Epoch(0);
    match held {
        Some(Ok(Held::Journal)) => {}
        // The first entry of a partition finds every replica empty. So does a leader the voter that has not run since: had
        // it held anything, it would hold it still, or be suspect, or have a copy on its way.
        Some(Ok(Held::Nothing)) if founded || voted => {}
        Some(Ok(Held::Nothing | Held::Arriving)) => {
            let stop = Arrival::new(id, config(assignment));
            shared.partitions.set(id, Slot::Arriving(stop.clone()));
            return transfer::pull(shared, id, stop);
        }
        Some(Err(error)) => return closed(shared, id, &error),
        None => return,
    }
    open(shared, map, id).await;
}

async fn open(shared: &Arc<Shared>, map: &ClusterMap, id: PartitionId) {
    let (engine, doors) = (
        Arc::clone(&shared.engine),
        Arc::new(NodeDoors(Arc::clone(shared))),
    );
    let opened = blocking(move || Actor::open(id, engine, doors)).await;
    match opened {
        Some(Ok((actor, partition))) => {
            let stop = Stop::default();
            shared
                .partitions
                .set(id, Slot::Running(partition.clone(), stop.clone()));
            let running = stop.clone();
            let watched = Broken(Arc::clone(shared), id);
            shared.partitions.actors.spawn("partition", async move {
                actor.run(running.wanted().clone()).await;
                running.note_end();
                drop(watched);
            });
            for node in map.nodes().iter().map(|member| member.id) {
                if node == shared.me() || shared.peers.is_connected(node) {
                    continue;
                }
                let _ = partition.send(Ask::Disconnected(node)).await;
                // Word of a connection that was made meanwhile may have come before.
                if shared.peers.is_connected(node) {
                    let _ = partition.send(Ask::Connected(node)).await;
                }
            }
        }
        Some(Err(error)) => closed(shared, id, &error),
        None => {}
    }
}

/// Ends the node where an actor ends by a panic: an invariant is broken, and going on could destroy what was
/// acknowledged. The other replicas go on.
struct Broken(Arc<Shared>, PartitionId);

impl Drop for Broken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(format!(
                "partition {} has broken an invariant: this node stops before it does harm; its log says which",
                self.1
            ));
        }
    }
}

fn closed(shared: &Arc<Shared>, id: PartitionId, error: &ReadError) {
    tracing::error!(partition = %id, %error, "a partition cannot be opened; other replicas go on without this one");
    shared.partitions.set(id, Slot::Closed);
    let shared_too = Arc::clone(shared);
    shared.tasks.spawn("closed partition", async move {
        let shared = shared_too;
        while let Some(Slot::Closed) = shared.partitions.slot(id) {
            let map = shared.map();
            let led = map
                .assignment(id)
                .filter(|assignment| assignment.leader == shared.me());
            if let Some(assignment) = led {
                shared.cannot_lead(id, assignment);
            }
            tokio::select! {
                () = tokio::time::sleep(CLOSED_LOOK) => {}
                () = shared.tasks.stopping() => return,
            }
        }
    });
}

/// Ends a partition that others keep now, and has its data handed over to them and dropped. Returns whether nothing is left.
async fn let_go(shared: &Arc<Shared>, id: PartitionId, slot: Option<Slot>) -> bool {
    match slot {
        Some(Slot::Running(_, stop)) => stop.and_wait().await,
        Some(Slot::Arriving(arrival)) => arrival.stop.and_wait().await,
        _ => {}
    }
    shared.partitions.remove(id);
    let engine = Arc::clone(&shared.engine);
    let left = blocking(move || repair::has_anything(&engine, id)).await;
    if left == Some(true) {
        let stop = Stop::default();
        shared.partitions.set(id, Slot::Leaving(stop.clone()));
        repair::hand_over(shared, id, stop);
    }
    left == Some(false)
}

/// Whether the leader that found this copy to be too far behind still leads, and the copy is still too far behind: the word may
/// be about one that was replaced meanwhile. A copy that holds the entry before the leader's first can follow, and what it
/// has acknowledged may count.
fn is_outdated(
    shared: &Shared,
    assignment: &Assignment,
    partition: &Partition,
    asked: &Outdated,
) -> bool {
    let holds = |at: Position| match shared.engine.replica(partition.id) {
        Ok(journal) if at.index <= journal.before.index => true,
        Ok(_) => shared.engine.position_at(partition.id, at.index) == Ok(Some(at)),
        // It is to be replaced.
        Err(_) => false,
    };
    assignment.epoch == asked.epoch
        && assignment.leader == asked.by
        && !partition.leads()
        && !holds(asked.before)
}

/// Has a copy pulled in place of the journal that runs here. In the write that removes the journal the engine notes where it
/// ended: what it had acknowledged may count in majorities, and no crash from here on may make a replica of it that has
/// acknowledged nothing. By that a witness votes, once nothing more is acknowledged here.
async fn rebuild(shared: &Arc<Shared>, id: PartitionId, assignment: &Assignment, running: &Stop) {
    tracing::warn!(partition = %id, "this copy is too far behind its leader's journal: it is pulled anew");
    running.and_wait().await;
    let arriving = Arrival::new(id, config(assignment));
    shared.partitions.set(id, Slot::Arriving(arriving.clone()));
    transfer::pull(shared, id, arriving);
}

impl Shared {
    /// What else hangs on the map: who the peers are, whose certificates are refused, and since when this node is asked
    /// about tombstones.
    pub(super) fn take_map(&self, map: &Arc<ClusterMap>) {
        self.note_membership(map);
        self.peers.set_map(Arc::clone(map));
        let staying = || {
            let nodes = map.nodes().iter();
            nodes.filter(|member| member.state != NodeState::Removed)
        };
        self.peers
            .set_members(staying().map(|member| super::peers::Contact {
                node: member.id,
                name: member.name.clone(),
                address: member.address.clone(),
            }));
        self.gossip.set_members(
            staying()
                .map(|member| super::gossip::Contact {
                    node: member.id,
                    address: member.address.clone(),
                })
                .collect(),
        );
        let revoked = map.revoked().iter();
        self.identity
            .revoked()
            .set_cluster(revoked.map(|revoked| crate::identity::Fingerprint(revoked.fingerprint)));
    }

    /// The map has this node lead a partition of which it has no journal to lead with: another replica should.
    pub(super) fn cannot_lead(&self, id: PartitionId, assignment: &Assignment) {
        let report = Report::Resign {
            epoch: assignment.epoch,
            to: None,
            why: ResignCause::SourceForgot,
        };
        self.reports.push(id, report);
    }

    /// A transfer has ended: the partition can be opened, or is to be pulled again.
    pub(super) fn arrived(&self, id: PartitionId) {
        self.partitions.remove(id);
        self.again.notify_one();
        self.repair_soon(id);
    }

    /// A copy that was handed over is dropped.
    pub(super) fn let_gone(&self, id: PartitionId) {
        self.partitions.remove(id);
        self.again.notify_one();
    }

    /// A leader keeps less than this copy lacks: it is pulled anew, where that is so still.
    pub(super) fn rebuild(&self, id: PartitionId, asked: Outdated) {
        self.partitions.outdated().insert(id, asked);
        self.again.notify_one();
    }

    /// Asks a replica that is too far behind to pull its copy anew.
    pub(super) async fn ask_to_rebuild(
        &self,
        id: PartitionId,
        epoch: Epoch,
        before: Position,
        node: NodeId,
    ) {
        use crate::wire::proto::{RebuildPartition, Request, request::Kind};
        let request = Request::new(Kind::RebuildPartition(RebuildPartition {
            partition: id.0.into(),
            epoch: epoch.0,
            before: Some(before.into()),
        }));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        let asked = self
            .peers
            .ask(node, &request, bytes::Bytes::new(), deadline);
        if let Err(error) = asked.await {
            tracing::debug!(partition = %id, %node, %error, "a replica that is behind was not told");
        }
    }
}
