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
use tokio::runtime::Handle;
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
    self, BindingIs, Error, ErrorCode, FetchBinding, Request, StoreBinding, reply::Kind as Answer,
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
    of: (&BindingKey, Stamp),
    binding: Bytes,
    deadline: Instant,
) -> Result<(), Error> {
    let asked = shared
        .peers
        .ask(to, &copy_of(role, of), binding, deadline)
        .await;
    asked.map(drop).map_err(of_ask)
}

/// As [`send`], without waiting: `done` is told what came of it.
pub(super) fn post(
    shared: &Arc<Shared>,
    to: NodeId,
    role: Role,
    of: (&BindingKey, Stamp),
    binding: Bytes,
    deadline: Instant,
    done: impl FnOnce(Result<(), Error>) + Send + 'static,
) {
    let heard = |result: Asked| done(result.map(drop).map_err(of_ask));
    ask_soon(shared, to, copy_of(role, of), binding, deadline, heard);
}

fn copy_of(role: Role, (key, stamp): (&BindingKey, Stamp)) -> Request {
    let stands_in_for = match role {
        Role::StandIn { home } => Some(Bytes::copy_from_slice(&home.0)),
        Role::Home | Role::Copy => None,
    };
    forwarded(Kind::StoreBinding(StoreBinding {
        key: Bytes::copy_from_slice(key.as_bytes()),
        stands_in_for,
        stamp: Some(stamp.into()),
    }))
}

type Asked = Result<Answers, AskError>;

/// Asks a node over the pipeline to it, or else as anything is asked, by a task. `heard` is told what came of it, which may
/// be later than `deadline`.
fn ask_soon(
    shared: &Arc<Shared>,
    to: NodeId,
    request: Request,
    body: Bytes,
    deadline: Instant,
    heard: impl FnOnce(Asked) + Send + 'static,
) {
    let posted = shared.peers.post(to, &request, &body, heard);
    let Err(heard) = posted else { return };
    let too = Arc::clone(shared);
    shared.tasks.spawn("binding copy", async move {
        heard(too.peers.ask(to, &request, body, deadline).await);
    });
}

/// Asks another node what it holds of a key, and of when that is; `done` is told. As a stand-in it answers from its hints, too.
pub(super) fn ask(
    shared: &Arc<Shared>,
    to: NodeId,
    key: &BindingKey,
    as_home: bool,
    deadline: Instant,
    done: impl FnOnce(Result<(Binding, Stamp), Error>) + Send + 'static,
) {
    let request = forwarded(Kind::FetchBinding(FetchBinding {
        key: Bytes::copy_from_slice(key.as_bytes()),
        stands_in: !as_home,
    }));
    let too = Arc::clone(shared);
    let heard = move |asked: Asked| done(asked.map_err(of_ask).and_then(|a| held(&too, to, a)));
    ask_soon(shared, to, request, Bytes::new(), deadline, heard);
}

/// What another node says that it holds.
fn held(shared: &Arc<Shared>, by: NodeId, mut answers: Answers) -> Result<(Binding, Stamp), Error> {
    match answers.pop() {
        // What a removed node has nobody asks about when tombstones are forgotten.
        Some(_) if shared.map().is_removed(by) => Err(reply::internal()),
        Some((Answer::BindingIs(is), body)) => {
            let binding = Binding::decode(&body).map_err(reply::malformed)?;
            let stamp = stamp_of(is.stamp)?;
            shared.reach_map_soon(by, stamp);
            Ok((binding, stamp))
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
    if let Some(known) = known_at_hand(shared, &key) {
        return known;
    }
    let (engine, wanted) = (Arc::clone(&shared.engine), key.clone());
    let known = blocking(move || engine.known_binding(&wanted)).await;
    of_known(shared, &key, known.ok_or_else(reply::internal)?)
}

/// The same, where that takes no look at the disk.
pub(super) fn known_at_hand(
    shared: &Arc<Shared>,
    key: &BindingKey,
) -> Option<Result<Binding, Error>> {
    let known = shared.engine.known_binding_at_hand(key)?;
    Some(of_known(shared, key, known))
}

fn of_known(
    shared: &Arc<Shared>,
    key: &BindingKey,
    known: Result<Option<Binding>, ReadError>,
) -> Result<Binding, Error> {
    match known {
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

/// A copy of the binding as this node has it, for another node.
pub(in crate::node) async fn fetch(
    shared: &Arc<Shared>,
    caller: &Caller,
    fetch: FetchBinding,
) -> Result<Answers, Error> {
    let (key, stamp) = fetched(shared, caller, &fetch)?;
    Ok(binding_is(stamp, &known(shared, key).await?))
}

/// The same, where that takes no look at the disk.
pub(in crate::node) fn fetch_at_hand(
    shared: &Arc<Shared>,
    caller: &Caller,
    fetch: &FetchBinding,
) -> Option<Result<Answers, Error>> {
    match fetched(shared, caller, fetch) {
        Err(error) => Some(Err(error)),
        Ok((key, stamp)) => {
            let known = known_at_hand(shared, &key)?;
            Some(known.map(|binding| binding_is(stamp, &binding)))
        }
    }
}

/// What is asked for, and the stamp of what is read after this.
fn fetched(
    shared: &Shared,
    caller: &Caller,
    fetch: &FetchBinding,
) -> Result<(BindingKey, Stamp), Error> {
    only_nodes(caller)?;
    let key = BindingKey::new(&fetch.key).map_err(reply::invalid)?;
    let preference = preference(shared, &key)?;
    if !fetch.stands_in && !keeps(&preference, shared.me()) {
        return Err(shared.not_replica(preference.partition));
    }
    Ok((key, shared.stamp(preference.partition)))
}

fn binding_is(stamp: Stamp, binding: &Binding) -> Answers {
    let stamp = Some(stamp.into());
    vec![(
        Answer::BindingIs(BindingIs { stamp }),
        binding.encode().into(),
    )]
}

/// Takes another node's copy of a binding: into this node's own, or as a hint for a home that is away. Returns when it is in
/// the store's queue; `done` is told when it is durable.
pub(in crate::node) async fn store(
    shared: &Arc<Shared>,
    caller: &Caller,
    store: StoreBinding,
    body: Bytes,
    done: impl FnOnce(Result<Answers, Error>) + Send + 'static,
) {
    let copy = async {
        only_nodes(caller)?;
        let of = origin(shared, caller, store.stamp).await?;
        arriving(shared, of, &store, &body)
    };
    let copy = match copy.await {
        Ok(copy) => copy,
        Err(error) => return done(Err(error)),
    };
    let Some(room) = shared.room(body.len() + BINDING_BYTES).await else {
        return done(Err(reply::stopping()));
    };
    let id = shared.engine.partition_of(copy.key.as_bytes());
    // Whoever is told last drops it.
    let mut done = Some(move |result: Result<(), Error>| {
        drop(room);
        done(result.map(|()| plain(Answer::Done(proto::Done {}))));
    });
    let submitted = shared.admit(id, copy.from, copy.stamp, || {
        if let Some(done) = done.take() {
            submit(shared, copy.home, copy.key, copy.binding, done);
        }
    });
    if let (Err(error), Some(done)) = (submitted, done) {
        done(Err(error));
    }
}

/// A copy that another node sends.
struct Arriving {
    from: NodeId,
    stamp: Stamp,
    /// It is to be kept as a hint for this one.
    home: Option<NodeId>,
    key: BindingKey,
    binding: Binding,
}

fn arriving(
    shared: &Shared,
    (from, stamp): (NodeId, Stamp),
    store: &StoreBinding,
    body: &Bytes,
) -> Result<Arriving, Error> {
    let home = store.stands_in_for.as_ref().map(|id| node_id(id));
    let copy = Arriving {
        from,
        stamp,
        home: home.transpose()?.filter(|home| *home != shared.me()),
        key: BindingKey::new(&store.key).map_err(reply::invalid)?,
        binding: Binding::decode(body).map_err(reply::malformed)?,
    };
    match copy.home {
        Some(home) if shared.map().node(home).is_none() => {
            return Err(reply::invalid("a hint for a node that is not in the map"));
        }
        Some(_) => {}
        None => {
            let preference = preference(shared, &copy.key)?;
            if !keeps(&preference, shared.me()) {
                return Err(shared.not_replica(preference.partition));
            }
        }
    }
    Ok(copy)
}

/// Hands a copy to the store; `done` is told on the writer's thread.
fn submit(
    shared: &Arc<Shared>,
    home: Option<NodeId>,
    key: BindingKey,
    binding: Binding,
    done: impl FnOnce(Result<(), Error>) + Send + 'static,
) {
    if let Some(home) = home {
        return shared.engine.submit_hint(home, key, binding, move |kept| {
            done(kept.map_err(|error| of_hint(&error)));
        });
    }
    let (too, runtime, of) = (Arc::clone(shared), Handle::current(), key.clone());
    shared.engine.submit_merge(key, binding, move |merged| {
        // A copy that cannot be read is healed by a task, which the writer's thread has no runtime for by itself.
        let _entered = runtime.enter();
        done(merged.map_err(|error| too.mended(&of, reply::of_binding(&error))));
    });
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
