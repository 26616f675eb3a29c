//! One node of a cluster. While it runs it has a runtime of its own, so that it can be killed: its tasks end where they
//! stand, its sockets close without a word, and what it had not written is gone.

use std::{
    fs::{File, TryLockError},
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_engine::{Founding, Identity, Options};
use mesh_net::{
    identity::Authority,
    node::{Node, WallClock},
};
use tokio::{runtime::Runtime, task::spawn_blocking, time::sleep};

use super::{PARTITIONS, rest::LOOK_AGAIN};
use crate::support::{
    PATIENCE,
    node_folder::{make_node, node_identity, start_node, start_node_by, write_node_file},
    within,
};

/// Threads of a node's runtime.
const WORKERS: usize = 2;

/// How long a killed node's threads get to end what they do before it is dropped. Those that give copies away end when
/// they notice that.
const LAST_MOMENT: Duration = Duration::from_millis(300);

pub(super) struct Server {
    pub(super) identity: Identity,
    pub(super) addr: SocketAddr,
    folder: PathBuf,
    running: Option<Running>,
    /// By how many milliseconds the clock of its machine is ahead of the others'.
    pub(super) ahead_ms: Arc<AtomicU64>,
}

struct Running {
    node: Node,
    runtime: Runtime,
}

impl Running {
    /// Ends it as a crash would, as far as that can be done to a part of a process.
    fn kill(self) {
        // First the tasks, so that nothing can be said any more when the node is dropped.
        self.runtime.shutdown_timeout(LAST_MOMENT);
        drop(self.node);
    }
}

impl Server {
    /// The first is called n1.
    pub(super) fn new(node: usize, dir: &Path, addr: SocketAddr) -> Server {
        let identity = node_identity(u8::try_from(node + 1).unwrap(), PARTITIONS);
        Server {
            folder: dir.join(&identity.name),
            identity,
            addr,
            running: None,
            ahead_ms: Arc::default(),
        }
    }

    pub(super) fn prepare(
        &self,
        authority: &Authority,
        founding: Option<&Founding>,
        contacts: &[String],
        more: &str,
    ) {
        make_node(&self.folder, authority, &self.identity, founding);
        let id = self.identity.node;
        let lines = format!("node = \"{id}\"\ncontacts = {contacts:?}\n{more}");
        write_node_file(&self.folder, &self.addr.to_string(), &lines);
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }

    fn node(&self) -> &Node {
        &self.running.as_ref().unwrap().node
    }

    fn clock(&self) -> WallClock {
        let (right, ahead_ms) = (Options::default().clock, Arc::clone(&self.ahead_ms));
        WallClock::new(Arc::new(move || right() + ahead_ms.load(Ordering::Relaxed)))
    }

    pub(super) async fn start(&mut self) {
        assert!(!self.runs(), "it runs");
        let (runtime, folder, clock) = (runtime(), self.folder.clone(), self.clock());
        let starting = runtime.spawn(async move { start_node_by(&folder, &clock).await });
        let node = within(starting).await.unwrap().unwrap();
        self.running = Some(Running { node, runtime });
    }

    /// Starts it although it is going to be refused; returns what it says when it ends.
    pub(super) async fn start_in_vain(&self) -> String {
        assert!(!self.runs(), "it runs");
        let (runtime, folder) = (runtime(), self.folder.clone());
        let ending = runtime.spawn(async move {
            match start_node(&folder).await {
                Ok(node) => {
                    let cause = node.stopped().await.cause;
                    // Whether it stops in order is not the point here.
                    let _ = node.shutdown().await;
                    cause
                }
                Err(error) => error.to_string(),
            }
        });
        let cause = within(ending).await.unwrap();
        runtime.shutdown_background();
        self.is_let_go().await;
        cause
    }

    /// Resolves when it ends by itself, with what it says.
    pub(super) async fn end(&self) -> String {
        within(self.node().stopped()).await.cause
    }

    /// What it ended with, if it has ended by itself.
    pub(super) async fn ended(&self) -> Option<String> {
        let ended = tokio::time::timeout(LOOK_AGAIN, self.node().stopped()).await;
        ended.ok().map(|stopped| stopped.cause)
    }

    pub(super) async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        within(spawn_blocking(|| running.kill())).await.unwrap();
        self.is_let_go().await;
    }

    /// Waits until the last thread has let go of the store, which is when another node may have it.
    async fn is_let_go(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A store that there is not is nobody's.
        while let Ok(lock) = File::open(self.data().join("lock")) {
            match lock.try_lock() {
                Ok(()) => return,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => panic!("{}: {error}", self.identity.name),
            }
            assert!(
                Instant::now() < deadline,
                "{} holds its store although it has ended",
                self.identity.name
            );
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Stops it in order; returns how long that took.
    pub(super) async fn stop(&mut self) -> Duration {
        let Running { node, runtime } = self.running.take().unwrap();
        let began = Instant::now();
        let stopping =
            runtime.spawn(async move { node.shutdown().await.map(|()| began.elapsed()) });
        let took = within(stopping).await.unwrap().unwrap();
        within(spawn_blocking(|| runtime.shutdown_timeout(PATIENCE)))
            .await
            .unwrap();
        took
    }

    pub(super) fn pause(&self, time: Duration) {
        let runtime = &self.running.as_ref().unwrap().runtime;
        for _ in 0..WORKERS {
            runtime.spawn(async move { std::thread::sleep(time) });
        }
    }

    /// Kills it if it runs, for good.
    pub(super) fn give_up(self) {
        if let Some(running) = self.running {
            running.kill();
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .unwrap()
}

/// Addresses of loopback that the system had free. All are held until all are known, so that they differ.
pub(super) fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = sockets.iter().map(|socket| socket.local_addr().unwrap());
    addresses.collect()
}
