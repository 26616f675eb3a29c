//! Any node takes any request: what this node does not lead it passes on to the node that does, once.
//!
//! Appends and tails are streams and are not passed on: the client goes to the leader, or to another replica, itself.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::TopicError;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::Assignment;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::partition::{Ask, Change, Changed, Partition, Refusal};
use super::peers::AskError;
use super::requests::Answers;
use super::{Shared, reply};
use crate::wire::proto::{self, Error, ErrorCode, Names, Request, reply::Kind as Answer, request};

/// How long a request waits for its partition to have a leader before the caller is told that there is none.
const LEADER_WAIT: Duration = Duration::from_secs(2);

/// How soon a request looks again where nothing told it to.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Where a request is to be carried out.
pub(super) enum Place {
    /// This node leads the partition.
    Here(Partition),
    /// Another node did it.
    Done(Answers),
}

/// Who leads a partition, as far as this node knows.
enum Leader {
    Here(Partition),
    There(NodeId),
    Nobody,
}

impl Shared {
    fn leader_now(&self, id: PartitionId) -> Leader {
        let map = self.map();
        let Some(assignment) = map.assignment(id) else {
            return Leader::Nobody;
        };
        if assignment.leader != self.me() {
            return Leader::There(assignment.leader);
        }
        match self.partitions.get(id) {
            Some(partition) if partition.leads() => Leader::Here(partition),
            _ => Leader::Nobody,
        }
    }

    /// What a client is told when this node does not lead.
    pub(super) fn not_leader(&self, id: PartitionId) -> Error {
        let map = self.map();
        let leader = map.assignment(id).map(|assignment| assignment.leader);
        if leader.is_some_and(|leader| !self.is_alive(leader))
            && let Some(shortage) = self.shortage(id)
        {
            return shortage;
        }
        let address = leader
            .filter(|leader| *leader != self.me())
            .and_then(|leader| map.node(leader))
            .map(|member| member.address.clone());
        Error {
            leader: address,
            ..reply::error(
                ErrorCode::NotLeader,
                format!("partition {id} is led by another node, or by none at the moment"),
            )
        }
    }

    /// This node has no copy that it may serve.
    pub(super) fn not_replica(&self, id: PartitionId) -> Error {
        Error {
            leader: self.not_leader(id).leader,
            ..reply::error(
                ErrorCode::NotReplica,
                format!("this node keeps no copy of partition {id}: ask one that does"),
            )
        }
    }

    /// This node's copy does not have yet what was asked for.
    pub(super) fn behind(&self, id: PartitionId) -> Error {
        reply::error(
            ErrorCode::Unavailable,
            format!("this node's copy of partition {id} is behind its leader's: try again"),
        )
    }

    /// Why there is no leader: too few replicas live, or it is a matter of a moment.
    pub(super) fn leaderless(&self, id: PartitionId) -> Error {
        self.shortage(id).unwrap_or_else(|| {
            reply::error(
                ErrorCode::Unavailable,
                format!("partition {id} has no leader at the moment: try again"),
            )
        })
    }

    /// How many replicas a majority of the partition needs, and how many of them are alive.
    pub(super) fn live_majority(&self, assignment: &Assignment) -> (u32, u32) {
        let replicas = &assignment.replicas;
        let alive = replicas.iter().filter(|node| self.is_alive(**node)).count();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        (count(replicas.len() / 2 + 1), count(alive))
    }

    /// Finds where a request on partition `id` is carried out, and has it carried out where that is elsewhere.
    ///
    /// `again`: whether doing it twice is as good as once.
    pub(super) async fn place(
        self: &Arc<Self>,
        id: PartitionId,
        kind: &request::Kind,
        body: &Bytes,
        forwarded: bool,
        again: bool,
    ) -> Result<Place, Error> {
        let deadline = Instant::now() + LEADER_WAIT;
        let mut map = self.control.map();
        loop {
            map.mark_unchanged();
            match self.leader_now(id) {
                Leader::Here(partition) => return Ok(Place::Here(partition)),
                Leader::There(_) if forwarded => return Err(self.not_leader(id)),
                Leader::There(node) => match self.pass_on(node, kind, body, deadline).await {
                    Passed::Answered(answers) => return Ok(Place::Done(answers)),
                    Passed::Refused(error) => return Err(error),
                    Passed::NotTaken => {}
                    Passed::Unknown if again => {}
                    Passed::Unknown => return Err(maybe_done()),
                },
                Leader::Nobody => {}
            }
            // Nobody will lead where too few live.
            if Instant::now() >= deadline || self.shortage(id).is_some() {
                return Err(self.leaderless(id));
            }
            tokio::select! {
                _ = map.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.tasks.stopping() => return Err(reply::stopping()),
            }
        }
    }

    async fn pass_on(
        &self,
        node: NodeId,
        kind: &request::Kind,
        body: &Bytes,
        deadline: Instant,
    ) -> Passed {
        if !self.is_alive(node) {
            return Passed::NotTaken;
        }
        match self
            .peers
            .ask(node, &forwarded(kind.clone()), body.clone(), deadline)
            .await
        {
            Ok(answers) => Passed::Answered(answers),
            Err(error) => Passed::of(error),
        }
    }

    /// What the leader says of the topic; `None` where no leader answers.
    pub(super) async fn ask_leader(
        &self,
        id: PartitionId,
        topic: &str,
    ) -> Result<Option<proto::Topic>, Error> {
        let map = self.map();
        let leader = map.assignment(id).map(|assignment| assignment.leader);
        let Some(leader) = leader.filter(|leader| self.is_alive(*leader)) else {
            return Ok(None);
        };
        let describe = request::Kind::DescribeTopic(proto::DescribeTopic {
            name: topic.to_owned(),
        });
        let deadline = Instant::now() + LEADER_WAIT;
        let asked = self
            .peers
            .ask(leader, &forwarded(describe), Bytes::new(), deadline)
            .await;
        match asked.map(|mut answers| answers.pop()) {
            Ok(Some((Answer::Topic(topic), _))) => Ok(Some(topic)),
            Ok(_) => Err(reply::internal()),
            Err(AskError::Refused(error)) if error.code() == ErrorCode::TopicNotFound => Err(error),
            Err(error) => {
                tracing::debug!(partition = %id, %error, "the leader does not say where a topic ends");
                Ok(None)
            }
        }
    }

    /// Has `change` decided and committed by the partition that this node leads.
    pub(super) async fn change(
        &self,
        partition: &Partition,
        change: Change,
    ) -> Result<Changed, Refusal<TopicError>> {
        if self.shortage(partition.id).is_some() {
            return Err(Refusal::TooFew);
        }
        let (done, answer) = oneshot::channel();
        partition
            .send(Ask::Change { change, done })
            .await
            .map_err(|_| Refusal::NotLeading)?;
        let wait = tokio::time::timeout(COMMIT_WAIT, answer);
        match wait.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Refusal::Unknown),
        }
    }

    /// A change's refusal in the words of the wire.
    pub(super) fn of_change(&self, id: PartitionId, refusal: Refusal<TopicError>) -> Error {
        match refusal {
            Refusal::Decided(error) => reply::of_topic(&error),
            Refusal::NotLeading => self.not_leader(id),
            Refusal::TooFew => self.leaderless(id),
            Refusal::Unknown => maybe_done(),
            Refusal::Failed(cause) => reply::partition_failed(id, &cause),
        }
    }

    /// An append that was taken up and is not committed; its retry does no harm.
    pub(super) fn uncommitted(&self, id: PartitionId) -> Error {
        self.shortage(id).unwrap_or_else(maybe_done)
    }
}

impl Shared {
    /// A listing of the whole cluster: this node's page and those of the nodes that have what it lacks, merged.
    pub(super) async fn gather(
        &self,
        mut all: Vec<Bytes>,
        kind: request::Kind,
        limit: u32,
    ) -> Result<Vec<Bytes>, Error> {
        let deadline = Instant::now() + LEADER_WAIT;
        for node in self.others_with_the_rest() {
            let answers = self
                .peers
                .ask(node, &forwarded(kind.clone()), Bytes::new(), deadline)
                .await;
            match answers {
                Ok(answers) => all.extend(names_of(answers)),
                Err(AskError::Refused(error)) => return Err(error),
                Err(error) => {
                    return Err(reply::error(ErrorCode::Unavailable, error.to_string()));
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        all.truncate(limit as usize);
        Ok(all)
    }

    /// Live nodes that together keep every partition that this node does not.
    fn others_with_the_rest(&self) -> Vec<NodeId> {
        let map = self.map();
        let mut chosen = Vec::new();
        for (id, assignment) in map.assignments() {
            let has = |node: &NodeId| chosen.contains(node);
            if self.partitions.get(id).is_some() || assignment.replicas.iter().any(has) {
                continue;
            }
            let others = assignment
                .replicas
                .iter()
                .filter(|node| **node != self.me());
            chosen.extend(others.copied().find(|node| self.is_alive(*node)));
        }
        chosen
    }
}

fn names_of(answers: Answers) -> Vec<Bytes> {
    let mut all = Vec::new();
    for (answer, mut body) in answers {
        let Answer::Names(Names { lengths, .. }) = answer else {
            continue;
        };
        for length in lengths {
            all.push(body.split_to((length as usize).min(body.len())));
        }
    }
    all
}

/// How long a change may take to be committed before its caller is told that the outcome is open.
const COMMIT_WAIT: Duration = Duration::from_secs(5);

/// What became of a request that was passed on.
enum Passed {
    Answered(Answers),
    Refused(Error),
    /// Surely not done; another attempt may find the leader.
    NotTaken,
    Unknown,
}

impl Passed {
    fn of(error: AskError) -> Passed {
        match error {
            AskError::NotConnected(_) => Passed::NotTaken,
            AskError::Late | AskError::Lost(_) | AskError::Protocol(_) => Passed::Unknown,
            AskError::Refused(error) => match error.code() {
                ErrorCode::NotLeader | ErrorCode::NotReplica | ErrorCode::Stopping => {
                    Passed::NotTaken
                }
                _ => Passed::Refused(error),
            },
        }
    }
}

/// A request that this node passes on for a client whose grants it has checked.
pub(super) fn forwarded(kind: request::Kind) -> Request {
    Request {
        forwarded: true,
        ..Request::new(kind)
    }
}

fn maybe_done() -> Error {
    reply::error(
        ErrorCode::OutcomeUnknown,
        "the leader changed while this was under way: it may have been done; look, or try again",
    )
}
