//! The tour's hard stop: the leader dies by `kill -9` while records are being published.

use std::collections::HashMap;
use std::time::Instant;

use mesh_net::client::Client;
use serde_json::Value;

use super::load::{Ack, Load, TOPIC, connect, read};
use super::nodes::{Nodes, whole_again};
use super::records;
use super::tour::Tour;
use crate::error::Failure;
use crate::units::grouped;

/// Acknowledgements before the kill, and after the takeover.
const BEFORE: u64 = 2_000;
const AFTER: u64 = 1_000;

pub(super) async fn survive(
    tour: &mut Tour<'_>,
    nodes: &mut Nodes,
    input: &[u8],
) -> Result<(), Failure> {
    tour.heading("The leader dies, in the middle of publishing")?;
    let client = connect(tour).await?;
    let load = Load::start(&client);
    load.wait_for(BEFORE).await?;
    let leader = leader(tour, TOPIC).await?;
    tour.say(&format!("{leader} leads the topic {TOPIC}"))?;
    nodes.kill(tour, &leader).await?;
    let (before, waiting) = (load.acknowledged(), load.waiting());
    let began = Instant::now();
    tour.claim(
        before >= BEFORE && waiting > 0,
        &format!(
            "killed with {} records acknowledged and {waiting} calls waiting",
            grouped(before)
        ),
    )?;
    // What the old leader had answered may still be on its way; then everything that waited is answered.
    load.wait_for(before + waiting + 1).await?;
    let took = began.elapsed().as_millis();
    load.wait_for(before + AFTER).await?;
    let successor = self::leader(tour, TOPIC).await?;
    tour.claim(
        successor != leader,
        &format!("{took} ms later {successor} leads, and the producers have gone on by themselves"),
    )?;
    read_from_a_survivor(tour, nodes, input).await?;
    let acknowledged = load.finish().await?;
    judge(tour, &client, &acknowledged).await?;
    client.close().await;
    bring_back(tour, nodes, &leader).await
}

/// Who orders this topic.
pub(super) async fn leader(tour: &Tour<'_>, topic: &str) -> Result<String, Failure> {
    let words = ["topic", "describe", topic, "--output", "json"];
    let described = tour.meshctl_unseen(&words).await?.required("describe")?;
    let described: Value = serde_json::from_slice(&described.stdout).unwrap_or_default();
    let leader = described["leader"].as_str();
    Ok(leader.unwrap_or("nobody").to_owned())
}

async fn read_from_a_survivor(
    tour: &mut Tour<'_>,
    nodes: &Nodes,
    input: &[u8],
) -> Result<(), Failure> {
    let from = records::count(input) / 2;
    let offset = from.to_string();
    let node = nodes.address()?.to_owned();
    let words = ["tail", "commits", "--from-offset", &offset, "--node", &node];
    let tailed = tour.meshctl(&words).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == records::from_line(input, from),
        &format!("a survivor replays the older topic from offset {from}, byte for byte"),
    )
}

/// Compares what is stored with what the producers were told.
async fn judge(tour: &mut Tour<'_>, client: &Client, told: &[Ack]) -> Result<(), Failure> {
    let stored = read(client).await?;
    let kept = told
        .iter()
        .filter(|ack| stored.get(ack.offset as usize) == Some(&ack.value));
    tour.claim(
        kept.count() == told.len(),
        &format!(
            "each of {} acknowledged records is at the offset that was told",
            grouped(told.len() as u64)
        ),
    )?;
    let mut times: HashMap<&str, u64> = HashMap::new();
    for value in &stored {
        *times.entry(value).or_default() += 1;
    }
    tour.claim(
        times.values().all(|times| *times == 1) && times.len() == told.len(),
        "each is there once: the calls that were waiting were retried, and no retry was appended twice",
    )
}

async fn bring_back(tour: &mut Tour<'_>, nodes: &mut Nodes, dead: &str) -> Result<(), Failure> {
    tour.heading("The dead node comes back")?;
    let began = Instant::now();
    nodes.serve(tour, dead).await?;
    let whole = whole_again(tour).await?;
    let took = began.elapsed().as_secs_f64();
    tour.claim(
        whole,
        &format!("{took:.1} s after its start {dead} has caught up with everything it missed"),
    )?;
    for topic in [TOPIC, "commits"] {
        let verified = tour.meshctl(&["verify", topic, "--output", "json"]).await?;
        let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap_or_default();
        let replicas = verdict["replicas"].as_array().map_or(0, Vec::len);
        tour.claim(
            verified.ok() && verdict["identical"] == true && replicas == 3,
            &format!("the three replicas of {topic} are identical, byte for byte"),
        )?;
    }
    Ok(())
}

/// Two of three are gone: nothing is acknowledged that could be lost, and what is there can be read.
pub(super) async fn lose_the_majority(
    tour: &mut Tour<'_>,
    nodes: &mut Nodes,
    input: &[u8],
) -> Result<(), Failure> {
    tour.heading("Two of three nodes die")?;
    let names = nodes.names();
    let (dead, _) = names.split_at(2);
    for name in dead {
        nodes.kill(tour, name).await?;
    }
    let refused = tour
        .meshctl(&["publish", "late", "too late", "--timeout", "3s"])
        .await?;
    tour.claim(
        refused.code == Some(4),
        "an append is refused, with exit code 4: a retry may help",
    )?;
    let node = nodes.address()?.to_owned();
    let tailed = tour.meshctl(&["tail", "commits", "--node", &node]).await?;
    tour.claim(
        tailed.ok() && tailed.stdout == input,
        "the survivor alone still replays what was committed",
    )?;
    for name in dead {
        nodes.serve(tour, name).await?;
    }
    let whole = whole_again(tour).await?;
    let published = tour.meshctl(&["publish", "ledger-2", "in time"]).await?;
    tour.claim(
        whole && published.ok(),
        "with the others back, appends go on without further help",
    )
}
