//! The nodes that keep a binding, and what they come to together: W acknowledgements, R answers.
//!
//! A node that is away is not stood in for yet: with fewer live homes than a request needs it is refused, never half
//! done in silence.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Answers, Caller, on_disk};
use crate::node::coordinator::forwarded;
use crate::node::peers::AskError;
use crate::node::{Shared, reply};
use crate::wire::proto::{
    Error, ErrorCode, FetchBinding, StoreBinding, reply::Kind as Answer, request::Kind,
};

/// How long the other homes have to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The nodes that keep a key's partition, in preference order.
pub(super) struct Homes {
    partition: PartitionId,
    nodes: Vec<NodeId>,
}

/// The binding as this node has it; empty where it has none.
pub(super) fn local(shared: &Shared, key: &BindingKey) -> Result<Binding, Error> {
    let binding = shared.engine.binding(key);
    Ok(binding
        .map_err(|error| reply::of_read(&error))?
        .unwrap_or_default())
}

impl Homes {
    pub(super) fn of(shared: &Shared, key: &BindingKey) -> Homes {
        let map = shared.map();
        let route = map.route(key.as_bytes());
        Homes {
            partition: route.partition,
            nodes: route.assignment.replicas.clone(),
        }
    }

    pub(super) fn holds(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }

    /// How many copies a request needs: what it asks for, or a majority.
    pub(super) fn need(&self, wanted: Option<u32>) -> Result<usize, Error> {
        let have = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        match wanted {
            Some(0) => Err(reply::invalid("0 replicas: ask for 1 or more")),
            Some(need) if need > have => Err(reply::not_enough_replicas(need, have)),
            Some(need) => Ok(need as usize),
            None => Ok(self.nodes.len() / 2 + 1),
        }
    }

    /// Refuses before anything is written where too few homes live.
    pub(super) fn enough_live(&self, shared: &Shared, need: usize) -> Result<(), Error> {
        let live = self.live(shared).count();
        if live < need {
            return Err(too_few(need, live));
        }
        Ok(())
    }

    fn live<'a>(&'a self, shared: &'a Shared) -> impl Iterator<Item = NodeId> + 'a {
        let nodes = self.nodes.iter().copied();
        nodes.filter(|node| *node == shared.me() || shared.is_alive(*node))
    }

    /// Sends this node's copy to the other homes; returns once `need` homes, this one included, have it on their disks.
    pub(super) async fn spread(
        &self,
        shared: &Arc<Shared>,
        key: &BindingKey,
        need: usize,
    ) -> Result<Vec<NodeId>, Error> {
        let copy = {
            let key = key.clone();
            on_disk(shared, move |shared| local(shared, &key)).await?
        };
        let kind = Kind::StoreBinding(StoreBinding {
            key: Bytes::copy_from_slice(key.as_bytes()),
        });
        let mut answers = self.ask_others(shared, &kind, copy.encode().into());
        let mut acknowledged = vec![shared.me()];
        while acknowledged.len() < need {
            match answers.recv().await {
                Some((node, Ok(_))) => acknowledged.push(node),
                Some((node, Err(error))) => {
                    tracing::debug!(%node, message = error.message, "a home did not take a binding");
                }
                None => return Err(too_few(need, acknowledged.len())),
            }
        }
        Ok(acknowledged)
    }

    /// Merges the copies of `need` homes; this node's own counts if it is one.
    pub(super) async fn read(
        &self,
        shared: &Arc<Shared>,
        key: &BindingKey,
        need: usize,
    ) -> Result<Binding, Error> {
        let (mut merged, mut have) = (Binding::default(), 0);
        if self.holds(shared.me()) {
            let key = key.clone();
            merged = on_disk(shared, move |shared| local(shared, &key)).await?;
            have = 1;
        }
        if have >= need {
            return Ok(merged);
        }
        let kind = Kind::FetchBinding(FetchBinding {
            key: Bytes::copy_from_slice(key.as_bytes()),
        });
        let mut answers = self.ask_others(shared, &kind, Bytes::new());
        while have < need {
            let Some((_, answer)) = answers.recv().await else {
                return Err(too_few(need, have));
            };
            if let Ok(Some((Answer::BindingIs(_), body))) = answer.map(|mut parts| parts.pop()) {
                let copy = Binding::decode(&body).map_err(reply::malformed)?;
                merged = merged.merge(&copy);
                have += 1;
            }
        }
        Ok(merged)
    }

    /// Asks every other home that lives, at once; the channel ends after the last answer.
    fn ask_others(
        &self,
        shared: &Arc<Shared>,
        kind: &Kind,
        body: Bytes,
    ) -> mpsc::Receiver<(NodeId, Result<Answers, Error>)> {
        let (sender, answers) = mpsc::channel(self.nodes.len().max(1));
        let deadline = Instant::now() + ANSWER_WAIT;
        for node in self.live(shared).filter(|node| *node != shared.me()) {
            let (asking, sender) = (Arc::clone(shared), sender.clone());
            let (kind, body) = (kind.clone(), body.clone());
            shared.tasks.spawn("binding copy", async move {
                let answer = asking
                    .peers
                    .ask(node, &forwarded(kind), body, deadline)
                    .await;
                let answer =
                    answer.map_err(|error| reply::error(ErrorCode::Unavailable, error.to_string()));
                // Nobody listens once enough have answered.
                let _ = sender.send((node, answer)).await;
            });
        }
        answers
    }
}

impl Shared {
    /// Has a home of the key do it.
    pub(super) async fn pass_to_home(
        &self,
        caller: &Caller,
        homes: &Homes,
        kind: Kind,
        body: Bytes,
    ) -> Result<Answers, Error> {
        let home = homes.live(self).next();
        let Some(home) = home.filter(|_| !caller.forwarded) else {
            return Err(self.not_replica(homes.partition));
        };
        let deadline = Instant::now() + ANSWER_WAIT;
        let answer = self.peers.ask(home, &forwarded(kind), body, deadline).await;
        answer.map_err(|error| match error {
            AskError::Refused(error) => error,
            AskError::NotConnected(_) => reply::error(ErrorCode::Unavailable, error.to_string()),
            // It may have been done there.
            error => reply::error(ErrorCode::OutcomeUnknown, error.to_string()),
        })
    }
}

fn too_few(need: usize, have: usize) -> Error {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    reply::not_enough_replicas(count(need), count(have))
}
