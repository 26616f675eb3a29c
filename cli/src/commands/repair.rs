//! `meshctl repair`: has all copies of bindings and topics compared, and heals what differs or cannot be read, now.

use mesh_net::client::NodeRepair;
use mesh_ring::ids::PartitionId;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::session::Session;
use crate::units::{grouped, human_bytes};

/// Compare all copies of bindings and topics now, and heal what differs or cannot be read
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl repair
  meshctl repair --partition 7
  meshctl repair --output json

Nodes compare bindings by themselves, about once a minute, and whenever one has come back; of topics they read a part each time,
which goes through everything in the end. This reads everything, once at each node. What was sent and received is counted at the
node that began the comparison. Damaged are bindings that could not be read and were replaced by another node's copy.

A block is 1,024 offsets of a topic. One that cannot be read is not served, and is healed from another replica. Exits with 1
where blocks differ between replicas although both are valid: nothing is written over then.")]
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
        session.out.warn(&format!(
            "copies of {node} were not compared, or not healed: {cause}"
        ));
    }
    print(&report.nodes, session)?;
    let differing: u64 = report.nodes.iter().map(|node| node.blocks_differing).sum();
    match differing {
        0 => Ok(()),
        some => Err(Failure::failed(format!(
            "{some} times replicas hold different records at the same offsets, both valid, which must never be: nothing was written over; `meshctl status` names them"
        ))),
    }
}

fn print(nodes: &[NodeRepair], session: &mut Session) -> Result<(), Failure> {
    if session.out.is_json() {
        for node in nodes {
            session.out.json(&object(node))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = nodes.iter().map(row).collect();
    let headings = [
        "node",
        "partitions",
        "differing leaves",
        "sent",
        "received",
        "on the wire",
        "damaged",
        "blocks",
        "blocks damaged",
        "blocks healed",
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
        grouped(node.blocks),
        grouped(node.blocks_damaged),
        grouped(node.blocks_healed),
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
        "blocks": node.blocks,
        "blocks_differing": node.blocks_differing,
        "blocks_damaged": node.blocks_damaged,
        "blocks_healed": node.blocks_healed,
    })
}
