//! `meshctl ring`: the partition table.

use serde_json::json;

use crate::error::Failure;
use crate::session::Session;

/// Show the partition table
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ring
  meshctl ring --output json")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let info = client.info().await?;
    client.close().await;
    if session.out.is_json() {
        for partition in 0..info.partitions {
            session.out.json(&json!({
                "partition": partition,
                "replicas": [info.name],
                "leader": info.name,
                "epoch": info.epoch,
            }))?;
        }
        return Ok(());
    }
    let row = |partition: u16| {
        let (node, epoch) = (info.name.clone(), info.epoch.to_string());
        vec![partition.to_string(), node.clone(), epoch, node]
    };
    let rows: Vec<Vec<String>> = (0..info.partitions).map(row).collect();
    session
        .out
        .table(&["partition", "leader", "epoch", "replicas"], &rows)
}
