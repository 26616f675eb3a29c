//! The tour's stop at the hospital: a node joins, stands in for one that is away, and hands over what it kept.

use std::time::Instant;

use serde_json::Value;

use super::nodes::{NEWCOMER, Nodes, until_status, whole_again};
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
