//! Requests of one question and one answer.

use std::sync::Arc;

use bytes::Bytes;
use mesh_engine::{BindingWrite, TopicConfig, TopicMeta};
use mesh_ring::binding::Binding;
use mesh_ring::ids::PartitionId;
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::{BindingKey, CursorName, TopicName};
use mesh_ring::version::VersionVector;

use super::connection::Stream;
use super::{Shared, reply};
use crate::identity::{Access, Peer, Role, Scope};
use crate::tasks::blocking;
use crate::wire::FRAME_BODY_BYTES_MAX;
use crate::wire::proto::{
    self, Done, Error, ErrorCode, Info, Names, NodeIs, Reply, Storage, Trimmed, Value, Values,
    Written, reply::Kind as Answer, request::Kind,
};

/// What goes back: messages, each with a body.
type Answers = Vec<(Answer, Bytes)>;

/// Memory that a write holds in the engine's queue beside its value, in bytes, as the engine counts it, with a margin.
const WRITE_BYTES: usize = 2_048;

pub(super) async fn serve(shared: &Arc<Shared>, mut stream: Stream, kind: Kind, length: usize) {
    let peer = Arc::clone(&stream.peer);
    let Some(_admitted) = Stream::admit(&stream.intake, length).await else {
        return;
    };
    let body = match stream.reader.body(length).await {
        Ok(body) => body,
        Err(error) if error.is_malformed() => return stream.refuse(reply::malformed(error)).await,
        Err(_) => return,
    };
    let answers = match answer(shared, &peer, kind, body).await {
        Ok(answers) => answers,
        Err(error) => return stream.refuse(error).await,
    };
    for (kind, body) in answers {
        if stream
            .writer
            .frame(&Reply { kind: Some(kind) }, [body])
            .await
            .is_err()
        {
            return;
        }
    }
    stream.writer.finish();
    // The node may be stopping: the answer must be on its way before the connection closes.
    stream.writer.delivered().await;
}

async fn answer(
    shared: &Arc<Shared>,
    peer: &Peer,
    kind: Kind,
    body: Bytes,
) -> Result<Answers, Error> {
    match kind {
        Kind::Put(put) => write(shared, peer, put, body).await,
        Kind::Get(get) => read(shared, peer, get).await,
        Kind::List(list) => {
            allow(peer, Access::Read, Scope::Key, &list.prefix)?;
            let prefix = list.prefix;
            on_disk(shared, move |shared| {
                let limit = list.limit.min(LIST_PAGE_MAX);
                let keys = shared
                    .engine
                    .list_bindings(&prefix, list.after.as_deref(), limit);
                Ok(page(keys.map_err(|error| reply::of_read(&error))?, limit))
            })
            .await
        }
        Kind::CreateTopic(create) => {
            let name = topic_name(peer, Access::Write, &create.name)?;
            let config = config_of(create.settings.unwrap_or_default());
            on_disk(shared, move |shared| {
                create_topic(shared, &name, config, create.if_not_exists)
            })
            .await
        }
        Kind::DescribeTopic(describe) => {
            let name = topic_name(peer, Access::Read, &describe.name)?;
            on_disk(shared, move |shared| {
                describe_topic(shared, &lookup(shared, &name)?)
            })
            .await
        }
        Kind::DeleteTopic(delete) => {
            let name = topic_name(peer, Access::Write, &delete.name)?;
            on_disk(shared, move |shared| {
                let topic = lookup(shared, &name)?;
                shared
                    .engine
                    .delete_topic(topic.key)
                    .map_err(|error| reply::of_topic(&error))?;
                shared.names.forget(name.as_str());
                Ok(vec![(Answer::Done(Done {}), Bytes::new())])
            })
            .await
        }
        Kind::ListTopics(list) => {
            allow(peer, Access::Read, Scope::Topic, list.prefix.as_bytes())?;
            on_disk(shared, move |shared| {
                let limit = list.limit.min(LIST_PAGE_MAX);
                let names = shared
                    .engine
                    .list_topics(&list.prefix, list.after.as_deref(), limit);
                let names = names.map_err(|error| reply::of_read(&error))?;
                Ok(page(names.into_iter().map(Bytes::from).collect(), limit))
            })
            .await
        }
        Kind::TrimTopic(trim) => {
            let name = topic_name(peer, Access::Write, &trim.name)?;
            on_disk(shared, move |shared| {
                let topic = lookup(shared, &name)?;
                let first = shared
                    .engine
                    .trim(topic.key, trim.before)
                    .map_err(|error| reply::of_topic(&error))?;
                Ok(vec![(Answer::Trimmed(Trimmed { first }), Bytes::new())])
            })
            .await
        }
        Kind::CommitCursor(commit) => {
            let name = topic_name(peer, Access::Read, &commit.topic)?;
            let cursor = CursorName::new(&commit.name).map_err(reply::invalid)?;
            on_disk(shared, move |shared| {
                let topic = lookup(shared, &name)?;
                let committed = shared.engine.commit_cursor(topic.key, &cursor, commit.next);
                committed.map_err(|error| reply::of_topic(&error))?;
                Ok(vec![(Answer::Done(Done {}), Bytes::new())])
            })
            .await
        }
        Kind::Info(_) => Ok(vec![(Answer::Info(info(shared)), Bytes::new())]),
        Kind::Storage(_) => {
            on_disk(shared, |shared| {
                Ok(vec![(Answer::Storage(storage(shared)), Bytes::new())])
            })
            .await
        }
        Kind::NodeHello(_) => node_hello(shared, peer),
        Kind::Append(_) | Kind::Tail(_) => Err(reply::internal()),
    }
}

async fn on_disk(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<Answers, Error> + Send + 'static,
) -> Result<Answers, Error> {
    let shared = Arc::clone(shared);
    blocking(move || work(&shared))
        .await
        .unwrap_or_else(|| Err(reply::internal()))
}

async fn write(
    shared: &Arc<Shared>,
    peer: &Peer,
    put: proto::Put,
    body: Bytes,
) -> Result<Answers, Error> {
    allow(peer, Access::Write, Scope::Key, &put.key)?;
    let key = BindingKey::new(&put.key).map_err(reply::invalid)?;
    let partition = shared.map.partition(key.as_bytes());
    enough(shared, partition, put.write)?;
    let context = context_of(shared, put.context.as_deref())?;
    let expires_ms = match put.ttl_ms {
        Some(0) => {
            return Err(reply::invalid(
                "a lifetime of 0 ms: a value lives for 1 ms or more",
            ));
        }
        ttl => ttl.map(|ttl| shared.engine.now_ms().saturating_add(ttl)),
    };
    // The body shares its memory with the stream's; a value that waits for the disk should not keep that.
    let value = (!put.delete).then(|| Bytes::copy_from_slice(&body));
    let room = shared
        .room(body.len() + WRITE_BYTES)
        .await
        .ok_or_else(reply::stopping)?;
    let (answer, written) = tokio::sync::oneshot::channel();
    shared.engine.submit_write(
        BindingWrite {
            key,
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
    let dot = written.dot;
    let written = Written {
        context: written.context.encode().into(),
        acknowledged: shared.replicas(partition),
        hinted: Vec::new(),
        version: format!("{}.{}.{}", dot.node, dot.boot, dot.counter),
    };
    Ok(vec![(Answer::Written(written), Bytes::new())])
}

async fn read(shared: &Arc<Shared>, peer: &Peer, get: proto::Get) -> Result<Answers, Error> {
    allow(peer, Access::Read, Scope::Key, &get.key)?;
    let key = BindingKey::new(&get.key).map_err(reply::invalid)?;
    enough(shared, shared.map.partition(key.as_bytes()), get.read)?;
    on_disk(shared, move |shared| {
        let binding = shared
            .engine
            .binding(&key)
            .map_err(|error| reply::of_read(&error))?;
        Ok(values(&binding.unwrap_or_default(), shared.engine.now_ms()))
    })
    .await
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

/// A page of names that fits a frame; `more` where the listing goes on.
fn page(names: Vec<Bytes>, limit: u32) -> Answers {
    let found = names.len();
    let (mut lengths, mut body) = (Vec::new(), Vec::new());
    for name in names {
        if body.len() + name.len() > FRAME_BODY_BYTES_MAX {
            break;
        }
        lengths.push(u32::try_from(name.len()).unwrap_or(u32::MAX));
        body.extend_from_slice(&name);
    }
    let more = lengths.len() < found || found == limit as usize;
    vec![(Answer::Names(Names { lengths, more }), body.into())]
}

fn create_topic(
    shared: &Shared,
    name: &TopicName,
    config: TopicConfig,
    if_not_exists: bool,
) -> Result<Answers, Error> {
    let created = match shared.engine.create_topic(name, config) {
        Ok(topic) => topic,
        Err(mesh_engine::TopicError::Exists(_)) if if_not_exists => lookup(shared, name)?,
        Err(error) => return Err(reply::of_topic(&error)),
    };
    describe_topic(shared, &created)
}

fn describe_topic(shared: &Shared, topic: &TopicMeta) -> Result<Answers, Error> {
    let extent = shared
        .engine
        .describe(topic.key)
        .map_err(|error| reply::of_read(&error))?;
    let described = proto::Topic {
        name: topic.name.as_str().to_owned(),
        topic: Some(topic.key.into()),
        first: extent.first,
        next: extent.next,
        bytes: extent.bytes,
        leader: shared
            .leader(topic.key.partition)
            .unwrap_or_default()
            .to_owned(),
        epoch: shared.engine.epoch().0,
        replicas: shared.replicas(topic.key.partition),
        settings: Some(proto::TopicSettings {
            retention_age_ms: topic.config.retention_age_ms,
            retention_bytes: topic.config.retention_bytes,
        }),
    };
    Ok(vec![(Answer::Topic(described), Bytes::new())])
}

/// The topic of that name.
pub(super) fn lookup(shared: &Shared, name: &TopicName) -> Result<TopicMeta, Error> {
    match shared.engine.topic(name) {
        Ok(Some(topic)) => Ok(topic),
        Ok(None) => Err(reply::no_such_topic(name.as_str())),
        Err(error) => Err(reply::of_read(&error)),
    }
}

fn config_of(settings: proto::TopicSettings) -> TopicConfig {
    TopicConfig {
        retention_age_ms: settings.retention_age_ms,
        retention_bytes: settings.retention_bytes,
    }
}

/// A valid topic name that the peer may use.
pub(super) fn topic_name(peer: &Peer, access: Access, name: &str) -> Result<TopicName, Error> {
    let valid = TopicName::new(name).map_err(reply::invalid)?;
    allow(peer, access, Scope::Topic, name.as_bytes())?;
    Ok(valid)
}

/// Refuses what the peer's certificate does not grant.
pub(super) fn allow(peer: &Peer, access: Access, scope: Scope, name: &[u8]) -> Result<(), Error> {
    if peer.allows(access, scope, name) {
        return Ok(());
    }
    Err(reply::error(
        ErrorCode::Denied,
        format!(
            "client {} may not {access} {scope} {}: `meshctl ca issue client` grants prefixes",
            peer.name,
            name.escape_ascii()
        ),
    ))
}

fn enough(shared: &Shared, partition: PartitionId, wanted: Option<u32>) -> Result<(), Error> {
    let have = u32::try_from(shared.replicas(partition).len()).unwrap_or(u32::MAX);
    match wanted {
        Some(0) => Err(reply::invalid("0 replicas: ask for 1 or more")),
        Some(need) if need > have => Err(reply::not_enough_replicas(need, have)),
        _ => Ok(()),
    }
}

/// A context that this cluster gave out: one that names nodes it does not have would hide their later writes.
fn context_of(shared: &Shared, token: Option<&[u8]>) -> Result<Option<VersionVector>, Error> {
    let Some(token) = token else { return Ok(None) };
    let context = VersionVector::decode(token).map_err(|error| {
        reply::invalid(format!(
            "not a causal context: {error}: pass the one that get or put printed"
        ))
    })?;
    if context
        .dots()
        .any(|dot| shared.map.node(dot.node).is_none())
    {
        return Err(reply::invalid(
            "the causal context is of another cluster: pass the one that get or put printed",
        ));
    }
    Ok(Some(context))
}

fn node_hello(shared: &Shared, peer: &Peer) -> Result<Answers, Error> {
    if peer.role != Role::Node {
        let message = format!(
            "client {} sent a request that only nodes may send",
            peer.name
        );
        return Err(reply::error(ErrorCode::Denied, message));
    }
    let node = Bytes::copy_from_slice(&shared.engine.identity().node.0);
    Ok(vec![(
        Answer::NodeIs(NodeIs {
            node,
            boot: shared.engine.boot(),
            map_version: shared.map.version(),
        }),
        Bytes::new(),
    )])
}

fn info(shared: &Shared) -> Info {
    let identity = shared.engine.identity();
    Info {
        name: identity.name.clone(),
        node: Bytes::copy_from_slice(&identity.node.0),
        cluster: Bytes::copy_from_slice(&identity.cluster.0),
        partitions: identity.partitions.into(),
        epoch: shared.engine.epoch().0,
        boot: shared.engine.boot(),
        address: shared.addr.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: mesh_engine::FORMAT_VERSION,
        free_bytes: shared.engine.free_bytes().unwrap_or(0),
        uptime_ms: u64::try_from(shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        connections: shared.connection_count(),
    }
}

fn storage(shared: &Shared) -> Storage {
    let families = shared.engine.storage();
    Storage {
        families: families
            .into_iter()
            .map(|family| proto::Family {
                name: family.name.to_owned(),
                bytes: family.table_bytes + family.blob_bytes + family.memory_bytes,
                keys_estimate: family.keys_estimate,
            })
            .collect(),
    }
}
