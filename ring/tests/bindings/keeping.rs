//! What a node keeps for others, and what it says of it.

use bytes::Bytes;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::merkle::walk::{self, Request, Response};
use mesh_ring::quorum::{Answer, Role};
use mesh_ring::tombstone::Stamp;

use crate::message::{Message, NotKept};
use crate::node::{Node, Waiting};
use crate::shared::Shared;
use crate::store::{HINTS_MAX, Hint};

impl Node {
    /// Keeps a write in one of its roles; not yet synced.
    pub(crate) fn keep(
        &mut self,
        partition: PartitionId,
        key: &Bytes,
        state: &Binding,
        stamp: Stamp,
        role: Role,
        shared: &mut Shared,
    ) -> Result<(), NotKept> {
        self.admit(partition, stamp, shared)
            .map_err(NotKept::Stamp)?;
        let preference = self.preference(partition);
        let at = shared.unique();
        let part = self.store.part(partition);
        match role {
            Role::Home | Role::Copy => {
                let is_home = preference.homes.contains(&self.id);
                let is_copy = role == Role::Copy && preference.copies.contains(&self.id);
                if !is_home && !is_copy {
                    return Err(NotKept::NotOwner);
                }
                part.merge(key, state);
            }
            Role::StandIn { home } => {
                if part.hints.len() >= HINTS_MAX {
                    shared.count("hints refused at the bound");
                    return Err(NotKept::Full);
                }
                let (key, state) = (key.clone(), state.clone());
                part.hints.insert(at, Hint { home, key, state });
                shared.count("hints");
            }
        }
        Ok(())
    }

    pub(crate) fn get(&self, partition: PartitionId, key: &Bytes) -> Option<Answer> {
        let preference = self.preference(partition);
        let is_asked =
            preference.homes.contains(&self.id) || preference.stand_ins.contains(&self.id);
        // What is not synced may be gone after a crash: a client must not see it.
        let part = self.disk.parts.get(&partition);
        is_asked.then(|| Answer {
            binding: part.map(|part| part.state(key)).unwrap_or_default(),
            stamp: self.stamp(partition),
        })
    }

    pub(crate) fn answer_walk(
        &mut self,
        from: NodeId,
        walk: u64,
        partition: PartitionId,
        stamp: Stamp,
        request: &Request,
        shared: &mut Shared,
    ) {
        let admitted = self.admit(partition, stamp, shared);
        // Its answers would be refused there, and it may never have a reason to ask.
        self.learn(partition, stamp.fence, shared);
        let is_home = self.preference(partition).homes.contains(&self.id);
        let own = self.stamp(partition);
        let part = self.store.part(partition);
        let response = match (admitted, request) {
            _ if !is_home => None,
            (Err(_), Request::States(_)) => None,
            _ => {
                let tree = part.tree();
                let Ok(response) = walk::answer(request, &tree, part);
                Some(response)
            }
        };
        if let (Request::States(states), Some(Response::Merged)) = (request, &response) {
            for state in states {
                let binding = Binding::decode(&state.binding).expect("it was encoded");
                part.merge(&state.key, &binding);
            }
        }
        let message = Message::Walked {
            walk,
            partition,
            stamp: own,
            response,
        };
        self.when_synced(Waiting::Reply { to: from, message }, shared);
    }
}
