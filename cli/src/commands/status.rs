//! `meshctl status`: the cluster's health at a glance.

use serde_json::json;

use crate::error::Failure;
use crate::session::Session;
use crate::units::human_bytes;

/// Show the cluster's health at a glance
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl status
  meshctl status --output json")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let info = client.info().await?;
    client.close().await;
    // A cluster of one: the node that answers is alive, holds every partition and leads it; there is nobody to hold
    // hints for and nowhere to move a partition.
    if session.out.is_json() {
        return session.out.json(&json!({
            "cluster": info.cluster.to_string(),
            "nodes": [{
                "name": info.name,
                "id": info.node.to_string(),
                "address": info.address,
                "zone": null,
                "state": "alive",
                "partitions": info.partitions,
                "leads": info.partitions,
            }],
            "under_replicated": 0,
            "pending_hints": 0,
            "transfers": [],
        }));
    }
    session.out.line(format!("cluster {}", info.cluster))?;
    session.out.table(
        &[
            "node",
            "address",
            "state",
            "partitions",
            "leads",
            "disk free",
        ],
        &[vec![
            info.name.clone(),
            info.address.clone(),
            "alive".to_owned(),
            info.partitions.to_string(),
            info.partitions.to_string(),
            human_bytes(info.free_bytes),
        ]],
    )?;
    session
        .out
        .line("one node, one copy of everything: back up its disk")
}
