//! What users ask of bindings.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::BindingWrite;
use mesh_ring::binding::Binding;
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::BindingKey;
use mesh_ring::version::VersionVector;

use super::access::{allow, only_nodes};
use super::homes::{Homes, local};
use super::{Answers, Caller, on_disk, page, plain};
use crate::identity::{Access, Scope};
use crate::node::{Shared, reply};
use crate::wire::FRAME_BODY_BYTES_MAX;
use crate::wire::proto::{
    self, Error, Value, Values, Written, reply::Kind as Answer, request::Kind,
};

/// Memory that a write holds in the engine's queue beside its value, in bytes, as the engine counts it, with a margin.
const WRITE_BYTES: usize = 2_048;

/// Writes or deletes: here where this node keeps the key, at the first live node that does otherwise.
pub(super) async fn put(
    shared: &Arc<Shared>,
    caller: &Caller,
    put: proto::Put,
    body: Bytes,
) -> Result<Answers, Error> {
    allow(&caller.peer, Access::Write, Scope::Key, &put.key)?;
    let key = BindingKey::new(&put.key).map_err(reply::invalid)?;
    let homes = Homes::of(shared, &key);
    let need = homes.need(put.write)?;
    let context = context_of(shared, put.context.as_deref())?;
    let expires_ms = match put.ttl_ms {
        Some(0) => {
            return Err(reply::invalid(
                "a lifetime of 0 ms: a value lives for 1 ms or more",
            ));
        }
        ttl => ttl.map(|ttl| shared.engine.now_ms().saturating_add(ttl)),
    };
    homes.enough_live(shared, need)?;
    if !homes.holds(shared.me()) {
        return shared
            .pass_to_home(caller, &homes, Kind::Put(put), body)
            .await;
    }
    // The body shares its memory with the stream's; a value that waits for the disk should not keep that.
    let value = (!put.delete).then(|| Bytes::copy_from_slice(&body));
    let room = shared
        .room(body.len() + WRITE_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let (answer, written) = tokio::sync::oneshot::channel();
    shared.engine.submit_write(
        BindingWrite {
            key: key.clone(),
            value,
            context,
            expires_ms,
        },
        move |result| {
            drop(room);
            // Nobody waits where the stream is gone; the write stays.
            let _ = answer.send(result);
        },
    );
    let written = written
        .await
        .map_err(|_| reply::internal())?
        .map_err(|error| reply::of_binding(&error))?;
    let acknowledged = homes.spread(shared, &key, need).await?;
    let dot = written.dot;
    let written = Written {
        context: written.context.encode().into(),
        acknowledged: shared.names_of(&acknowledged),
        hinted: Vec::new(),
        version: format!("{}.{}.{}", dot.node, dot.boot, dot.counter),
    };
    Ok(plain(Answer::Written(written)))
}

/// Reads as many copies as were asked for, and answers with what they come to together.
pub(super) async fn get(
    shared: &Arc<Shared>,
    caller: &Caller,
    get: proto::Get,
) -> Result<Answers, Error> {
    allow(&caller.peer, Access::Read, Scope::Key, &get.key)?;
    let key = BindingKey::new(&get.key).map_err(reply::invalid)?;
    let homes = Homes::of(shared, &key);
    let need = homes.need(get.read)?;
    let binding = homes.read(shared, &key, need).await?;
    Ok(values(&binding, shared.engine.now_ms()))
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

/// A copy of the binding as this node has it, for another node.
pub(super) async fn fetch(
    shared: &Arc<Shared>,
    caller: &Caller,
    fetch: proto::FetchBinding,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let key = BindingKey::new(&fetch.key).map_err(reply::invalid)?;
    on_disk(shared, move |shared| {
        let binding = local(shared, &key)?;
        Ok(vec![(
            Answer::BindingIs(proto::BindingIs {}),
            binding.encode().into(),
        )])
    })
    .await
}

/// Takes another node's copy of a binding into this node's.
pub(super) async fn store(
    shared: &Arc<Shared>,
    caller: &Caller,
    store: proto::StoreBinding,
    body: Bytes,
) -> Result<Answers, Error> {
    only_nodes(caller)?;
    let key = BindingKey::new(&store.key).map_err(reply::invalid)?;
    let binding = Binding::decode(&body).map_err(reply::malformed)?;
    if !Homes::of(shared, &key).holds(shared.me()) {
        return Err(shared.not_replica(shared.map().partition(key.as_bytes())));
    }
    let room = shared
        .room(body.len() + WRITE_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let (answer, merged) = tokio::sync::oneshot::channel();
    shared.engine.submit_merge(key, binding, move |result| {
        drop(room);
        let _ = answer.send(result);
    });
    merged
        .await
        .map_err(|_| reply::internal())?
        .map_err(|error| reply::of_binding(&error))?;
    Ok(plain(Answer::Done(proto::Done {})))
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
    if context.dots().any(|dot| map.node(dot.node).is_none()) {
        return Err(reply::invalid(
            "the causal context is of another cluster: pass the one that get or put printed",
        ));
    }
    Ok(Some(context))
}
