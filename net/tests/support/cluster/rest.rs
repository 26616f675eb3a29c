//! Waiting until a cluster has come to rest.

use std::time::{Duration, Instant};

use mesh_net::client::{ClusterView, NodeStatus};
use mesh_ring::ids::NodeId;
use tokio::time::sleep;

use super::{Cluster, PARTITIONS};
use crate::AT_REST_WITHIN;

/// How soon what has no event is looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Cluster {
    /// Waits until what is looked at is so, for as long as the test binary allows.
    pub(crate) async fn eventually(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + AT_REST_WITHIN;
        while !is_so().await {
            if Instant::now() > deadline {
                eprintln!("it took too long until {what}");
                self.print().await;
                panic!("it took too long until {what}");
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the running nodes agree that every partition has a leader among them that serves.
    pub(crate) async fn all_lead(&self) {
        self.eventually("every partition has a leader", async || {
            let running: Vec<_> = self.running().collect();
            let mut leading = 0;
            for node in &running {
                let (view, status) = self.view_and_status(*node).await;
                let settled = view.partitions.iter().all(|partition| {
                    let led_by_one = |node: &usize| partition.leader == Some(self.id(*node));
                    partition.active && running.iter().any(led_by_one)
                });
                if !settled {
                    return false;
                }
                leading += status.partitions.iter().filter(|copy| copy.leads).count();
            }
            leading == usize::from(PARTITIONS)
        })
        .await;
    }

    /// Waits until nothing moves any more, and every replica of every partition counts.
    pub(crate) async fn all_placed(&self) {
        self.all_count("every replica counts", false).await;
    }

    /// The same, and every replica has everything that its leader has; nothing may be appended meanwhile.
    pub(crate) async fn all_caught_up(&self) {
        self.all_count("every replica has everything", true).await;
    }

    async fn all_count(&self, what: &str, whole: bool) {
        self.all_lead().await;
        self.eventually(what, async || {
            let running: Vec<_> = self.running().collect();
            let view = self.view(running[0]).await;
            let mut copies = Vec::new();
            for node in running {
                let status = self.status(node).await;
                copies.extend(
                    status
                        .partitions
                        .into_iter()
                        .map(|copy| (self.id(node), copy)),
                );
            }
            view.partitions.iter().all(|partition| {
                let of = |node: NodeId| {
                    let mut copies = copies.iter();
                    copies.find(move |(of, copy)| *of == node && copy.partition == partition.id)
                };
                let Some((_, leader)) = partition.leader.and_then(of) else {
                    return false;
                };
                let counts = |node: &NodeId| {
                    of(*node).is_some_and(|(_, copy)| {
                        !copy.suspect && (!whole || copy.committed == leader.last)
                    })
                };
                partition.learners.is_empty()
                    && partition.target.is_none()
                    && partition.replicas.iter().all(counts)
            })
        })
        .await;
    }

    /// What the running nodes say, for whoever reads why a test has failed.
    async fn print(&self) {
        for node in self.running() {
            let ended = self.servers[node].ended().await;
            let (view, status) = self.view_and_status(node).await;
            eprintln!(
                "{}: ended {ended:?}, map {}, control leader {:?}, quorum {}, {:?}, transfers {:?}",
                self.name(node),
                view.version,
                status.control_leader,
                status.control_quorum,
                status.warnings,
                status.transfers,
            );
            print_map(&view, &status);
        }
    }
}

fn print_map(view: &ClusterView, status: &NodeStatus) {
    for member in &view.nodes {
        eprintln!(
            "  {} {:?} votes {}",
            member.name, member.state, member.votes
        );
    }
    let named = |nodes: &[NodeId]| nodes.iter().map(|node| node.0[0]).collect::<Vec<_>>();
    for partition in &view.partitions {
        let mut copies = status.partitions.iter();
        let copy = copies.find(|copy| copy.partition == partition.id);
        eprintln!(
            "  {} epoch {} active {} leader {:?} replicas {:?} learners {:?} target {:?}: {copy:?}",
            partition.id,
            partition.epoch,
            partition.active,
            partition.leader.map(|node| node.0[0]),
            named(&partition.replicas),
            named(&partition.learners),
            partition.target.as_deref().map(named),
        );
    }
}
