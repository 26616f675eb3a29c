//! The tour's cluster: its nodes come, go, and come back.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_net::identity::{AUTHORITY_KEY_FILE, KEY_FILE};
use serde_json::Value;

use super::tour::Tour;
use crate::error::Failure;
use crate::layout::Layout;
use crate::process::NodeProcess;

const FOUNDERS: [&str; 3] = ["n1", "n2", "n3"];
/// The one that joins them later.
pub(super) const NEWCOMER: &str = "n4";
/// Longest time that the tour waits for all copies to be whole.
const WHOLE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The nodes that run.
pub(super) struct Nodes {
    running: BTreeMap<&'static str, NodeProcess>,
}

pub(super) async fn start(tour: &mut Tour<'_>) -> Result<Nodes, Failure> {
    tour.heading("A cluster of three nodes")?;
    tour.meshctl(&["init", "mesh", "--port", "0"])
        .await?
        .required("init")?;
    let layout = Layout::new(tour.dir().join("mesh"));
    let mut keys = vec![
        layout.authority().join(AUTHORITY_KEY_FILE),
        layout.client().join(KEY_FILE),
    ];
    keys.extend(FOUNDERS.map(|name| layout.node(name).join("identity").join(KEY_FILE)));
    tour.claim(
        keys.iter().all(|key| is_private(key)),
        "it has a private CA, and every private key is readable by its owner only",
    )?;
    let again = tour.meshctl_unseen(&["init", "mesh"]).await?;
    tour.claim(
        again.code == Some(1),
        "a second init there is refused: nothing is ever overwritten",
    )?;
    let began = Instant::now();
    let mut nodes = Nodes {
        running: BTreeMap::new(),
    };
    for name in FOUNDERS {
        nodes.serve(tour, name).await?;
    }
    let whole = whole_again(tour).await?;
    let took = began.elapsed().as_millis();
    tour.meshctl(&["status"]).await?.shown(tour)?;
    tour.claim(
        whole,
        &format!(
            "{took} ms after the first start, every partition has its three copies and a leader"
        ),
    )?;
    Ok(nodes)
}

fn is_private(key: &Path) -> bool {
    key.metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == 0o600)
}

impl Nodes {
    pub(super) async fn serve(&mut self, tour: &mut Tour<'_>, name: &str) -> Result<(), Failure> {
        let name = known(name)?;
        let node = tour.serve(&format!("mesh/{name}")).await?;
        self.running.insert(name, node);
        Ok(())
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self, tour: &mut Tour<'_>, name: &str) -> Result<(), Failure> {
        tour.show(&format!("kill -9 {name}"))?;
        match self.running.remove(name) {
            Some(node) => node.kill().await,
            None => Err(Failure::failed(format!("{name} does not run"))),
        }
    }

    /// SIGTERM. Whether it ended with 0.
    pub(super) async fn stop(&mut self, tour: &mut Tour<'_>, name: &str) -> Result<bool, Failure> {
        tour.show(&format!("kill {name}"))?;
        let node = self.running.remove(name);
        let node = node.ok_or_else(|| Failure::failed(format!("{name} does not run")))?;
        let ended = node.stop().await;
        let ended = ended.map_err(|e| tour.with_log(e, &format!("mesh/{name}")))?;
        Ok(ended.success())
    }

    /// SIGTERM to all at once. Whether every one ended with 0.
    pub(super) async fn stop_all(&mut self, tour: &Tour<'_>) -> Result<bool, Failure> {
        let mut stopping = tokio::task::JoinSet::new();
        for (name, node) in std::mem::take(&mut self.running) {
            stopping.spawn(async move { (name, node.stop().await) });
        }
        let mut clean = true;
        while let Some(stopped) = stopping.join_next().await {
            let (name, status) = stopped.map_err(|e| Failure::failed(e.to_string()))?;
            let status = status.map_err(|e| tour.with_log(e, &format!("mesh/{name}")))?;
            clean &= status.success();
        }
        Ok(clean)
    }

    pub(super) async fn start_all(&mut self, tour: &mut Tour<'_>) -> Result<(), Failure> {
        for name in FOUNDERS.into_iter().chain([NEWCOMER]) {
            self.serve(tour, name).await?;
        }
        Ok(())
    }

    /// Where one of the nodes serves that run.
    pub(super) fn address(&self) -> Result<&str, Failure> {
        let first = self.running.values().next();
        let first = first.ok_or_else(|| Failure::failed("no node runs"))?;
        Ok(&first.address)
    }

    pub(super) fn address_of(&self, name: &str) -> Result<&str, Failure> {
        let node = self.running.get(name);
        let node = node.ok_or_else(|| Failure::failed(format!("{name} does not run")))?;
        Ok(&node.address)
    }

    pub(super) fn names(&self) -> Vec<&'static str> {
        self.running.keys().copied().collect()
    }
}

fn known(name: &str) -> Result<&'static str, Failure> {
    let mut names = FOUNDERS.into_iter().chain([NEWCOMER]);
    let known = names.find(|known| *known == name);
    known.ok_or_else(|| Failure::failed(format!("{name} is none of the tour's nodes")))
}

/// Waits until all copies of everything are whole. `false`: they were not in time.
pub(super) async fn whole_again(tour: &Tour<'_>) -> Result<bool, Failure> {
    until_status(tour, |status| {
        let nodes = status["nodes"].as_array();
        let alive = nodes.is_some_and(|nodes| {
            nodes.len() >= FOUNDERS.len() && nodes.iter().all(|node| node["state"] == "alive")
        });
        alive && status["under_replicated"] == 0 && status["unavailable"] == 0
    })
    .await
}

/// Waits until `meshctl status` says so. `false`: it did not in time.
pub(super) async fn until_status(
    tour: &Tour<'_>,
    is_so: impl Fn(&Value) -> bool,
) -> Result<bool, Failure> {
    let deadline = Instant::now() + WHOLE_MAX;
    loop {
        let status = tour.meshctl_unseen(&["status", "--output", "json"]).await?;
        let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        if is_so(&status) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
