//! Comparing all copies of bindings and topics, now.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::{NodeId, PartitionId};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout_at};

use super::error::Lost;
use super::links::Links;
use super::unary::{Outcome, attempt};
use super::{Client, ClientError, ClusterView, NodeState, PartitionView};
use crate::wire::proto::{self, Request, reply, request};

/// Longest time in which a node must be reached.
const CONNECT_MAX: Duration = Duration::from_millis(1_500);

/// Partitions that are compared at the same time.
const AT_ONCE: usize = 4;

/// What a node has compared and healed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeRepair {
    /// Its name.
    pub node: String,
    /// Partitions of which it has compared its copy with the others.
    pub partitions: u32,
    /// Leaves of their trees in which copies differed.
    pub differing_leaves: u64,
    /// Bindings, or versions of them, that others lacked.
    pub sent: u64,
    /// The same for this node.
    pub received: u64,
    /// What it took on the wire, both ways.
    pub bytes: u64,
    /// Bindings that could not be read, on either side, and were replaced by another copy.
    pub damaged: u64,
    /// Blocks of topics that it compared with another copy; one that is compared with two counts twice.
    pub blocks: u64,
    /// Of those, how many have other records there although both are valid: what must never be. Nothing was written over.
    pub blocks_differing: u64,
    /// Blocks of which it could not read something.
    pub blocks_damaged: u64,
    /// Blocks of which it has everything again, from another copy.
    pub blocks_healed: u64,
    /// Blocks of which it knows in the end that it cannot read something.
    pub blocks_unreadable: u64,
}

/// How far comparing and healing has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RepairProgress {
    /// Partitions of which all copies are compared, and how many there are to compare.
    pub partitions: (usize, usize),
    /// Blocks of topics that were compared so far.
    pub blocks: u64,
    /// Blocks that were healed so far.
    pub blocks_healed: u64,
}

/// What all nodes have compared and healed, as far as they answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RepairReport {
    /// Nodes with copies that have answered, in the order of the map.
    pub nodes: Vec<NodeRepair>,
    /// Nodes that should have answered and did not, by name, and why.
    pub silent: Vec<(String, ClientError)>,
    /// Nodes of which a copy was not compared with another one, or not healed, although they may answer, by name, and why.
    pub missed: Vec<(String, String)>,
}

impl Client {
    /// Has every node compare its copies of bindings with all others', and bring both to the same: of one partition, or of all;
    /// and compare its topics block by block, and heal what it cannot read. Reads everything once at each node. Needs a grant for the cluster. What is written meanwhile may differ for a moment longer.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where no node answers; [`ClientError::Refused`] without the grant;
    /// [`ClientError::Invalid`] where there is no such partition. A node that does not answer while others do is named in the
    /// result.
    pub async fn repair(
        &self,
        partition: Option<PartitionId>,
    ) -> Result<RepairReport, ClientError> {
        self.repair_telling(partition, |_| {}).await
    }

    /// The same, and tells how far it has come whenever a node has answered: however much there is to heal, about every
    /// second or two of each of them.
    ///
    /// # Errors
    /// As for [`Client::repair`].
    pub async fn repair_telling(
        &self,
        partition: Option<PartitionId>,
        mut tell: impl FnMut(RepairProgress),
    ) -> Result<RepairReport, ClientError> {
        let view = self.cluster().await?;
        let mut wanted = view.partitions.clone();
        if let Some(id) = partition {
            wanted.retain(|partition| partition.id == id);
            if wanted.is_empty() {
                let count = view.partitions.len();
                return Err(ClientError::Invalid(format!(
                    "there is no partition {id}: the last of {count} is {}",
                    count.saturating_sub(1)
                )));
            }
        }
        let mut round = Round::new(&view);
        let (answer_to, mut answers) = mpsc::channel(AT_ONCE);
        let count = wanted.len();
        let mut waiting = wanted.into_iter();
        let (mut asking, mut done) = (0, 0);
        loop {
            while asking < AT_ONCE
                && let Some(partition) = waiting.next()
            {
                let asked = round.whom(&partition);
                let (links, answer_to) = (self.0.links.clone(), answer_to.clone());
                self.0.tasks.spawn("repair", async move {
                    ask_each(&links, partition.id, asked, answer_to).await;
                });
                asking += 1;
            }
            if asking == 0 {
                return round.report();
            }
            match answers.recv().await {
                Some(Told::Answer(node, answer)) => round.note(node, answer)?,
                Some(Told::Compared) | None => {
                    asking -= 1;
                    done += 1;
                }
            }
            tell(round.progress((done, count)));
        }
    }
}

/// What comes of a partition.
enum Told {
    /// What a node says; it answers again where there was more to compare than one answer takes.
    Answer(NodeId, Result<proto::Repaired, Missed>),
    /// All have answered.
    Compared,
}

/// Why a node has not compared a partition.
enum Missed {
    /// It does not answer.
    Silent(ClientError),
    /// It cannot just now, and says why.
    Refused(String),
    /// Nor would any other.
    Never(ClientError),
}

/// Where a node is; none: at the contacts of the configuration.
type Place = (NodeId, Option<Arc<str>>);

/// What is known so far.
struct Round<'a> {
    view: &'a ClusterView,
    done: BTreeMap<NodeId, NodeRepair>,
    silent: BTreeMap<NodeId, ClientError>,
    missed: BTreeMap<NodeId, String>,
}

impl<'a> Round<'a> {
    fn new(view: &'a ClusterView) -> Self {
        Self {
            view,
            done: BTreeMap::new(),
            silent: BTreeMap::new(),
            missed: BTreeMap::new(),
        }
    }

    /// The nodes to ask about a partition: one after the other, so that no two of them send each other the same. One that did
    /// not answer is not asked again.
    fn whom(&self, partition: &PartitionView) -> Vec<Place> {
        let nodes = self.view.nodes.iter();
        let alone = nodes
            .filter(|node| node.state != NodeState::Removed)
            .count()
            <= 1;
        let copies = partition.replicas.iter().chain(&partition.learners);
        let known = copies.filter_map(|id| self.view.node(*id));
        known
            .filter(|node| !self.silent.contains_key(&node.id))
            // A node by itself may not be where it thinks it is.
            .map(|node| (node.id, (!alone).then(|| node.address.as_str().into())))
            .collect()
    }

    fn note(
        &mut self,
        node: NodeId,
        answer: Result<proto::Repaired, Missed>,
    ) -> Result<(), ClientError> {
        match answer {
            Ok(repaired) => self.add(node, repaired)?,
            Err(Missed::Silent(error)) => {
                self.silent.entry(node).or_insert(error);
            }
            Err(Missed::Refused(cause)) => {
                self.missed.entry(node).or_insert(cause);
            }
            Err(Missed::Never(error)) => return Err(error),
        }
        Ok(())
    }

    fn progress(&self, partitions: (usize, usize)) -> RepairProgress {
        let nodes = self.done.values();
        RepairProgress {
            partitions,
            blocks: nodes.clone().map(|node| node.blocks).sum(),
            blocks_healed: nodes.map(|node| node.blocks_healed).sum(),
        }
    }

    fn add(&mut self, node: NodeId, repaired: proto::Repaired) -> Result<(), ClientError> {
        let done = self.done.entry(node).or_default();
        done.partitions += u32::from(repaired.next.is_none());
        done.differing_leaves += u64::from(repaired.differing_leaves);
        done.sent += repaired.sent;
        done.received += repaired.received;
        done.bytes += repaired.bytes;
        done.damaged += repaired.damaged;
        done.blocks += repaired.blocks;
        done.blocks_differing += repaired.blocks_differing;
        done.blocks_damaged += repaired.blocks_damaged;
        done.blocks_healed += repaired.blocks_healed;
        // As it is in the end.
        if repaired.next.is_none() {
            done.blocks_unreadable += repaired.blocks_unreadable;
        }
        for missed in repaired.missed {
            let other = missed.node.as_ref().try_into().map(NodeId);
            let other = other.map_err(|_| ClientError::protocol("an ill-formed id"))?;
            self.missed.entry(other).or_insert(missed.cause);
        }
        Ok(())
    }

    fn report(mut self) -> Result<RepairReport, ClientError> {
        if self.done.is_empty() {
            let first = self.silent.into_values().next();
            return match first {
                Some(error) => Err(error),
                None => Ok(RepairReport::default()),
            };
        }
        let mut report = RepairReport::default();
        for node in &self.view.nodes {
            if let Some(done) = self.done.remove(&node.id) {
                let node = node.name.clone();
                report.nodes.push(NodeRepair { node, ..done });
            }
            if let Some(error) = self.silent.remove(&node.id) {
                report.silent.push((node.name.clone(), error));
            } else if let Some(cause) = self.missed.remove(&node.id) {
                report.missed.push((node.name.clone(), cause));
            }
        }
        Ok(report)
    }
}

async fn ask_each(
    links: &Links,
    id: PartitionId,
    nodes: Vec<Place>,
    answer_to: mpsc::Sender<Told>,
) {
    for (node, at) in nodes {
        let mut after = None;
        loop {
            let answer = ask(links, id, at.clone(), after).await;
            after = answer.as_ref().ok().and_then(|done| done.next.clone());
            if answer_to.send(Told::Answer(node, answer)).await.is_err() {
                // The caller has stopped waiting.
                return;
            }
            if after.is_none() {
                break;
            }
        }
    }
    // Nobody may be waiting any more.
    let _ = answer_to.send(Told::Compared).await;
}

/// Asks the node at an address, or the only one.
async fn ask(
    links: &Links,
    id: PartitionId,
    at: Option<Arc<str>>,
    after: Option<proto::BlockPlace>,
) -> Result<proto::Repaired, Missed> {
    let lost = |lost: Lost| Missed::Silent(lost.into_error("repair"));
    let late = || lost(Lost::Connection("it does not answer".into()));
    let link = match at {
        Some(address) => links.link(&address),
        None => links.all(None).into_iter().next().ok_or_else(late)?,
    };
    let now = Instant::now();
    let deadline = now + links.timeout;
    let line = link.line(deadline.min(now + CONNECT_MAX)).await;
    let line = line.map_err(lost)?;
    let _asking = line.ask();
    let repair = proto::Repair {
        partition: id.0.into(),
        after,
    };
    let request = Request::new(request::Kind::Repair(repair));
    let asking = attempt(line.connection(), &request, Bytes::new());
    let outcome = tokio::select! {
        outcome = timeout_at(deadline, asking) => outcome.map_err(|_| late())?,
        () = line.silent() => return Err(late()),
    };
    match outcome {
        Outcome::Answered(answer) => match answer.one().map_err(Missed::Never)? {
            (reply::Kind::Repaired(repaired), _) => Ok(repaired),
            _ => Err(Missed::Never(ClientError::protocol(
                "another kind of answer",
            ))),
        },
        Outcome::Refused(error) => Err(match error.into() {
            ClientError::Unavailable(cause) => Missed::Refused(cause),
            error => Missed::Never(error),
        }),
        Outcome::Lost(cause) => Err(lost(cause)),
    }
}
