//! Copies of bindings from node to node.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::{BindingError, ReadError};
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::name::BindingKey;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::Role;
use mesh_ring::tombstone::Stamp;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::Instant;

use super::write::of_hint;
use super::{BINDING_BYTES, preference};
use crate::node::coordinator::forwarded;
use crate::node::peers::AskError;
use crate::node::requests::access::only_nodes;
use crate::node::requests::{Answers, Caller, plain};
use crate::node::tombstones::{origin, stamp_of};
use crate::node::{Shared, reply};
use crate::tasks::blocking;
use crate::wire::proto::{
    self, BindingIs, Error, ErrorCode, FetchBinding, StoreBinding, reply::Kind as Answer,
    request::Kind,
};

/// Has another node keep a copy, which was read or made after this stamp was taken; returns when that is durable there.
///
/// # Errors
/// Its own word, or that it was not reached. See [`Stale`](crate::node::tombstones::Stale).
pub(super) async fn send(
    shared: &Shared,
    to: NodeId,
    role: Role,
    key: &BindingKey,
    binding: Bytes,
    stamp: Stamp,
    deadline: Instant,
) -> Result<(), Error> {
    let stands_in_for = match role {
        Role::StandIn { home } => Some(Bytes::copy_from_slice(&home.0)),
        Role::Home | Role::Copy => None,
    };
    let kind = Kind::StoreBinding(StoreBinding {
        key: Bytes::copy_from_slice(key.as_bytes()),
        stands_in_for,
        stamp: Some(stamp.into()),
    });
    let request = forwarded(kind);
    let asked = shared.peers.ask(to, &request, binding, deadline);
    asked.await.map(|_| ()).map_err(of_ask)
}

/// Asks another node what it holds of a key, and of when that is. As a stand-in it answers from its hints, too.
///
/// # Errors
/// As for [`send`].
pub(super) async fn ask(
    shared: &Shared,
    to: NodeId,
    key: &BindingKey,
    as_home: bool,
    deadline: Instant,
) -> Result<(Binding, Stamp), Error> {
    let kind = Kind::FetchBinding(FetchBinding {
        key: Bytes::copy_from_slice(key.as_bytes()),
        stands_in: !as_home,
    });
    let request = forwarded(kind);
    let asked = shared.peers.ask(to, &request, Bytes::new(), deadline);
    let mut answers = asked.await.map_err(of_ask)?;
    match answers.pop() {
        // What a removed node has nobody asks about when tombstones are forgotten.
        Some(_) if shared.map().is_removed(to) => Err(reply::internal()),
        Some((Answer::BindingIs(is), body)) => {
            let binding = Binding::decode(&body).map_err(reply::malformed)?;
            Ok((binding, stamp_of(is.stamp)?))
        }
        _ => Err(reply::internal()),
    }
}

pub(super) fn of_ask(error: AskError) -> Error {
    match error {
        AskError::Refused(error) => error,
        error => reply::error(ErrorCode::Unavailable, error.to_string()),
    }
}

/// All that this node knows of a key. Where it cannot be read, it is asked of other replicas soon.
///
/// # Errors
/// It cannot be read.
pub(super) async fn known(shared: &Arc<Shared>, key: BindingKey) -> Result<Binding, Error> {
    let (engine, wanted) = (Arc::clone(&shared.engine), key.clone());
    let known = blocking(move || engine.known_binding(&wanted)).await;
    match known.ok_or_else(reply::internal)? {
        Ok(known) => Ok(known.unwrap_or_default()),
        Err(error) => {
            if matches!(error, ReadError::Damaged(_)) {
                shared.mend_soon(key.as_bytes());
            }
            Err(reply::of_read(&error))
        }
    }
}

/// Merges what this node keeps elsewhere into its own copy; returns when that is durable.
///
/// # Errors
/// It was refused, or the store has stopped.
pub(super) async fn merge_own(
    shared: &Arc<Shared>,
    key: BindingKey,
    binding: Binding,
) -> Result<(), Error> {
    let merged = of_merge(submit_merge(shared, key.clone(), binding).await);
    merged.map_err(|error| shared.mended(&key, error))
}

impl Shared {
    /// An error of a write or a hint, which is worth another try where it is that a copy cannot be read: that is healed from
    /// the others.
    pub(super) fn mended(self: &Arc<Self>, key: &BindingKey, error: Error) -> Error {
        if error.code() != ErrorCode::Corrupt {
            return error;
        }
        self.mend_soon(key.as_bytes());
        reply::error(
            ErrorCode::Unavailable,
            format!(
                "{}; it is asked of other replicas: try again",
                error.message
            ),
        )
    }
}

/// Merges another node's copy into this node's own; returns when that is durable.
///
/// # Errors
/// As for [`merge_own`], or it is stale.
pub(super) async fn merge(
    shared: &Arc<Shared>,
    from: NodeId,
    stamp: Stamp,
    key: BindingKey,
    binding: Binding,
) -> Result<(), Error> {
    let id = shared.engine.partition_of(key.as_bytes());
    let merged = shared.admit(id, from, stamp, || {
        submit_merge(shared, key.clone(), binding)
    })?;
    of_merge(merged.await).map_err(|error| shared.mended(&key, error))
}

type Merged = oneshot::Receiver<Result<(), BindingError>>;

fn submit_merge(shared: &Shared, key: BindingKey, binding: Binding) -> Merged {
    let (answer, merged) = oneshot::channel();
    shared.engine.submit_merge(key, binding, move |result| {
        // Nobody waits where the stream is gone; the copy stays.
        let _ = answer.send(result);
    });
    merged
}

fn of_merge(merged: Result<Result<(), BindingError>, RecvError>) -> Result<(), Error> {
    let merged = merged.map_err(|_| reply::internal())?;
    merged.map_err(|error| reply::of_binding(&error))
}

async fn hint(
    shared: &Shared,
    (from, stamp): (NodeId, Stamp),
    home: NodeId,
    key: BindingKey,
    binding: Binding,
) -> Result<(), Error> {
    let (answer, kept) = oneshot::channel();
    let done = move |result| {
        let _ = answer.send(result);
    };
    let id = shared.engine.partition_of(key.as_bytes());
    shared.admit(id, from, stamp, || {
        shared.engine.submit_hint(home, key, binding, done);
    })?;
    kept.await
        .map_err(|_| reply::internal())?
        .map_err(|error| of_hint(&error))
}

/// A copy of the binding as this node has it, for another node.
pub(in crate::node) async fn fetch(
    shared: &Arc<Shared>,
    caller: &Caller,
    fetch: FetchBinding,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let key = BindingKey::new(&fetch.key).map_err(reply::invalid)?;
    let preference = preference(shared, &key)?;
    if !fetch.stands_in && !keeps(&preference, shared.me()) {
        return Err(shared.not_replica(preference.partition));
    }
    let stamp = Some(shared.stamp(preference.partition).into());
    let binding = known(shared, key).await?;
    Ok(vec![(
        Answer::BindingIs(BindingIs { stamp }),
        binding.encode().into(),
    )])
}

/// Takes another node's copy of a binding: into this node's own, or as a hint for a home that is away.
pub(in crate::node) async fn store(
    shared: &Arc<Shared>,
    caller: &Caller,
    store: StoreBinding,
    body: Bytes,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let of = origin(shared, caller, store.stamp).await?;
    let key = BindingKey::new(&store.key).map_err(reply::invalid)?;
    let binding = Binding::decode(&body).map_err(reply::malformed)?;
    let _room = shared
        .room(body.len() + BINDING_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let home = store.stands_in_for.map(|id| node_id(&id)).transpose()?;
    match home.filter(|home| *home != shared.me()) {
        Some(home) => {
            let map = shared.map();
            if map.node(home).is_none() {
                return Err(reply::invalid("a hint for a node that is not in the map"));
            }
            hint(shared, of, home, key, binding).await?;
        }
        None => {
            let preference = preference(shared, &key)?;
            if !keeps(&preference, shared.me()) {
                return Err(shared.not_replica(preference.partition));
            }
            merge(shared, of.0, of.1, key, binding).await?;
        }
    }
    Ok(plain(Answer::Done(proto::Done {})))
}

/// Takes many copies of one partition's bindings in, which another node has kept for this one. All or an error: what was
/// taken stays.
pub(in crate::node) async fn keep_all(
    shared: &Arc<Shared>,
    caller: &Caller,
    copies: proto::StoreBindings,
    body: Bytes,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let (from, stamp) = origin(shared, caller, copies.stamp).await?;
    let partition = u16::try_from(copies.partition)
        .map(PartitionId)
        .map_err(reply::malformed)?;
    let map = shared.map();
    let preference =
        Preference::of(&map, partition).ok_or_else(|| reply::malformed("no such partition"))?;
    if !keeps(&preference, shared.me()) {
        return Err(shared.not_replica(partition));
    }
    let _room = shared
        .room(body.len() + copies.entries.len() * BINDING_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let mut rest = body;
    let mut bindings = Vec::with_capacity(copies.entries.len());
    for entry in &copies.entries {
        let length = entry.length as usize;
        if length > rest.len() {
            return Err(reply::malformed("lengths beyond the body"));
        }
        let binding = Binding::decode(&rest.split_to(length)).map_err(reply::malformed)?;
        let key = BindingKey::new(&entry.key).map_err(reply::invalid)?;
        if map.partition(key.as_bytes()) != partition {
            return Err(reply::malformed("a key of another partition"));
        }
        bindings.push((key, binding));
    }
    // One that cannot be read here is not to hold up all the others: what came takes its place.
    let submit = |(key, binding)| {
        let (answer, healed) = oneshot::channel();
        shared.engine.submit_heal(key, binding, move |result| {
            let _ = answer.send(result.map(|_| ()));
        });
        healed
    };
    let merges: Vec<Merged> = shared.admit(partition, from, stamp, || {
        bindings.into_iter().map(submit).collect()
    })?;
    for merged in merges {
        of_merge(merged.await)?;
    }
    Ok(plain(Answer::Done(proto::Done {})))
}

/// Whether the node has a copy of the partition, or is getting one.
fn keeps(preference: &Preference, node: NodeId) -> bool {
    preference.homes.contains(&node) || preference.copies.contains(&node)
}

fn node_id(bytes: &[u8]) -> Result<NodeId, Error> {
    let id = bytes.try_into();
    id.map(NodeId)
        .map_err(|_| reply::malformed("a node's id has 16 bytes"))
}
