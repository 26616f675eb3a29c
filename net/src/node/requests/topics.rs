//! What users ask of topics, streams apart. Decided by the partition's leader, wherever it is asked.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::{Engine, ReadError, TopicConfig, TopicError, TopicMeta};
use mesh_ring::ids::TopicKey;
use mesh_ring::limits::LIST_PAGE_MAX;
use mesh_ring::name::{CursorName, TopicName};

use super::access::{allow, topic_name};
use super::{Answers, Caller, on_disk, page, plain};
use crate::identity::{Access, Scope};
use crate::node::coordinator::Place;
use crate::node::partition::{Change, Changed, Partition, Refusal};
use crate::node::{Shared, reply};
use crate::wire::proto::{self, Done, Error, Trimmed, reply::Kind as Answer, request::Kind};

/// How long a digest waits for the node's own copy to have been committed so far.
const HASH_WAIT: Duration = Duration::from_secs(5);

pub(super) async fn create(
    shared: &Arc<Shared>,
    caller: &Caller,
    create: proto::CreateTopic,
) -> Result<Answers, Error> {
    let name = topic_name(&caller.peer, Access::Write, &create.name)?;
    let again = create.if_not_exists;
    let config = config_of(create.settings.unwrap_or_default());
    let partition = match place(shared, caller, &name, Kind::CreateTopic(create), again).await? {
        Place::Here(partition) => partition,
        Place::Done(answers) => return Ok(answers),
    };
    let change = Change::Create {
        name: name.clone(),
        config,
    };
    let created = match shared.change(&partition, change).await {
        Ok(Changed::Created(meta)) => meta,
        Ok(_) => return Err(reply::internal()),
        Err(Refusal::Decided(TopicError::Exists(_))) if again => find(shared, &name).await?,
        Err(refusal) => return Err(shared.of_change(partition.id, refusal)),
    };
    on_disk(shared, move |shared| described(shared, &created)).await
}

pub(super) async fn describe(
    shared: &Arc<Shared>,
    caller: &Caller,
    describe: proto::DescribeTopic,
) -> Result<Answers, Error> {
    let name = topic_name(&caller.peer, Access::Read, &describe.name)?;
    let kind = Kind::DescribeTopic(describe);
    match place(shared, caller, &name, kind, true).await? {
        Place::Here(_) => {
            on_disk(shared, move |shared| {
                described(shared, &lookup(shared, &name)?)
            })
            .await
        }
        Place::Done(answers) => Ok(answers),
    }
}

pub(super) async fn delete(
    shared: &Arc<Shared>,
    caller: &Caller,
    delete: proto::DeleteTopic,
) -> Result<Answers, Error> {
    let name = topic_name(&caller.peer, Access::Write, &delete.name)?;
    let partition = match place(shared, caller, &name, Kind::DeleteTopic(delete), false).await? {
        Place::Here(partition) => partition,
        Place::Done(answers) => return Ok(answers),
    };
    let topic = find(shared, &name).await?.key;
    changed(shared, &partition, Change::Delete { topic }).await?;
    shared.names.forget(name.as_str());
    Ok(plain(Answer::Done(Done {})))
}

pub(super) async fn trim(
    shared: &Arc<Shared>,
    caller: &Caller,
    trim: proto::TrimTopic,
) -> Result<Answers, Error> {
    let name = topic_name(&caller.peer, Access::Write, &trim.name)?;
    let first = trim.before;
    let partition = match place(shared, caller, &name, Kind::TrimTopic(trim), true).await? {
        Place::Here(partition) => partition,
        Place::Done(answers) => return Ok(answers),
    };
    let topic = find(shared, &name).await?.key;
    match changed(shared, &partition, Change::Trim { topic, first }).await? {
        Changed::Trimmed(first) => Ok(plain(Answer::Trimmed(Trimmed { first }))),
        _ => Err(reply::internal()),
    }
}

pub(super) async fn commit_cursor(
    shared: &Arc<Shared>,
    caller: &Caller,
    commit: proto::CommitCursor,
) -> Result<Answers, Error> {
    let topic = topic_name(&caller.peer, Access::Read, &commit.topic)?;
    let name = CursorName::new(&commit.name).map_err(reply::invalid)?;
    let next = commit.next;
    let partition = match place(shared, caller, &topic, Kind::CommitCursor(commit), true).await? {
        Place::Here(partition) => partition,
        Place::Done(answers) => return Ok(answers),
    };
    let topic = find(shared, &topic).await?.key;
    let change = Change::CommitCursor { topic, name, next };
    changed(shared, &partition, change).await?;
    Ok(plain(Answer::Done(Done {})))
}

pub(super) async fn list(
    shared: &Arc<Shared>,
    caller: &Caller,
    list: proto::ListTopics,
) -> Result<Answers, Error> {
    allow(
        &caller.peer,
        Access::Read,
        Scope::Topic,
        list.prefix.as_bytes(),
    )?;
    let limit = list.limit.min(LIST_PAGE_MAX);
    let mine = {
        let list = list.clone();
        on_disk(shared, move |shared| {
            let engine = &shared.engine;
            let names = engine
                .list_topics(&list.prefix, list.after.as_deref(), limit)
                .map_err(|error| reply::of_read(&error))?;
            Ok(names.into_iter().map(Bytes::from).collect::<Vec<_>>())
        })
        .await?
    };
    if caller.forwarded {
        return Ok(page(mine, limit));
    }
    let all = shared.gather(mine, Kind::ListTopics(list), limit).await?;
    Ok(page(all, limit))
}

/// A digest of what this node itself stores of the topic.
pub(super) async fn hash(
    shared: &Arc<Shared>,
    caller: &Caller,
    hash: proto::HashTopic,
) -> Result<Answers, Error> {
    let name = topic_name(&caller.peer, Access::Read, &hash.topic)?;
    let id = shared.map().partition(name.as_bytes());
    if shared.partitions.get(id).is_none() {
        return Err(shared.not_replica(id));
    }
    let topic = match &hash.incarnation {
        Some(wanted) => TopicKey::try_from(wanted).map_err(reply::invalid)?,
        None => find(shared, &name).await?.key,
    };
    // What cannot be read of it is counted, its end as well.
    let end = |engine: &Engine, topic| engine.committed_offsets(topic).map(|known| known.end);
    let deadline = tokio::time::Instant::now() + HASH_WAIT;
    shared
        .wait_for_end(topic, hash.until, deadline, end)
        .await?;
    let (from, until) = (hash.from, hash.until);
    let digest = on_disk(shared, move |shared| {
        let digest = shared.engine.hash_topic(topic, from, until, &mut |_| {
            if shared.tasks.is_stopping() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        digest
            .map_err(|error| reply::of_read(&error))?
            .ok_or_else(reply::stopping)
    })
    .await?;
    if digest.damaged > 0 {
        shared.look_for_damage(topic, from..until);
    }
    Ok(plain(Answer::TopicHash(proto::TopicHash {
        root: Bytes::copy_from_slice(&digest.root),
        records: digest.records,
        damaged: digest.damaged,
        from,
        until,
    })))
}

async fn place(
    shared: &Arc<Shared>,
    caller: &Caller,
    name: &TopicName,
    kind: Kind,
    again: bool,
) -> Result<Place, Error> {
    let id = shared.map().partition(name.as_bytes());
    shared
        .place(id, &kind, &Bytes::new(), caller.forwarded, again)
        .await
}

async fn changed(
    shared: &Arc<Shared>,
    partition: &Partition,
    change: Change,
) -> Result<Changed, Error> {
    shared
        .change(partition, change)
        .await
        .map_err(|refusal| shared.of_change(partition.id, refusal))
}

fn described(shared: &Shared, topic: &TopicMeta) -> Result<Answers, Error> {
    let extent = shared.engine.describe(topic.key).map_err(|error| {
        shared.note_damage(&error);
        reply::of_read(&error)
    })?;
    let map = shared.map();
    let assignment = map.assignment(topic.key.partition);
    let named = |nodes: &[mesh_ring::ids::NodeId]| shared.names_of(nodes);
    Ok(plain(Answer::Topic(proto::Topic {
        name: topic.name.as_str().to_owned(),
        topic: Some(topic.key.into()),
        first: extent.first,
        next: extent.next,
        bytes: extent.bytes,
        leader: assignment
            .and_then(|assignment| named(&[assignment.leader]).pop())
            .unwrap_or_default(),
        epoch: assignment.map_or(0, |assignment| assignment.epoch.0),
        replicas: assignment.map_or_else(Vec::new, |assignment| named(&assignment.replicas)),
        settings: Some(proto::TopicSettings {
            retention_age_ms: topic.config.retention_age_ms,
            retention_bytes: topic.config.retention_bytes,
        }),
    })))
}

/// The topic of that name, as this node's copy has it.
pub(in crate::node) fn lookup(shared: &Shared, name: &TopicName) -> Result<TopicMeta, Error> {
    match shared.engine.topic(name) {
        Ok(Some(topic)) => Ok(topic),
        Ok(None) => Err(reply::no_such_topic(name.as_str())),
        Err(error) => Err(reply::of_read(&error)),
    }
}

/// The same, without holding up a task.
pub(in crate::node) async fn find(
    shared: &Arc<Shared>,
    name: &TopicName,
) -> Result<TopicMeta, Error> {
    let name = name.clone();
    on_disk(shared, move |shared| lookup(shared, &name)).await
}

fn config_of(settings: proto::TopicSettings) -> TopicConfig {
    TopicConfig {
        retention_age_ms: settings.retention_age_ms,
        retention_bytes: settings.retention_bytes,
    }
}

impl Shared {
    /// Waits until this node has the topic committed up to `next`.
    pub(in crate::node) async fn wait_for_commit(
        self: &Arc<Self>,
        topic: TopicKey,
        next: u64,
        deadline: tokio::time::Instant,
    ) -> Result<(), Error> {
        let end = |engine: &Engine, topic| engine.describe(topic).map(|extent| extent.next);
        self.wait_for_end(topic, next, deadline, end).await
    }

    async fn wait_for_end(
        self: &Arc<Self>,
        topic: TopicKey,
        next: u64,
        deadline: tokio::time::Instant,
        end: fn(&Engine, TopicKey) -> Result<u64, ReadError>,
    ) -> Result<(), Error> {
        let mut watch = self.commits.watch(topic);
        loop {
            let end = on_disk(self, move |shared| Ok(end(&shared.engine, topic))).await?;
            match end {
                Ok(end) if end >= next => return Ok(()),
                // A copy that is behind may not know the topic yet.
                Ok(_) | Err(ReadError::TopicDeleted) => {}
                Err(error) => {
                    self.note_damage(&error);
                    return Err(reply::of_read(&error));
                }
            }
            tokio::select! {
                () = watch.changed() => {}
                // A topic that is not there yet is not told about.
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                () = self.tasks.stopping() => return Err(reply::stopping()),
                () = tokio::time::sleep_until(deadline) => return Err(self.behind(topic.partition)),
            }
        }
    }
}
