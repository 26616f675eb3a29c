//! `meshctl salvage`: open a store again whose write-ahead log is damaged.

use std::path::PathBuf;

use mesh_engine::SalvageReport;
use serde_json::json;

use crate::error::Failure;
use crate::layout;
use crate::session::Session;
use crate::units::human_bytes;

/// Accept the loss that a damaged write-ahead log means
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl salvage mesh/n1
  meshctl salvage mesh/n1 --accept-loss

The last resort, when the disk cannot be restored: the log is cut at the first damage, and records that were
acknowledged after that point are gone. What is cut off is kept in files beside it. Without --accept-loss nothing is
changed: it only says what would be lost, and exits with 1 where there is damage. The node must not be running.

Afterwards serve the node as ever. What other nodes still have it takes back from them, so let them run before: of two
nodes, the other one. What a node has alone that is away then, is replaced when that node returns.")]
pub(crate) struct Args {
    /// The node's folder
    folder: PathBuf,
    /// Cut the log at the damage
    #[arg(long)]
    accept_loss: bool,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let data = layout::data(&args.folder);
    let report = mesh_engine::salvage(&data, args.accept_loss)
        .map_err(|e| Failure::failed(format!("{}: {e}", args.folder.display())))?;
    print(&report, session)?;
    match &report.damaged {
        Some(file) if !args.accept_loss => Err(Failure::failed(format!(
            "{} is damaged: restore the disk, or accept the loss with --accept-loss",
            file.display()
        ))),
        _ => Ok(()),
    }
}

fn print(report: &SalvageReport, session: &mut Session) -> Result<(), Failure> {
    let kept: Vec<String> = report
        .kept
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let damaged = report
        .damaged
        .as_ref()
        .map(|path| path.display().to_string());
    if session.out.is_json() {
        return session.out.json(&json!({
            "damaged": damaged,
            "offset": report.offset,
            "lost_bytes": report.lost_bytes,
            "kept": kept,
        }));
    }
    let Some(file) = damaged else {
        return session
            .out
            .line("the write-ahead log is whole: there is nothing to salvage");
    };
    session
        .out
        .line(format!("damaged: {file}, from byte {} on", report.offset))?;
    let loss = human_bytes(report.lost_bytes);
    if kept.is_empty() {
        return session.out.line(format!(
            "to lose: up to {loss} of what was acknowledged last"
        ));
    }
    session
        .out
        .line(format!("cut off: {loss}, kept in {}", kept.join(", ")))
}
