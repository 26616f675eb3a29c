//! `meshctl node drain`: move everything away from a node.

use mesh_net::client::{ClusterChange, PartitionView};
use mesh_ring::ids::NodeId;
use serde_json::json;

use crate::commands::info::known;
use crate::error::Failure;
use crate::progress::until_moved;
use crate::session::Session;
use crate::survey::Survey;

/// Move everything away from a node
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node plan drain n2
  meshctl node drain n2

Reads and appends go on all the while, and no partition has fewer copies on its way. When it is done the node holds
nothing any more: stop it, and `meshctl node remove` it. Stopping this command does not stop the drain.")]
pub(crate) struct Args {
    /// The node's name
    node: String,
    /// Do not wait until everything has moved
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let node = known(&client.cluster().await?, &args.node)?.id;
    let version = client.change_cluster(ClusterChange::Drain(node)).await?;
    if !args.no_wait {
        until_moved(&client, session, |survey| left(survey, node)).await?;
    }
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&json!({
            "node": args.node,
            "map_version": version,
            "done": !args.no_wait,
        }));
    }
    let name = &args.node;
    session.out.confirm(if args.no_wait {
        format!("{name} is being drained: `meshctl status` tells how far it is")
    } else {
        format!("{name} holds nothing any more: stop it, then `meshctl node remove {name}`")
    })
}

/// Partitions that the node still holds, or has still to hand over to those who hold them now.
pub(super) fn left(survey: &Survey, node: NodeId) -> usize {
    let partitions = survey.cluster.partitions.iter();
    let held = partitions.filter(|partition| involves(partition, node));
    let leaving = survey.status(node).map_or(0, |status| status.leaving);
    held.count() + leaving as usize
}

fn involves(partition: &PartitionView, node: NodeId) -> bool {
    let mut named = partition.replicas.iter().chain(&partition.learners);
    partition.leader == Some(node) || named.any(|id| *id == node)
}
