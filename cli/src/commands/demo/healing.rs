//! The tour's stop at the hospital: a node joins, another is stood in for while it is away, and a disk rots.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::nodes::{NEWCOMER, Nodes, until_status, whole_again};
use super::records;
use super::tour::Tour;
use crate::error::Failure;

/// Keys that are written while a node is away.
const KEYS: usize = 24;
/// The one that is.
const AWAY: &str = "n2";

pub(super) async fn join(tour: &mut Tour<'_>, nodes: &mut Nodes) -> Result<(), Failure> {
    tour.heading("A fourth node joins")?;
    let folder = format!("mesh/{NEWCOMER}");
    tour.meshctl(&["node", "new", &folder, "--port", "0"])
        .await?
        .required("node new")?;
    let via = nodes.address()?.to_owned();
    tour.meshctl(&["node", "join", &folder, "--via", &via, "--no-wait"])
        .await?
        .required("node join")?;
    nodes.serve(tour, NEWCOMER).await?;
    let began = Instant::now();
    let has_its_share = until_status(tour, |status| {
        let partitions: Vec<u64> = status["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|node| node["partitions"].as_u64())
            .collect();
        let spread = partitions.iter().max().zip(partitions.iter().min());
        partitions.len() == 4 && spread.is_some_and(|(most, least)| most - least <= 1)
    })
    .await?;
    let took = began.elapsed().as_secs_f64();
    tour.claim(
        has_its_share && whole_again(tour).await?,
        &format!("{took:.1} s later each of the four has its share of the partitions"),
    )
}

pub(super) async fn hand_over(tour: &mut Tour<'_>, nodes: &mut Nodes) -> Result<(), Failure> {
    tour.heading("A node is away, and others keep its bindings for it")?;
    nodes.kill(tour, AWAY).await?;
    let is_down = until_status(tour, |status| {
        let mut nodes = status["nodes"].as_array().into_iter().flatten();
        nodes.any(|node| node["name"] == AWAY && node["state"] == "down")
    })
    .await?;
    let key = |number: usize| format!("device:{number}");
    tour.meshctl(&["put", &key(0), "on", "--write", "3"])
        .await?
        .shown(tour)?;
    let (mut stored, mut hinted) = (0, 0);
    for number in 0..KEYS {
        let key = key(number);
        let words = ["put", &key, "on", "--write", "3", "--output", "json"];
        let put = tour.meshctl_unseen(&words).await?;
        let told: Value = serde_json::from_slice(&put.stdout).unwrap_or_default();
        stored += usize::from(put.ok());
        let kept_for = told["hinted"].as_array().into_iter().flatten();
        hinted += kept_for.filter(|name| *name == AWAY).count();
    }
    tour.claim(
        is_down && stored == KEYS && hinted > 0,
        &format!(
            "{stored} of {KEYS} writes are on three nodes each; for {hinted} of them another node stands in for {AWAY}"
        ),
    )?;
    nodes.serve(tour, AWAY).await?;
    let began = Instant::now();
    let none_left = until_status(tour, |status| status["pending_hints"] == 0).await?;
    let took = began.elapsed().as_secs_f64();
    let whole = whole_again(tour).await?;
    let mut read = 0;
    for number in 0..KEYS {
        let key = key(number);
        let got = tour.meshctl_unseen(&["get", &key, "--read", "3"]).await?;
        read += usize::from(got.ok() && got.stdout == b"on");
    }
    tour.claim(
        none_left && whole && read == KEYS,
        &format!("{took:.1} s after its start {AWAY} has been given them, and all three of each key's homes answer"),
    )
}

pub(super) async fn rot(
    tour: &mut Tour<'_>,
    nodes: &mut Nodes,
    input: &[u8],
) -> Result<(), Failure> {
    tour.heading("A disk rots under one of three replicas")?;
    let node = a_replica(tour).await?;
    let clean = nodes.stop(tour, &node).await?;
    let data = tour.dir().join("mesh").join(&node).join("data/db");
    let flipped = flip(&data, records::trace(input))?;
    nodes.serve(tour, &node).await?;
    if flipped == 0 {
        return tour.say("(these records are too few or too short to lie in a file of their own)");
    }
    tour.claim(
        clean && whole_again(tour).await?,
        &format!("{node} is back on a disk on which a bit of a record has flipped"),
    )?;
    let address = nodes.address_of(&node)?.to_owned();
    let words = ["tail", "commits", "--node", &address];
    let tailed = tour.meshctl(&words).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == input,
        "a reader that asks there gets every record, byte for byte: the damaged ones from another replica",
    )?;
    tour.meshctl(&["repair"]).await?.shown(tour)?;
    let verified = tour
        .meshctl(&["verify", "commits", "--output", "json"])
        .await?;
    let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap_or_default();
    tour.claim(
        verified.ok() && verdict["identical"] == true,
        "it is healed from the others: the three replicas are identical again",
    )
}

/// One of the nodes that keep the topic `commits`.
async fn a_replica(tour: &Tour<'_>) -> Result<String, Failure> {
    let words = ["verify", "commits", "--output", "json"];
    let verified = tour.meshctl_unseen(&words).await?.required("verify")?;
    let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap_or_default();
    let replica = verdict["replicas"].as_array().and_then(|all| all.last());
    let node = replica.and_then(|replica| replica["node"].as_str());
    node.map(str::to_owned)
        .ok_or_else(|| Failure::failed("nobody keeps the topic commits"))
}

/// Flips a bit wherever this text lies in the files of payloads, of a node that is stopped. How often it did.
fn flip(data: &Path, text: &[u8]) -> Result<usize, Failure> {
    let mut flipped = 0;
    for file in fs::read_dir(data).map_err(|e| Failure::file("list", data, &e))? {
        let file = file.map_err(|e| Failure::file("list", data, &e))?.path();
        if file.extension().is_none_or(|kind| kind != "blob") {
            continue;
        }
        let mut content = fs::read(&file).map_err(|e| Failure::file("read", &file, &e))?;
        let found = content.windows(text.len().max(1)).position(|at| at == text);
        if let Some(at) = found {
            content[at] ^= 0x04;
            fs::write(&file, content).map_err(|e| Failure::file("write", &file, &e))?;
            flipped += 1;
        }
    }
    Ok(flipped)
}
