//! `meshctl info`: facts about a node.

use mesh_net::client::{Client, ClusterView, NodeInfo, NodeState, NodeView};
use serde_json::{Value, json};

use crate::error::Failure;
use crate::session::Session;
use crate::time::human_duration;
use crate::units::human_bytes;

/// Show facts about a node
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl info
  meshctl info n1
  meshctl info 127.0.0.1:7400 --output json")]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArg,
}

/// Which node a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeArg {
    /// The node's name or HOST:PORT [default: the first that answers]
    #[arg(value_name = "NODE")]
    named: Option<String>,
}

impl NodeArg {
    /// A client of that node, and what the node says about itself.
    pub(crate) async fn connect(&self, session: &Session) -> Result<(Client, NodeInfo), Failure> {
        let client = match &self.named {
            None => session.connect().await?,
            Some(address) if address.contains(':') => session.connect_to(address).await?,
            Some(name) => {
                let any = session.connect().await?;
                let cluster = any.cluster().await?;
                any.close().await;
                session.connect_to(&known(&cluster, name)?.address).await?
            }
        };
        let info = client.info().await?;
        Ok((client, info))
    }
}

/// The node of this name; where there is none, the error says which there are.
pub(crate) fn known<'c>(cluster: &'c ClusterView, name: &str) -> Result<&'c NodeView, Failure> {
    cluster.named(name).ok_or_else(|| {
        let nodes = cluster
            .nodes
            .iter()
            .filter(|node| node.state != NodeState::Removed);
        let mut names: Vec<&str> = nodes.map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        Failure::not_found(format!(
            "no node {name}: the cluster has {}",
            names.join(", ")
        ))
    })
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let (client, info) = args.node.connect(session).await?;
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&object(&info));
    }
    session.out.facts(&[
        ("name", info.name.clone()),
        ("id", info.node.to_string()),
        ("cluster", info.cluster.to_string()),
        ("address", info.address.clone()),
        ("version", info.version.clone()),
        ("data format", info.format.to_string()),
        ("partitions", info.partitions.to_string()),
        ("boots", info.boot.to_string()),
        ("up for", human_duration(info.uptime.as_secs() * 1000)),
        ("connections", info.connections.to_string()),
        ("disk free", human_bytes(info.free_bytes)),
        ("read repairs", info.read_repairs.to_string()),
    ])
}

fn object(info: &NodeInfo) -> Value {
    json!({
        "name": info.name,
        "id": info.node.to_string(),
        "cluster": info.cluster.to_string(),
        "address": info.address,
        "version": info.version,
        "format": info.format,
        "partitions": info.partitions,
        "boot": info.boot,
        "uptime_ms": u64::try_from(info.uptime.as_millis()).unwrap_or(u64::MAX),
        "connections": info.connections,
        "free_bytes": info.free_bytes,
        "read_repairs": info.read_repairs,
    })
}
