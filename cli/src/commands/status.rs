//! `meshctl status`: the cluster's health at a glance.

use std::time::Duration;

use mesh_net::client::{NodeState, NodeView, RepairStatus, TombstoneStatus, TransferStatus};
use serde_json::{Value, json};

use crate::error::Failure;
use crate::session::Session;
use crate::survey::{Survey, state_word, survey};
use crate::units::{grouped, human_bytes};

/// For how long it is told that something was healed.
const HEALED_LATELY: Duration = Duration::from_secs(600);

/// For how long deletions may have to be remembered before it is told why.
const HELD_UP_LONG: Duration = Duration::from_secs(60);

/// Show the cluster's health at a glance
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl status
  meshctl status --output json

A node is alive, joining, draining or down, as the cluster map says. A partition is under-replicated while fewer
copies of it than there should be are on living nodes, whole and caught up.")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let survey = survey(&client, session).await?;
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&object(&survey));
    }
    print(&survey, session)
}

/// Nodes that are of the cluster, by name.
fn members(survey: &Survey) -> Vec<&NodeView> {
    let nodes = survey.cluster.nodes.iter();
    let mut nodes: Vec<&NodeView> = nodes
        .filter(|node| node.state != NodeState::Removed)
        .collect();
    nodes.sort_by_key(|node| (node.name.len(), &node.name));
    nodes
}

/// Partitions that the node holds, and those that it leads.
fn shares(survey: &Survey, node: &NodeView) -> (usize, usize) {
    let partitions = survey.cluster.partitions.iter();
    let holds = |id| {
        partitions
            .clone()
            .filter(|p| p.replicas.contains(&id))
            .count()
    };
    let leads = partitions
        .clone()
        .filter(|p| p.leader == Some(node.id))
        .count();
    (holds(node.id), leads)
}

fn control_leader(survey: &Survey) -> Option<String> {
    survey.control_leader().map(|leader| survey.name(leader))
}

/// A node's state in the word for it.
fn state(survey: &Survey, node: &NodeView) -> &'static str {
    state_word(survey.state(node.id).unwrap_or(node.state))
}

fn hints(survey: &Survey) -> u64 {
    let hints = survey
        .statuses()
        .map(|(_, status)| u64::from(status.pending_hints));
    hints.sum()
}

fn warnings(survey: &Survey) -> Vec<String> {
    let mut warnings = Vec::new();
    for (node, cause) in survey.silent() {
        warnings.push(format!("{} does not answer: {cause}", survey.name(node)));
    }
    for (node, status) in survey.statuses() {
        let said = status.warnings.iter();
        warnings.extend(said.map(|warning| format!("{}: {warning}", survey.name(node))));
    }
    warnings.sort();
    warnings
}

/// What nodes have healed lately, for people.
fn healed(survey: &Survey) -> Vec<String> {
    let mut told = Vec::new();
    for (node, status) in survey.statuses() {
        let repair = &status.repair;
        if let Some(ago) = repair.block_healed_ago.filter(|ago| *ago < HEALED_LATELY) {
            told.push(format!(
                "{}: records of topics that could not be read were healed from other replicas {} ago; {} blocks since its start",
                survey.name(node),
                duration(ago),
                grouped(repair.blocks_healed),
            ));
        }
        let Some(ago) = repair.healed_ago.filter(|ago| *ago < HEALED_LATELY) else {
            continue;
        };
        let damaged = match repair.damaged {
            0 => String::new(),
            some => format!(", {} of them could not be read", grouped(some)),
        };
        told.push(format!(
            "{}: copies of bindings differed and were healed {} ago; {} sent and {} received since its start{damaged}",
            survey.name(node),
            duration(ago),
            grouped(repair.sent),
            grouped(repair.received),
        ));
    }
    told.sort();
    told
}

/// Deletions that wait to be forgotten, and what is in the way of those that wait longest.
fn tombstones(survey: &Survey) -> TombstoneStatus {
    let mut all = TombstoneStatus::default();
    for (_, status) in survey.statuses() {
        let of = &status.tombstones;
        all.waiting += of.waiting;
        all.forgotten += of.forgotten;
        all.held_up = all.held_up.max(of.held_up.clone());
    }
    all
}

fn held_up(survey: &Survey) -> Option<String> {
    let all = tombstones(survey);
    let (ago, cause) = all.held_up.filter(|(ago, _)| *ago >= HELD_UP_LONG)?;
    Some(format!(
        "{} or more deletions are remembered and cannot be forgotten since {}: {cause}",
        grouped(all.waiting),
        duration(ago)
    ))
}

fn tombstones_object(tombstones: &TombstoneStatus) -> Value {
    let held_up = tombstones.held_up.as_ref();
    json!({
        "waiting": tombstones.waiting,
        "forgotten": tombstones.forgotten,
        "held_up_seconds": held_up.map(|(ago, _)| ago.as_secs()),
        "cause": held_up.map(|(_, cause)| cause),
    })
}

fn duration(ago: Duration) -> String {
    match ago.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}

fn repair_object(repair: &RepairStatus) -> Value {
    json!({
        "rounds": repair.rounds,
        "compared": repair.compared,
        "differing_leaves": repair.differing_leaves,
        "sent": repair.sent,
        "received": repair.received,
        "bytes": repair.bytes,
        "damaged": repair.damaged,
        "blocks": repair.blocks,
        "blocks_differing": repair.blocks_differing,
        "blocks_damaged": repair.blocks_damaged,
        "blocks_healed": repair.blocks_healed,
        "blocks_unreadable": repair.blocks_unreadable,
    })
}

fn object(survey: &Survey) -> Value {
    let node = |node: &NodeView| {
        let (partitions, leads) = shares(survey, node);
        json!({
            "name": node.name,
            "id": node.id.to_string(),
            "address": node.address,
            "zone": (!node.zone.is_empty()).then_some(&node.zone),
            "state": state(survey, node),
            "partitions": partitions,
            "leads": leads,
            "lag": survey.lag(node.id),
            "votes": node.votes,
            "answers": survey.status(node.id).is_some(),
            "repair": survey.status(node.id).map(|status| repair_object(&status.repair)),
        })
    };
    let nodes: Vec<Value> = members(survey).into_iter().map(node).collect();
    let transfers = survey.transfers().into_iter();
    let transfers: Vec<Value> = transfers
        .map(|transfer| transfer_object(survey, transfer))
        .collect();
    json!({
        "cluster": survey.cluster.cluster.to_string(),
        "map_version": survey.cluster.version,
        "control_leader": control_leader(survey),
        "nodes": nodes,
        "under_replicated": survey.under_replicated().len(),
        "unavailable": survey.unavailable(),
        "pending_hints": hints(survey),
        "tombstones": tombstones_object(&tombstones(survey)),
        "transfers": transfers,
        "warnings": warnings(survey),
    })
}

fn transfer_object(survey: &Survey, transfer: &TransferStatus) -> Value {
    json!({
        "partition": transfer.partition.0,
        "from": survey.name(transfer.from),
        "to": survey.name(transfer.to),
        "state": transfer.state,
        "bytes_done": transfer.bytes_done,
        "bytes_total": transfer.bytes_total,
        "bytes_per_second": transfer.bytes_per_second,
    })
}

fn print(survey: &Survey, session: &mut Session) -> Result<(), Failure> {
    let out = &mut session.out;
    out.line(format!("cluster {}", survey.cluster.cluster))?;
    let row = |node: &NodeView| {
        let (partitions, leads) = shares(survey, node);
        vec![
            node.name.clone(),
            node.address.clone(),
            if node.zone.is_empty() {
                "-".to_owned()
            } else {
                node.zone.clone()
            },
            state(survey, node).to_owned(),
            partitions.to_string(),
            leads.to_string(),
            grouped(survey.lag(node.id)),
        ]
    };
    let rows: Vec<Vec<String>> = members(survey).into_iter().map(row).collect();
    out.table(
        &[
            "node",
            "address",
            "zone",
            "state",
            "partitions",
            "leads",
            "lag",
        ],
        &rows,
    )?;
    for transfer in survey.transfers() {
        out.line(format!(
            "partition {}: {} → {}, {}, {} of about {}",
            transfer.partition.0,
            survey.name(transfer.from),
            survey.name(transfer.to),
            transfer.state,
            human_bytes(transfer.bytes_done),
            human_bytes(transfer.bytes_total),
        ))?;
    }
    out.line(copies(survey))?;
    match survey.unavailable() {
        0 => {}
        some => out.line(format!("{some} partitions have no leader that serves"))?,
    }
    match control_leader(survey) {
        Some(leader) => out.line(format!("changes of the ring go through {leader}"))?,
        None => out.line("the ring cannot be changed: the control plane has no majority")?,
    }
    for line in healed(survey) {
        out.line(line)?;
    }
    if let Some(line) = held_up(survey) {
        out.line(line)?;
    }
    for warning in warnings(survey) {
        out.warn(&warning);
    }
    Ok(())
}

/// How many copies there are of everything.
fn copies(survey: &Survey) -> String {
    let (wanted, lacking) = (survey.copies_wanted(), survey.under_replicated().len());
    let all = survey.cluster.partitions.len();
    match (wanted, lacking) {
        (1, 0) => "one node, one copy of everything: back up its disk".to_owned(),
        (_, 0) => format!("each of the {all} partitions has its {wanted} copies"),
        _ => format!(
            "{lacking} of {all} partitions are under-replicated: they should have {wanted} copies"
        ),
    }
}
