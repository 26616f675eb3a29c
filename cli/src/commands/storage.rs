//! `meshctl storage`: what a node stores, by family.

use serde_json::json;

use super::info::NodeArg;
use crate::error::Failure;
use crate::session::Session;
use crate::units::{grouped, human_bytes};

/// Show what a node stores, by family
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl storage
  meshctl storage n1 --output json

A family is one kind of data: log holds records, bindings keys and values, journal the order of commands. The
number of keys is an estimate.")]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArg,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let (client, info) = args.node.connect(session).await?;
    let families = client.storage().await?;
    client.close().await;
    if session.out.is_json() {
        for family in &families {
            session.out.json(&json!({
                "node": info.name,
                "family": family.name,
                "bytes": family.bytes,
                "keys_estimate": family.keys_estimate,
            }))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<String>> = families
        .iter()
        .map(|family| {
            vec![
                family.name.clone(),
                human_bytes(family.bytes),
                grouped(family.keys_estimate),
            ]
        })
        .collect();
    session.out.table(&["family", "size", "keys"], &rows)?;
    let total = families.iter().map(|family| family.bytes).sum();
    session.out.confirm(format!(
        "{} in all, {} free on the disk",
        human_bytes(total),
        human_bytes(info.free_bytes)
    ))
}
