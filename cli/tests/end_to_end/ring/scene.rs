//! A cluster under load, and what every test asks of it in the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::load::{Load, TOPICS, topic};
use crate::mesh::until;

/// Acknowledgements after which a load counts as under way again.
const ACKS: usize = 150;

pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
}

impl Scene {
    pub(crate) fn three_nodes() -> Self {
        Self::on(Cluster::start(3))
    }

    /// Load on a cluster that is whole.
    pub(crate) fn on(cluster: Cluster) -> Self {
        for number in 0..TOPICS {
            cluster.ok(&["topic", "create", &topic(number)]);
        }
        let load = Load::start(&cluster.client_file());
        let scene = Self { cluster, load };
        scene.gets_on();
        scene
    }

    /// Waits until more is acknowledged, and says how long that took.
    #[track_caller]
    pub(crate) fn gets_on(&self) -> Duration {
        let began = Instant::now();
        let before = self.load.acknowledged();
        assert!(
            until(|| self.load.acknowledged() >= before + ACKS),
            "the load stands still after {before} acknowledgements: {}",
            self.told()
        );
        began.elapsed()
    }

    /// What `status` and `ring` say, for whoever reads why a test failed.
    pub(crate) fn told(&self) -> String {
        let said = ["status", "ring"].map(|word| self.cluster.run(&[word, "--timeout", "3s"]));
        format!("{said:?}")
    }

    /// Everything that was acknowledged is there, once, and the same on so many replicas.
    #[track_caller]
    pub(crate) fn ends_well(self, replicas: usize) -> Cluster {
        self.cluster.is_whole();
        self.load.finish();
        for number in 0..TOPICS {
            self.cluster.is_identical(&topic(number), replicas);
        }
        self.cluster
    }
}

/// The longest time without an acknowledgement while `what` happens.
pub(crate) fn longest_gap<T>(load: &Load, what: impl FnOnce() -> T) -> (Duration, T) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let (mut last, mut since) = (load.acknowledged(), Instant::now());
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
                longest = longest.max(since.elapsed());
                let now = load.acknowledged();
                if now != last {
                    (last, since) = (now, Instant::now());
                }
            }
            longest
        });
        let done = what();
        over.store(true, Ordering::Relaxed);
        (watching.join().unwrap(), done)
    })
}

/// All nodes but these.
pub(crate) fn others(cluster: &Cluster, but: &[&str]) -> Vec<String> {
    let mut names = cluster.names();
    names.retain(|name| !but.contains(&name.as_str()));
    names
}
