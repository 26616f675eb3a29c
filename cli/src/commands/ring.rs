//! `meshctl ring`: the partition table.

use mesh_net::client::{ClusterView, NodeState, PartitionView};
use serde_json::json;

use crate::error::Failure;
use crate::session::Session;
use crate::survey::{name, names};

/// Show the partition table and how even it is
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ring
  meshctl ring --output json")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let cluster = client.cluster().await?;
    client.close().await;
    let leader = |partition: &PartitionView| partition.leader.map(|id| name(&cluster, id));
    if session.out.is_json() {
        for partition in &cluster.partitions {
            session.out.json(&json!({
                "partition": partition.id.0,
                "replicas": names(&cluster, &partition.replicas),
                "leader": leader(partition),
                "epoch": partition.epoch.0,
                "active": partition.active,
                "learners": names(&cluster, &partition.learners),
                "target": partition.target.as_ref().map(|target| names(&cluster, target)),
            }))?;
        }
        return Ok(());
    }
    let row = |partition: &PartitionView| {
        vec![
            partition.id.0.to_string(),
            leader(partition).unwrap_or_else(|| "-".to_owned()),
            partition.epoch.0.to_string(),
            names(&cluster, &partition.replicas).join(", "),
            doing(&cluster, partition),
        ]
    };
    let rows: Vec<Vec<String>> = cluster.partitions.iter().map(row).collect();
    let out = &mut session.out;
    out.table(&["partition", "leader", "epoch", "replicas", ""], &rows)?;
    if !out.is_quiet() {
        balance(&cluster)
            .iter()
            .try_for_each(|line| out.line(line))?;
    }
    Ok(())
}

/// What is under way with a partition.
fn doing(cluster: &ClusterView, partition: &PartitionView) -> String {
    let mut words = Vec::new();
    if !partition.active {
        words.push("being taken over".to_owned());
    }
    match &partition.target {
        Some(target) => words.push(format!("moving to {}", names(cluster, target).join(", "))),
        None if partition.learners.is_empty() => {}
        None => {
            let learners = names(cluster, &partition.learners);
            words.push(format!("copied to {}", learners.join(", ")));
        }
    }
    words.join(", ")
}

/// A line for each node: how much it holds and leads.
fn balance(cluster: &ClusterView) -> Vec<String> {
    let mut nodes: Vec<_> = cluster.nodes.iter().collect();
    nodes.sort_by_key(|node| (node.name.len(), &node.name));
    let staying = nodes.iter().filter(|node| node.state != NodeState::Removed);
    let line = |node: &&&mesh_net::client::NodeView| {
        let partitions = cluster.partitions.iter();
        let holds = partitions
            .clone()
            .filter(|p| p.replicas.contains(&node.id))
            .count();
        let leads = partitions.filter(|p| p.leader == Some(node.id)).count();
        format!("{}: holds {holds}, leads {leads}", node.name)
    };
    staying.map(|node| line(&node)).collect()
}
