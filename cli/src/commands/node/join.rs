//! `meshctl node join`: let a node in.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mesh_net::client::{Client, ClientConfig, ClusterChange, NodeState};
use serde_json::json;

use super::{Candidate, connect_from, place};
use crate::error::Failure;
use crate::progress::until_moved;
use crate::session::Session;
use crate::survey::Survey;

/// How long a node that was let in may take to show itself before its folder is taken for one that is not being served.
const SERVED_WITHIN: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Let a node into the cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node join mesh/n4
  meshctl node join mesh/n4 --via 127.0.0.1:7400 --wait

The cluster takes the node's id from its folder. Where the node is being served, progress is shown until it holds its
share of the partitions; where it is not, `meshctl serve` is what to do next, and --wait waits for that. Asking again
changes nothing.")]
pub(crate) struct Args {
    /// The node's folder, made by `meshctl node new`
    folder: PathBuf,
    /// A node of the cluster [default: those of the client configuration]
    #[arg(long = "via", id = "contact", value_name = "HOST:PORT")]
    contact: Option<String>,
    /// Wait until the node is served and holds its share
    #[arg(long)]
    wait: bool,
    /// Do not wait for anything
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let node = Candidate::load(&args.folder)?;
    if let Some(contact) = &args.contact {
        session.common.nodes = vec![contact.clone()];
    }
    let client = connect_from(&args.folder, session).await?;
    let change = ClusterChange::Admit {
        node: node.id,
        name: node.name.clone(),
        address: node.address.clone(),
        zone: node.zone.clone(),
    };
    let version = client.change_cluster(change).await?;
    tell_clients(args, &node)?;
    let served = match (args.wait, args.no_wait) {
        (true, _) => true,
        (_, true) => false,
        _ => is_served(&client, &node).await?,
    };
    if served {
        until_moved(&client, session, |survey| left(survey, &node)).await?;
    }
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&json!({
            "node": node.name,
            "id": node.id.to_string(),
            "map_version": version,
            "served": served,
        }));
    }
    let (name, folder) = (&node.name, args.folder.display());
    session.out.confirm(if served {
        format!("{name} is in the cluster and holds its share")
    } else {
        format!("{name} may take part: run it with `meshctl serve {folder}`")
    })
}

/// Lets the clients of this folder find the node also when all others are gone.
fn tell_clients(args: &Args, node: &Candidate) -> Result<(), Failure> {
    let (layout, _) = place(&args.folder)?;
    let file = layout.client().join("client.toml");
    if !file.is_file() {
        return Ok(());
    }
    ClientConfig::add_node(&file, &node.address).map_err(|e| Failure::failed(e.to_string()))
}

/// Whether the node has shown itself within a moment.
async fn is_served(client: &Client, node: &Candidate) -> Result<bool, Failure> {
    let deadline = Instant::now() + SERVED_WITHIN;
    loop {
        let cluster = client.cluster().await?;
        let state = cluster.node(node.id).map(|node| node.state);
        if state.is_some_and(|state| state != NodeState::Joining) {
            return Ok(true);
        }
        if Instant::now() > deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Partitions that have not come to the node yet. One that is still joining has all of them before it.
fn left(survey: &Survey, node: &Candidate) -> usize {
    let joined = survey
        .cluster
        .node(node.id)
        .is_some_and(|node| node.state == NodeState::Up);
    let partitions = survey.cluster.partitions.iter();
    let left = partitions
        .filter(|partition| partition.target.is_some())
        .count();
    if joined { left } else { left.max(1) }
}
