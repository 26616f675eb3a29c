//! What users ask of bindings.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::BindingWrite;
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::BindingKey;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::node_of;
use mesh_ring::version::VersionVector;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::access::allow;
use super::{Answers, Caller, on_disk, page, plain};
use crate::identity::{Access, Scope};
use crate::node::bindings::{self, BINDING_BYTES, Place};
use crate::node::coordinator::forwarded;
use crate::node::peers::AskError;
use crate::node::{Shared, reply};
use crate::wire::FRAME_BODY_BYTES_MAX;
use crate::wire::proto::{
    self, Error, ErrorCode, Value, Values, Written, reply::Kind as Answer, request::Kind,
};

/// How long the node that coordinates a write has to answer another one.
const PASSED_ON_WAIT: Duration = Duration::from_secs(4);

/// Writes or deletes: here where this node coordinates the key, at the node that does otherwise. Goes on after it has told
/// `done`, until every copy has arrived or its time is up.
pub(super) async fn put(
    shared: &Arc<Shared>,
    caller: &Caller,
    put: proto::Put,
    body: Bytes,
    done: impl FnOnce(Result<Answers, Error>) + Send,
) {
    let (preference, need, write, room) = match prepare(shared, caller, put, body).await {
        Ok(Prepared::Here(preference, need, write, room)) => (preference, need, write, room),
        Ok(Prepared::Done(answers)) => return done(Ok(answers)),
        Err(error) => return done(Err(error)),
    };
    let answer = |made: Result<bindings::Made, Error>| {
        done(made.map(|made| {
            let dot = made.written.dot;
            plain(Answer::Written(Written {
                context: made.written.context.encode().into(),
                acknowledged: shared.names_of(&made.acknowledged),
                hinted: shared.names_of(&made.hinted),
                version: format!("{}.{}.{}", dot.node, dot.boot, dot.counter),
            }))
        }));
    };
    bindings::write(shared, preference, need, write, room, answer).await;
}

/// A write that was checked.
enum Prepared {
    /// To be made here, with so many acknowledgements.
    Here(Preference, usize, BindingWrite, OwnedSemaphorePermit),
    /// Another node has made it.
    Done(Answers),
}

async fn prepare(
    shared: &Arc<Shared>,
    caller: &Caller,
    put: proto::Put,
    body: Bytes,
) -> Result<Prepared, Error> {
    allow(&caller.peer, Access::Write, Scope::Key, &put.key)?;
    let key = BindingKey::new(&put.key).map_err(reply::invalid)?;
    let preference = bindings::preference(shared, &key)?;
    let need = bindings::need(put.write, &preference)?;
    let context = context_of(shared, put.context.as_deref())?;
    let expires_ms = match put.ttl_ms {
        Some(0) => {
            return Err(reply::invalid(
                "a lifetime of 0 ms: a value lives for 1 ms or more",
            ));
        }
        ttl => ttl.map(|ttl| shared.engine.now_ms().saturating_add(ttl)),
    };
    bindings::enough_live(shared, &preference, need)?;
    if let Place::At(nodes) = bindings::place(shared, &preference, caller.forwarded)? {
        let passed = pass_on(shared, preference.partition, &nodes, Kind::Put(put), body);
        return passed.await.map(Prepared::Done);
    }
    // The body shares its memory with the stream's; a value that waits for the disk should not keep that.
    let value = (!put.delete).then(|| Bytes::copy_from_slice(&body));
    let room = shared
        .room(body.len() + BINDING_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let write = BindingWrite {
        key,
        value,
        context,
        expires_ms,
    };
    Ok(Prepared::Here(preference, need, write, room))
}

/// Has the first of these nodes do it that can be asked.
async fn pass_on(
    shared: &Arc<Shared>,
    partition: PartitionId,
    nodes: &[NodeId],
    kind: Kind,
    body: Bytes,
) -> Result<Answers, Error> {
    let deadline = Instant::now() + PASSED_ON_WAIT;
    let mut error = shared.not_replica(partition);
    for node in nodes {
        let request = forwarded(kind.clone());
        let asked = shared.peers.ask(*node, &request, body.clone(), deadline);
        match asked.await {
            Ok(answers) => return Ok(answers),
            Err(AskError::Refused(refused)) if refused.code() != ErrorCode::NotReplica => {
                return Err(refused);
            }
            // Not done: the next may.
            Err(AskError::Refused(refused)) => error = refused,
            Err(unasked @ AskError::NotConnected(_)) => {
                error = reply::error(ErrorCode::Unavailable, unasked.to_string());
            }
            // It may have been done there.
            Err(lost) => {
                return Err(reply::error(ErrorCode::OutcomeUnknown, lost.to_string()));
            }
        }
    }
    Err(error)
}

/// Reads as many copies as were asked for, and answers with what they come to together. Goes on after it has told `done`,
/// until stale copies are known and on their way to be repaired.
pub(super) async fn get(
    shared: &Arc<Shared>,
    caller: &Caller,
    get: proto::Get,
    done: impl FnOnce(Result<Answers, Error>) + Send,
) {
    let wanted = || -> Result<_, Error> {
        allow(&caller.peer, Access::Read, Scope::Key, &get.key)?;
        let key = BindingKey::new(&get.key).map_err(reply::invalid)?;
        let preference = bindings::preference(shared, &key)?;
        let need = bindings::need(get.read, &preference)?;
        Ok((preference, need, key))
    };
    let (preference, need, key) = match wanted() {
        Ok(wanted) => wanted,
        Err(error) => return done(Err(error)),
    };
    let answer = |read: Result<Binding, Error>| {
        done(read.map(|binding| values(&binding, shared.engine.now_ms())));
    };
    bindings::read(shared, preference, need, key, answer).await;
}

pub(super) async fn list(
    shared: &Arc<Shared>,
    caller: &Caller,
    list: proto::List,
) -> Result<Answers, Error> {
    allow(&caller.peer, Access::Read, Scope::Key, &list.prefix)?;
    let limit = list.limit.min(LIST_PAGE_MAX);
    let mine = {
        let list = list.clone();
        on_disk(shared, move |shared| {
            shared
                .engine
                .list_bindings(&list.prefix, list.after.as_deref(), limit)
                .map_err(|error| reply::of_read(&error))
        })
        .await?
    };
    if caller.forwarded {
        return Ok(page(mine, limit));
    }
    let all = shared.gather(mine, Kind::List(list), limit).await?;
    Ok(page(all, limit))
}

/// A binding's live values, in as many frames as they need.
fn values(binding: &Binding, now: u64) -> Answers {
    let context = Bytes::from(binding.context().encode());
    let mut frames: Vec<(Values, Vec<u8>)> = vec![(
        Values {
            context,
            ..Values::default()
        },
        Vec::new(),
    )];
    for version in binding.live(now) {
        let Some(value) = version.live(now) else {
            continue;
        };
        let described = Value {
            length: u32::try_from(value.len()).unwrap_or(u32::MAX),
            time_ms: version.hlc.millis(),
            expires_ms: version.expires_ms,
        };
        match frames.last_mut() {
            Some((header, body))
                if body.is_empty() || body.len() + value.len() <= FRAME_BODY_BYTES_MAX =>
            {
                header.values.push(described);
                body.extend_from_slice(value);
            }
            _ => frames.push((
                Values {
                    values: vec![described],
                    ..Values::default()
                },
                value.to_vec(),
            )),
        }
    }
    let last = frames.len() - 1;
    frames
        .into_iter()
        .enumerate()
        .map(|(n, (header, body))| {
            (
                Answer::Values(Values {
                    more: n < last,
                    ..header
                }),
                body.into(),
            )
        })
        .collect()
}

/// A context that this cluster gave out: one that names nodes it does not have would hide their later writes.
fn context_of(shared: &Shared, token: Option<&[u8]>) -> Result<Option<VersionVector>, Error> {
    let Some(token) = token else { return Ok(None) };
    let context = VersionVector::decode(token).map_err(|error| {
        reply::invalid(format!(
            "not a causal context: {error}: pass the one that get or put printed"
        ))
    })?;
    let map = shared.map();
    let known = |minter: NodeId| {
        let ids = || map.nodes().iter().map(|member| member.id);
        node_of(minter, ids().chain(map.retired().iter().copied())).is_some()
    };
    if !context.dots().all(|dot| known(dot.node)) {
        return Err(reply::invalid(
            "the causal context is of another cluster: pass the one that get or put printed",
        ));
    }
    Ok(Some(context))
}
