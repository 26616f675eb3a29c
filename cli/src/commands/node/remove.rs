//! `meshctl node remove`: give a node up.

use mesh_net::client::{ClusterChange, NodeState};
use serde_json::json;

use super::drain::left;
use crate::commands::info::known;
use crate::error::Failure;
use crate::progress::until_moved;
use crate::session::Session;

/// Give a node up for ever
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node remove n2
  meshctl node remove n2 --even-if-it-holds-data

For a node that was drained, or that will never come back: what it held is made anew from the other copies. Its id is
refused from then on; the machine can join again as another node.")]
pub(crate) struct Args {
    /// The node's name
    node: String,
    /// Remove it although it runs and has not been drained: until the copies are made anew there is one fewer of each
    #[arg(long)]
    even_if_it_holds_data: bool,
    /// Do not wait until what it held is elsewhere
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let cluster = client.cluster().await?;
    let node = known(&cluster, &args.node)?;
    let (id, name) = (node.id, &args.node);
    let holds = cluster
        .partitions
        .iter()
        .filter(|p| p.replicas.contains(&id))
        .count();
    if holds > 0 && node.state != NodeState::Down && !args.even_if_it_holds_data {
        return Err(Failure::failed(format!(
            "{name} runs and holds {holds} partitions: `meshctl node drain {name}` first, or say --even-if-it-holds-data"
        )));
    }
    let version = client.change_cluster(ClusterChange::Remove(id)).await?;
    if !args.no_wait {
        until_moved(&client, session, |survey| left(survey, id)).await?;
    }
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&json!({
            "node": name,
            "map_version": version,
            "done": !args.no_wait,
        }));
    }
    session
        .out
        .confirm(format!("{name} is no longer of the cluster"))
}
