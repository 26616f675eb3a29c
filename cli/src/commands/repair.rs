//! `meshctl repair`: has all copies of bindings and topics compared, and heals what differs or cannot be read, now.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use mesh_net::client::{NodeRepair, RepairProgress};
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
where blocks differ between replicas although both are valid: nothing is written over then; and with 4 where damaged blocks are left,
as no replica that answers has them whole.")]
pub(crate) struct Args {
    /// Only this partition
    #[arg(long, value_name = "P")]
    partition: Option<u16>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let mut shown = Shown::new(session);
    let partition = args.partition.map(PartitionId);
    let tell = |progress| shown.show(session, progress);
    let repaired = client.repair_telling(partition, tell).await;
    shown.bar.finish_and_clear();
    let mut report = repaired?;
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
    let sum = |of: fn(&NodeRepair) -> u64| report.nodes.iter().map(of).sum::<u64>();
    let differing = sum(|node| node.blocks_differing);
    if differing > 0 {
        return Err(Failure::failed(format!(
            "{differing} times replicas hold different records at the same offsets, both valid, which must never be: nothing was written over; `meshctl status` names them"
        )));
    }
    match sum(|node| node.blocks_unreadable) {
        0 => Ok(()),
        some => Err(Failure::unavailable(format!(
            "{some} blocks are damaged and not healed yet, and are not served there: start the nodes that are away, and repair again; `meshctl status` names them"
        ))),
    }
}

/// How often it is told how far a repair is, where there is no terminal.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What was told last: a bar on a terminal, a line now and then elsewhere.
struct Shown {
    bar: ProgressBar,
    told: Instant,
}

impl Shown {
    fn new(session: &Session) -> Self {
        let target = if session.out.is_quiet() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let style = ProgressStyle::with_template("{bar:24} {pos} of {len} partitions, {msg}");
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Self {
            bar: bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            told: Instant::now(),
        }
    }

    fn show(&mut self, session: &Session, progress: RepairProgress) {
        let (done, of) = progress.partitions;
        let message = format!(
            "{} blocks compared, {} healed",
            grouped(progress.blocks),
            grouped(progress.blocks_healed)
        );
        if !self.bar.is_hidden() {
            self.bar.set_length(of as u64);
            self.bar.set_position(done as u64);
            self.bar.set_message(message);
        } else if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            session
                .out
                .progress(&format!("{done} of {of} partitions, {message}"));
        }
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
        "unreadable",
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
        grouped(node.blocks_unreadable),
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
        "blocks_unreadable": node.blocks_unreadable,
    })
}
