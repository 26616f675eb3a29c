//! `meshctl repair`: has all copies of bindings compared and brought to the same, now.

use mesh_net::client::NodeRepair;
use mesh_ring::ids::PartitionId;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::session::Session;
use crate::units::{grouped, human_bytes};

/// Compare all copies of bindings now, and heal what differs
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl repair
  meshctl repair --partition 7
  meshctl repair --output json

Nodes do the same by themselves, about once a minute, and whenever one has come back. What was sent and received is
counted at the node that began the comparison. Damaged are bindings that could not be read and were replaced by another
node's copy.")]
pub(crate) struct Args {
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u16>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let mut report = client.repair(args.partition.map(PartitionId)).await?;
    client.close().await;
    report.nodes.sort_by(|a, b| a.node.cmp(&b.node));
    for (node, error) in &report.silent {
        session
            .out
            .warn(&format!("{node} does not compare its copies: {error}"));
    }
    for (node, cause) in &report.missed {
        session
            .out
            .warn(&format!("copies of {node} were not compared: {cause}"));
    }
    if session.out.is_json() {
        for node in &report.nodes {
            session.out.json(&object(node))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = report.nodes.iter().map(row).collect();
    let headings = [
        "node",
        "partitions",
        "differing leaves",
        "sent",
        "received",
        "on the wire",
        "damaged",
    ];
    session.out.table(&headings, &rows)
}

fn row(node: &NodeRepair) -> Vec<String> {
    vec![
        node.node.clone(),
        node.partitions.to_string(),
        grouped(node.differing_leaves),
        grouped(node.sent),
        grouped(node.received),
        human_bytes(node.bytes),
        grouped(node.damaged),
    ]
}

fn object(node: &NodeRepair) -> Value {
    json!({
        "node": node.node,
        "partitions": node.partitions,
        "differing_leaves": node.differing_leaves,
        "sent": node.sent,
        "received": node.received,
        "bytes": node.bytes,
        "damaged": node.damaged,
    })
}
