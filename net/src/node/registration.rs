//! A start of this node is registered in the cluster map before the node takes part in anything.
//!
//! What it presents is what its disk says of its earlier starts. A disk that is an old copy does not know of the latest
//! one, and is refused: what it had acknowledged since is not on it. A copy of the present start, such as a machine's snapshot,
//! the map cannot tell; so every node that can be reached is asked first how far it has seen this one acknowledge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::control::ControlCommand;
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::map::{Boot, ClusterMap, NodeState};
use mesh_ring::replica::Position;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::control::ProposeError;
use super::peers::{Peers, REJOIN, old_copy};
use super::{Shared, seen};
use crate::tasks::blocking;
use crate::wire::proto::{GetMap, Request, SeenOf, SeenPositions, reply::Kind as Answer, request};

/// The pause between two attempts while the control plane has no majority.
const AGAIN: Duration = Duration::from_millis(100);

/// How long one contact may take to answer.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long another node may take to say what it has seen of this one. Those that cannot be reached know nothing.
const SEEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Registers this start; tries until the control plane has answered. `Err`: this node must not take part.
pub(super) async fn register(shared: &Arc<Shared>) -> Result<(), String> {
    let of_disk = |boot: mesh_engine::Boot| Boot {
        count: boot.count,
        token: boot.token,
    };
    let boot = of_disk(shared.engine.boot_token());
    let previous: Vec<Boot> = shared.engine.earlier_boots().map(of_disk).collect();
    let is_first = previous.is_empty();
    let command = ControlCommand::Register {
        node: shared.me(),
        boot,
        previous,
        address: shared.address.clone(),
        zone: shared.zone.clone(),
    };
    let mut asked = BTreeSet::new();
    loop {
        // Nobody can have seen anything of a disk in its first life. If it is a copy of one that lived, the map knows that.
        if !is_first {
            ask_others(shared, boot, &mut asked).await?;
        }
        match shared.propose(command.clone()).await {
            Ok(_) => break,
            Err(ProposeError::Refused(error)) => return Err(error.to_string()),
            Err(_) if shared.tasks.is_stopping() => return Ok(()),
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = shared.tasks.stopping() => return Ok(()),
        }
    }
    tracing::info!(boot = shared.engine.boot(), "registered in the cluster map");
    Ok(())
}

/// What another node says of this one.
struct Word {
    node: NodeId,
    name: String,
    map_version: u64,
    boot: Boot,
    positions: BTreeMap<PartitionId, Position>,
}

/// Asks the nodes that have not answered yet what they have seen of this one, all at once.
async fn ask_others(
    shared: &Arc<Shared>,
    boot: Boot,
    asked: &mut BTreeSet<NodeId>,
) -> Result<(), String> {
    let map = shared.map();
    let others: Vec<(NodeId, String)> = map
        .nodes()
        .iter()
        .filter(|member| member.id != shared.me() && member.state != NodeState::Removed)
        .filter(|member| !asked.contains(&member.id))
        .map(|member| (member.id, member.name.clone()))
        .collect();
    let (sender, mut answers) = mpsc::channel(others.len().max(1));
    for (node, name) in others {
        let (asking, sender) = (Arc::clone(shared), sender.clone());
        shared.tasks.spawn("what others saw", async move {
            let word = tokio::select! {
                word = ask(&asking, node, name) => word,
                () = asking.tasks.stopping() => return,
            };
            // Whoever asked may have heard enough.
            let _ = sender.send((node, word)).await;
        });
    }
    drop(sender);
    let mut words = Vec::new();
    while let Some((node, word)) = answers.recv().await {
        match word {
            Ok(word) => words.push(word),
            Err(cause) => tracing::debug!(%node, cause, "not heard what it saw of this node"),
        }
    }
    let newest = newest_map(shared, map, &mut words).await;
    if words.is_empty() {
        return Ok(());
    }
    asked.extend(words.iter().map(|word| word.node));
    let shared = Arc::clone(shared);
    let judged = blocking(move || judge(&shared, &newest, boot, &words)).await;
    judged.unwrap_or(Ok(()))
}

/// The newest map among this node's own and those that were spoken of. Who does not give a newer one was not heard: its
/// word is dropped, and it will be asked again.
async fn newest_map(
    shared: &Arc<Shared>,
    mine: Arc<ClusterMap>,
    words: &mut Vec<Word>,
) -> Arc<ClusterMap> {
    words.sort_by_key(|word| word.map_version);
    while let Some(last) = words.last()
        && last.map_version > mine.version()
    {
        let deadline = Instant::now() + SEEN_TIMEOUT;
        let exact = exact_map();
        let answers = shared.peers.ask_aside(last.node, &exact, deadline).await;
        match answers
            .map_err(|error| error.to_string())
            .and_then(read_map)
        {
            Ok(map) => return Arc::new(map),
            Err(cause) => tracing::debug!(node = %last.node, cause, "not given its map"),
        }
        words.pop();
    }
    mine
}

async fn ask(shared: &Shared, node: NodeId, name: String) -> Result<Word, String> {
    let deadline = Instant::now() + SEEN_TIMEOUT;
    let of = Bytes::copy_from_slice(&shared.me().0);
    let seen = Request::new(request::Kind::SeenOf(SeenOf { node: of }));
    let seen = shared.peers.ask_aside(node, &seen, deadline);
    let seen = seen.await.map_err(|error| error.to_string())?;
    let Some((Answer::Seen(_), body)) = seen.into_iter().next() else {
        return Err("not an answer of this protocol".into());
    };
    let seen = SeenPositions::decode(body).map_err(|error| error.to_string())?;
    let boot = Boot {
        count: seen.boot,
        token: seen.token.as_ref().try_into().unwrap_or_default(),
    };
    let positions = seen.positions.into_iter().filter_map(|seen| {
        let at = Position {
            epoch: Epoch(seen.epoch),
            index: Index(seen.index),
        };
        Some((PartitionId(u16::try_from(seen.partition).ok()?), at))
    });
    Ok(Word {
        node,
        name,
        map_version: seen.map_version,
        boot,
        positions: positions.collect(),
    })
}

/// Compares the disk with what others say. Blocks.
fn judge(shared: &Shared, newest: &ClusterMap, boot: Boot, words: &[Word]) -> Result<(), String> {
    let name = &shared.engine.identity().name;
    if newest.is_removed(shared.me()) {
        return Err(super::peers::removed(name));
    }
    for word in words {
        if let Some(refusal) = old_copy(name, word.boot, boot.count, &boot.token) {
            return Err(refusal);
        }
        let beyond = seen::beyond_disk(&shared.engine, newest, &word.positions)
            .map_err(|error| error.to_string())?;
        if let Some((partition, here, seen)) = beyond {
            return Err(format!(
                "node {name} runs on an old copy of its data directory: partition {partition} ends at entry {} of epoch {} there, and {} has seen this node acknowledge entry {} of epoch {}: what is missing may be on no other disk, so it takes no part: bring the newest copy back, or {REJOIN}",
                here.index, here.epoch, word.name, seen.index, seen.epoch
            ));
        }
    }
    Ok(())
}

fn exact_map() -> Request {
    Request::new(request::Kind::Map(GetMap {
        known: 0,
        exact: true,
    }))
}

fn read_map(mut answers: Vec<(Answer, Bytes)>) -> Result<ClusterMap, String> {
    let (_, body) = answers.pop().ok_or("an empty answer")?;
    serde_json::from_slice(&body).map_err(|error| format!("not a cluster map: {error}"))
}

/// The map of the cluster to which `contact` belongs.
pub(super) async fn map_of(peers: &Peers, contact: &str) -> Result<ClusterMap, String> {
    let deadline = Instant::now() + CONTACT_TIMEOUT;
    let exact = exact_map();
    let asked = peers.ask_at(contact, &exact, Bytes::new(), deadline);
    let (_, answers) = asked.await.map_err(|error| error.to_string())?;
    read_map(answers)
}
