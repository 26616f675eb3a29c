//! Control planes over real engines in a temporary directory, and wires between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mesh_engine::{Engine, Identity, Options, prepare};
use mesh_net::node::control::{
    Beginning, Call, Carrier, CarrierError, Control, ControlClock, ControlConfig, Gossip, Life,
};
use mesh_ring::control::{ControlCommand, Outcome};
use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::map::{Boot, ClusterMap, Member};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub(crate) const CLUSTER: ClusterId = ClusterId([0xc; 16]);
const PARTITIONS: u16 = 8;

/// Far beyond what anything here takes, also where the machine is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The nth node's id.
pub(crate) fn id(n: u8) -> NodeId {
    NodeId([n; 16])
}

#[derive(Default)]
struct Wires {
    running: BTreeMap<NodeId, Control>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// State of the generator of losses; `None`: nothing is lost.
    losses: Option<u64>,
}

impl Wires {
    /// Whether one of ten messages is this one.
    fn loses(&mut self) -> bool {
        let Some(state) = &mut self.losses else {
            return false;
        };
        // Knuth's MMIX generator; its high bits are good enough.
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % 10 == 0
    }
}

struct Wire {
    from: NodeId,
    wires: Arc<Mutex<Wires>>,
}

impl Wire {
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let mut wires = self.wires.lock().unwrap();
        !wires.cut.contains(&(from, to)) && !wires.loses()
    }
}

impl Carrier for Wire {
    fn call(&self, to: NodeId, rpc: Bytes) -> Call<'_> {
        Box::pin(async move {
            // What is lost on the way is not answered, ever.
            if !self.passes(self.from, to) {
                return pending().await;
            }
            let target = self.wires.lock().unwrap().running.get(&to).cloned();
            let Some(target) = target else {
                return Err(CarrierError("nobody is there".into()));
            };
            let answer = target.handle(rpc).await;
            if !self.passes(to, self.from) {
                return pending().await;
            }
            Ok(answer)
        })
    }
}

/// Nodes, some of them running.
pub(crate) struct Cluster {
    dir: TempDir,
    wires: Arc<Mutex<Wires>>,
    gossip: watch::Sender<Gossip>,
    founding: ClusterMap,
    engines: BTreeMap<NodeId, Arc<Engine>>,
    /// How long a node may be down before others take its partitions.
    pub(crate) dead_after: Duration,
}

impl Cluster {
    /// Nodes 1 to `n`, founding a cluster together.
    pub(crate) async fn found(n: u8) -> Cluster {
        let mut cluster = Cluster::prepare(n);
        for n in 1..=n {
            cluster.hears(n, Life::Alive);
            cluster.start(n).await;
        }
        cluster
    }

    /// The same, before any of them has started.
    pub(crate) fn prepare(n: u8) -> Cluster {
        let members: Vec<_> = (1..=n)
            .map(|n| Member::new(id(n), &format!("n{n}"), &format!("h{n}:1"), ""))
            .collect();
        Cluster {
            dir: tempfile::tempdir().unwrap(),
            wires: Arc::default(),
            gossip: watch::channel(Gossip::default()).0,
            founding: ClusterMap::founding(CLUSTER, &members, PARTITIONS, 3).unwrap(),
            engines: BTreeMap::new(),
            dead_after: Duration::from_secs(600),
        }
    }

    /// Starts a node again, or for the first time.
    pub(crate) async fn start(&mut self, n: u8) {
        let beginning = self.founding();
        self.start_as(n, beginning, false).await;
    }

    /// What every node begins with.
    pub(crate) fn founding(&self) -> Beginning {
        Beginning::Founding(self.founding.clone())
    }

    pub(crate) async fn start_as(&mut self, n: u8, beginning: Beginning, suspect: bool) {
        let engine = self.open(n);
        let config = ControlConfig {
            engine: Arc::clone(&engine),
            me: id(n),
            beginning,
            carrier: Arc::new(Wire {
                from: id(n),
                wires: Arc::clone(&self.wires),
            }),
            gossip: self.gossip.subscribe(),
            clock: ControlClock::default(),
            dead_after: self.dead_after,
            suspect,
        };
        let control = Control::start(config).await.unwrap();
        self.engines.insert(id(n), engine);
        let mut wires = self.wires.lock().unwrap();
        wires.running.insert(id(n), control);
    }

    /// Opens the store of a node that does not run.
    pub(crate) fn open(&self, n: u8) -> Arc<Engine> {
        let data = self.dir.path().join(format!("n{n}"));
        if !data.exists() {
            let identity = Identity {
                cluster: CLUSTER,
                node: id(n),
                name: format!("n{n}"),
                partitions: PARTITIONS,
            };
            prepare(&data, &identity).unwrap();
        }
        Arc::new(Engine::open(&data, Options::default()).unwrap())
    }

    /// Takes a node off its wires, then ends it.
    pub(crate) async fn kill(&mut self, n: u8) {
        let control = self.wires.lock().unwrap().running.remove(&id(n)).unwrap();
        control.shutdown().await;
        let engine = self.engines.remove(&id(n)).unwrap();
        drop(control);
        // The lock on the directory goes with the last reference, which a thread may still hold for a moment.
        until("the store is let go", || Arc::strong_count(&engine) == 1).await;
        engine.close().unwrap();
    }

    pub(crate) fn node(&self, n: u8) -> Control {
        self.wires.lock().unwrap().running[&id(n)].clone()
    }

    /// The store of a node that runs.
    pub(crate) fn engine(&self, n: u8) -> Arc<Engine> {
        Arc::clone(&self.engines[&id(n)])
    }

    fn running(&self) -> Vec<(NodeId, Control)> {
        let wires = self.wires.lock().unwrap();
        wires
            .running
            .iter()
            .map(|(id, control)| (*id, control.clone()))
            .collect()
    }

    /// Cuts node `n` off, in both directions.
    pub(crate) fn isolate(&self, n: u8) {
        let mut wires = self.wires.lock().unwrap();
        for other in (1..=9).filter(|other| *other != n) {
            wires.cut.extend([(id(n), id(other)), (id(other), id(n))]);
        }
    }

    pub(crate) fn heal(&self) {
        self.wires.lock().unwrap().cut.clear();
    }

    /// From now on one of ten messages is lost, and one of ten answers.
    pub(crate) fn lose(&self, seed: u64) {
        self.wires.lock().unwrap().losses = Some(seed);
    }

    /// What gossip tells everyone about node `n`.
    pub(crate) fn hears(&self, n: u8, life: Life) {
        self.gossip.send_modify(|gossip| {
            Arc::make_mut(gossip).insert(id(n), life);
        });
    }

    /// The number of the running node that leads, once all that run, `except` one, agree.
    pub(crate) async fn leader_except(&self, except: Option<u8>) -> u8 {
        let mut found = None;
        until("one node leads", || {
            let others: Vec<_> = self.running().into_iter().collect();
            let mut others = others
                .into_iter()
                .filter(|(id, _)| except.is_none_or(|except| *id != self::id(except)));
            let Some((_, first)) = others.next() else {
                return false;
            };
            let leader = first.leader();
            let agreed = others.all(|(_, control)| control.leader() == leader);
            found = leader.filter(|leader| {
                agreed
                    && except.is_none_or(|except| *leader != id(except))
                    && self
                        .running()
                        .iter()
                        .any(|(id, c)| id == leader && c.is_leader())
            });
            found.is_some()
        })
        .await;
        found.unwrap().0[0]
    }

    pub(crate) async fn leader(&self) -> u8 {
        self.leader_except(None).await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> u8 {
        let leader = id(self.leader().await);
        let running = self.running();
        running.iter().find(|(id, _)| *id != leader).unwrap().0.0[0]
    }

    /// Waits until every running node has a map like this.
    pub(crate) async fn all_see(&self, what: &str, like: impl Fn(&ClusterMap) -> bool) {
        for (id, control) in self.running() {
            let mut map = control.map();
            let seen = timeout(PATIENCE, map.wait_for(|map| like(map))).await;
            let seen = seen.is_ok_and(|seen| seen.is_ok());
            assert!(
                seen,
                "{id} never saw that {what}: {:#?}",
                control.map().borrow()
            );
        }
    }
}

/// A command that is easy to find again.
pub(crate) fn revoke(n: u16) -> ControlCommand {
    ControlCommand::Revoke {
        fingerprint: fingerprint(n),
        name: format!("c{n}"),
    }
}

pub(crate) fn is_revoked(map: &ClusterMap, n: u16) -> bool {
    map.revoked()
        .iter()
        .any(|revoked| revoked.fingerprint == fingerprint(n))
}

fn fingerprint(n: u16) -> [u8; 32] {
    let [high, low] = n.to_be_bytes();
    std::array::from_fn(|i| if i % 2 == 0 { high } else { low })
}

pub(crate) fn boot(count: u32, token: u8) -> Boot {
    Boot {
        count,
        token: [token; 16],
    }
}

pub(crate) fn register(n: u8, boot: Boot, previous: Vec<Boot>) -> ControlCommand {
    ControlCommand::Register {
        node: id(n),
        boot,
        previous,
        address: format!("h{n}:1"),
        zone: String::new(),
    }
}

/// Proposes until it is known to have happened.
pub(crate) async fn propose(control: &Control, command: ControlCommand) -> Outcome {
    let start = Instant::now();
    loop {
        match control.propose(command.clone()).await {
            Ok(outcome) => return outcome,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{command:?}: {error}"),
        }
    }
}

/// Has all of these revoked, many at a time.
pub(crate) async fn propose_all(control: &Control, numbers: Range<u16>) {
    let proposals: JoinSet<_> = numbers
        .map(|n| {
            let control = control.clone();
            async move { propose(&control, revoke(n)).await }
        })
        .collect();
    proposals.join_all().await;
}

/// Waits until something holds that nothing tells of.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < PATIENCE,
            "it never came to be that {what}"
        );
        sleep(Duration::from_millis(10)).await;
    }
}
