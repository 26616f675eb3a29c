//! The tour's easy stops: bindings, topics, conditions, expiry, stop.

use std::time::{Duration, Instant};

use super::nodes::Nodes;
use super::records;
use super::tour::Tour;
use crate::error::Failure;
use crate::units::{grouped, human_bytes};

/// Longest time that the tour waits for something to expire.
const EXPIRY_MAX: Duration = Duration::from_secs(10);

pub(super) async fn bindings(tour: &mut Tour<'_>) -> Result<(), Failure> {
    tour.heading("Bindings: a key and its value")?;
    tour.meshctl(&["put", "user:123", "alice"])
        .await?
        .required("put")?;
    let got = tour.meshctl(&["get", "user:123"]).await?;
    tour.claim(
        got.ok() && got.stdout == b"alice",
        "get gives the value's bytes and nothing else",
    )?;
    tour.meshctl(&["delete", "user:123"])
        .await?
        .required("delete")?;
    let gone = tour.meshctl(&["get", "user:123"]).await?;
    tour.claim(
        gone.code == Some(3) && gone.stdout.is_empty(),
        "a deleted key is not found: exit code 3, for scripts",
    )?;
    tour.meshctl(&["put", "user:123", "bob"])
        .await?
        .required("put")?;
    Ok(())
}

pub(super) async fn topics(tour: &mut Tour<'_>, input: &[u8]) -> Result<(), Failure> {
    tour.heading("Topics: an append-only log with dense offsets")?;
    let file = tour.dir().join("commits.ndjson");
    std::fs::write(&file, input).map_err(|e| Failure::file("write", &file, &e))?;
    let count = records::count(input);
    let began = Instant::now();
    let published = tour
        .meshctl(&["publish", "commits", "--file", "commits.ndjson"])
        .await?
        .required("publish")?;
    let took = began.elapsed().as_secs_f64();
    tour.claim(
        published.text() == range(count),
        &format!(
            "{} records ({}) are durable at the offsets {}, after {took:.2} s",
            grouped(count as u64),
            human_bytes(input.len() as u64),
            published.text()
        ),
    )?;
    let tailed = tour.meshctl(&["tail", "commits"]).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == input,
        "tail gives the file back, byte for byte",
    )?;
    let from = count.saturating_sub(3);
    let last = tour
        .meshctl(&["tail", "commits", "--from-offset", &from.to_string()])
        .await?;
    tour.claim(
        last.ok() && last.stdout == records::from_line(input, from),
        &format!("tail from offset {from} begins exactly there"),
    )
}

/// What `publish` prints for the first `count` records of a topic.
fn range(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "0".to_owned(),
        _ => format!("0..{}", count - 1),
    }
}

pub(super) async fn conditions(tour: &mut Tour<'_>) -> Result<(), Failure> {
    tour.heading("Conditional appends: two writers cannot both be next")?;
    tour.meshctl(&["publish", "ledger", "opened"])
        .await?
        .required("publish")?;
    let credit = ["publish", "ledger", "credit 10", "--expect-offset", "1"];
    let first = tour.meshctl(&credit).await?;
    tour.claim(
        first.ok() && first.text() == "1",
        "the writer that knows the end appends at offset 1",
    )?;
    let second = tour.meshctl(&credit).await?;
    tour.claim(
        second.code == Some(5),
        "the same again is a conflict: exit code 5",
    )?;
    let ledger = tour.meshctl_unseen(&["tail", "ledger"]).await?;
    tour.claim(
        ledger.ok() && ledger.stdout == b"opened\ncredit 10\n",
        "and it has written nothing",
    )
}

pub(super) async fn expiry(tour: &mut Tour<'_>) -> Result<(), Failure> {
    tour.heading("Expiry: a value that forgets itself")?;
    let began = Instant::now();
    tour.meshctl(&["put", "session:9", "active", "--ttl", "1s"])
        .await?
        .required("put")?;
    let get = ["get", "session:9"];
    let now = tour.meshctl(&get).await?;
    // A machine that took longer than the value's life to come here has shown nothing about it.
    if began.elapsed() < Duration::from_secs(1) {
        tour.claim(now.ok() && now.stdout == b"active", "it is there at first")?;
    }
    let mut gone = false;
    while !gone && began.elapsed() < EXPIRY_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gone = tour.meshctl_unseen(&get).await?.code == Some(3);
    }
    let took = began.elapsed().as_secs_f64();
    tour.claim(
        gone && took >= 1.0,
        &format!("and gone {took:.1} s after it was put"),
    )
}

pub(super) async fn stop(
    tour: &mut Tour<'_>,
    nodes: &mut Nodes,
    input: &[u8],
) -> Result<(), Failure> {
    tour.heading("Stop and start, all at once")?;
    let clean = nodes.stop_all(tour).await?;
    tour.claim(
        clean,
        "at SIGTERM every node finishes what it has accepted, and exits with 0",
    )?;
    let away = tour
        .meshctl_unseen(&["get", "user:123", "--timeout", "1s"])
        .await?;
    tour.claim(
        away.code == Some(4),
        "a client without a node is told so: exit code 4, worth a retry",
    )?;
    nodes.start_all(tour).await?;
    let tailed = tour.meshctl(&["tail", "commits"]).await?;
    let got = tour.meshctl(&["get", "user:123"]).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == input && got.stdout == b"bob",
        "after a start everything is there",
    )?;
    let clean = nodes.stop_all(tour).await?;
    tour.claim(clean, "the last stop is clean, too")
}
