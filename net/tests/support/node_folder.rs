//! The folder of a node: its certificate, its store and its `node.toml`, as `meshctl init` or `node new` would make them.

use std::{fs, path::Path, time::Duration};

use mesh_engine::{Founding, FoundingMember, Identity};
use mesh_net::{
    identity::{Authority, Validity},
    node::{NODE_FILE, Node, NodeConfig, StartError, WallClock},
};
use mesh_ring::ids::{ClusterId, NodeId};
use tokio::time::sleep;

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// How soon it is tried again whether a socket is free.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// The node `n{number}`.
pub(crate) fn node_identity(number: u8, partitions: u16) -> Identity {
    Identity {
        cluster: CLUSTER,
        node: NodeId([number; 16]),
        name: format!("n{number}"),
        partitions,
    }
}

/// A cluster of these nodes, each at its address, in which every partition has three copies if there are as many nodes.
pub(crate) fn founding<'a>(nodes: impl IntoIterator<Item = (&'a Identity, String)>) -> Founding {
    let members = nodes.into_iter().map(|(node, address)| FoundingMember {
        node: node.node,
        name: node.name.clone(),
        address,
        zone: String::new(),
    });
    Founding {
        members: members.collect(),
        replicas: 3,
    }
}

/// Makes the certificate and the store of a node; one without a founding has to be let in by others.
pub(crate) fn make_node(
    folder: &Path,
    authority: &Authority,
    identity: &Identity,
    founding: Option<&Founding>,
) {
    authority
        .issue_node(
            &folder.join("identity"),
            &identity.name,
            &[],
            Validity::days(1),
        )
        .unwrap();
    let data = folder.join("data");
    match founding {
        Some(founding) => mesh_engine::prepare_with(&data, identity, founding),
        None => mesh_engine::prepare(&data, identity),
    }
    .unwrap();
}

/// Writes a `node.toml` for a small machine, with `more` lines at its end.
pub(crate) fn write_node_file(folder: &Path, listen: &str, more: &str) {
    let text = format!(
        "listen = {listen:?}\ncluster = \"{CLUSTER}\"\nreserve_bytes = 16777216\nwrite_buffer_bytes = 4194304\n{more}"
    );
    fs::write(folder.join(NODE_FILE), text).unwrap();
}

/// Starts the node, as soon as its address is free.
pub(crate) async fn start_node(folder: &Path) -> Result<Node, StartError> {
    start_node_by(folder, &WallClock::default()).await
}

/// The same, on a machine with this clock.
pub(crate) async fn start_node_by(folder: &Path, clock: &WallClock) -> Result<Node, StartError> {
    loop {
        let mut config = NodeConfig::load(folder).unwrap();
        config.clock = clock.clone();
        match Node::start(config).await {
            // The socket of the node before is closed when the runtime, or the system, has noticed.
            Err(StartError::Endpoint(_)) => sleep(TRY_AGAIN).await,
            started => return started,
        }
    }
}
