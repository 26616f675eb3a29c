//! Clients at each of very many nodes, and when those are one cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mesh_net::client::{Client, ClusterView, NodeState, WriteOptions};
use mesh_ring::hash::partition_of;

use crate::Result;
use crate::fleet::Fleet;

/// How long all nodes may take to be one cluster.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often it is looked whether something is so.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A client at each node, and the node's address.
pub type Asker = (Client, String);

/// Connects a client to each node. Nodes that all shake hands with each other at once answer late, or not yet.
///
/// # Errors
/// One does not answer for long.
pub async fn connect(fleet: &Fleet, began: Instant) -> Result<Vec<Asker>> {
    let mut askers = Vec::new();
    for config in fleet.clients() {
        let address = config.nodes.concat();
        let client = loop {
            match Client::connect(config.clone()).await {
                Ok(client) => break client,
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        };
        askers.push((client, address));
    }
    Ok(askers)
}

/// Waits until every node's map says that all are up and every partition is led.
///
/// # Errors
/// That takes too long.
pub async fn until_whole(askers: &[Asker], began: Instant) -> Result<()> {
    for (client, address) in askers {
        loop {
            let view = match client.cluster().await {
                Ok(view) => view,
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            let Some(missing) = missing(&view, askers.len()) else {
                break;
            };
            if began.elapsed() > PATIENCE {
                return Err(format!("by {address} {missing} after {PATIENCE:?}").into());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Ok(())
}

/// What a cluster of so many nodes still lacks; `None` where all are up and every partition is led.
#[must_use]
pub fn missing(view: &ClusterView, nodes: usize) -> Option<String> {
    let up = view.nodes.iter().filter(|node| node.state == NodeState::Up);
    let led = view.partitions.iter().filter(|partition| partition.active);
    let (up, led, partitions) = (up.count(), led.count(), view.partitions.len());
    (up != nodes || led != partitions)
        .then(|| format!("{up} of {nodes} nodes up, {led} of {partitions} partitions led"))
}

/// The key of this number.
#[must_use]
pub fn key(number: u64) -> String {
    format!("user:{number}")
}

/// Puts a value under each of so many keys, through one node after the other.
///
/// # Errors
/// The client's.
pub async fn put_all(askers: &[Asker], keys: u64) -> Result<()> {
    for number in 0..keys {
        let (client, _) = &askers[number as usize % askers.len()];
        let value = number.to_be_bytes().to_vec();
        client
            .put(
                key(number).as_bytes(),
                value.into(),
                WriteOptions::default(),
            )
            .await?;
    }
    Ok(())
}

/// Lets every node meet all others that keep a key, so that no question waits for a handshake.
///
/// # Errors
/// The client's.
pub async fn introduce(askers: &[Asker], keys: u64, partitions: u16) -> Result<()> {
    let view = askers[0].0.cluster().await?;
    for (client, _) in askers {
        let mut met = BTreeSet::new();
        for number in 0..keys {
            let key = key(number);
            let partition = partition_of(key.as_bytes(), partitions);
            let replicas = &view.partitions[usize::from(partition.0)].replicas;
            if replicas.iter().any(|node| !met.contains(node)) {
                met.extend(replicas.iter().copied());
                client.get(key.as_bytes(), Some(1)).await?;
            }
        }
    }
    Ok(())
}
