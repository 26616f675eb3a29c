//! Requests of one question and one answer.
//!
//! - `access`: who may; `topics`, `bindings`: what users ask of their data; `facts`: what a node says of itself and of the
//!   cluster; `cluster`: changes of the ring; `repair`: copies of bindings and of topics' blocks are compared.

pub(super) mod access;
mod bindings;
mod cluster;
mod facts;
mod repair;
pub(super) mod topics;

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::ids::NodeId;
use tokio::sync::oneshot;

use super::connection::Stream;
use super::{Shared, bindings as node_bindings, listeners, reply, tombstones};
use crate::identity::Peer;
use crate::tasks::blocking;
use crate::wire::FRAME_BODY_BYTES_MAX;
use crate::wire::proto::{Error, Names, Reply, reply::Kind as Answer, request::Kind};

/// What goes back: messages, each with a body.
pub(super) type Answers = Vec<(Answer, Bytes)>;

/// Who asks, and how.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) peer: Arc<Peer>,
    /// Which node it is, where it has said so.
    pub(super) node: Option<NodeId>,
    /// Another node has passed it on and has checked the client's grants.
    pub(super) forwarded: bool,
}

pub(super) async fn serve(
    shared: &Arc<Shared>,
    mut stream: Stream,
    kind: Kind,
    forwarded: bool,
    length: usize,
) {
    let caller = Caller {
        peer: Arc::clone(&stream.peer),
        node: stream.greeting.caller().map(|caller| caller.node),
        forwarded,
    };
    let Some(_admitted) = Stream::admit(&stream.intake, length).await else {
        return;
    };
    let body = match stream.reader.body(length).await {
        Ok(body) => body,
        Err(error) if error.is_malformed() => return stream.refuse(reply::malformed(error)).await,
        Err(_) => return,
    };
    let answers = match answer(shared, &caller, kind, body).await {
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

/// Carries out a request, and tells `done` what came of it as soon as that is known. What goes on after that goes on here.
pub(super) async fn carry_out(
    shared: &Arc<Shared>,
    caller: &Caller,
    kind: Kind,
    body: Bytes,
    done: impl FnOnce(Result<Answers, Error>) + Send,
) {
    match kind {
        Kind::Put(put) => bindings::put(shared, caller, put, body, done).await,
        Kind::Get(get) => bindings::get(shared, caller, get, done).await,
        kind => done(answer(shared, caller, kind, body).await),
    }
}

async fn answer(
    shared: &Arc<Shared>,
    caller: &Caller,
    kind: Kind,
    body: Bytes,
) -> Result<Answers, Error> {
    match kind {
        Kind::Put(put) => {
            let (too, caller) = (Arc::clone(shared), caller.clone());
            answered(shared, |done| async move {
                bindings::put(&too, &caller, put, body, done).await;
            })
            .await
        }
        Kind::Get(get) => {
            let (too, caller) = (Arc::clone(shared), caller.clone());
            answered(shared, |done| async move {
                bindings::get(&too, &caller, get, done).await;
            })
            .await
        }
        Kind::List(list) => bindings::list(shared, caller, list).await,
        Kind::CreateTopic(create) => topics::create(shared, caller, create).await,
        Kind::DescribeTopic(describe) => topics::describe(shared, caller, describe).await,
        Kind::DeleteTopic(delete) => topics::delete(shared, caller, delete).await,
        Kind::ListTopics(list) => topics::list(shared, caller, list).await,
        Kind::TrimTopic(trim) => topics::trim(shared, caller, trim).await,
        Kind::CommitCursor(commit) => topics::commit_cursor(shared, caller, commit).await,
        Kind::HashTopic(hash) => topics::hash(shared, caller, hash).await,
        Kind::Info(_) => facts::info(shared),
        Kind::Storage(_) => on_disk(shared, facts::storage).await,
        Kind::Map(known) => facts::map(shared, known),
        Kind::NodeStatus(_) => facts::status(shared).await,
        Kind::Listeners(_) => Ok(vec![listeners::answer(shared, &caller.peer)]),
        Kind::Repair(asked) => repair::run(shared, caller, asked).await,
        Kind::WalkBindings(asked) => repair::walk(shared, caller, asked, body).await,
        Kind::CompareBlocks(asked) => repair::compare_blocks(shared, caller, asked).await,
        Kind::FetchBlock(asked) => repair::fetch_block(shared, caller, asked).await,
        Kind::ChangeCluster(change) => cluster::change(shared, caller, change).await,
        Kind::SeenOf(of) => cluster::seen_of(shared, caller, of).await,
        Kind::ControlCall(_) => cluster::control_call(shared, caller, body).await,
        Kind::RebuildPartition(rebuild) => cluster::rebuild(shared, caller, rebuild).await,
        Kind::StoreBinding(store) => {
            let (answer, answered) = oneshot::channel();
            // Nobody waits where the stream is gone; the copy stays.
            let done = |result| drop(answer.send(result));
            node_bindings::store(shared, caller, store, body, done).await;
            answered.await.unwrap_or_else(|_| Err(reply::cut_off()))
        }
        Kind::StoreBindings(copies) => node_bindings::keep_all(shared, caller, copies, body).await,
        Kind::FetchBinding(fetch) => node_bindings::fetch(shared, caller, fetch).await,
        Kind::AskTombstones(asked) => tombstones::ask(shared, caller, asked).await,
        Kind::CollectTombstones(told) => tombstones::collect(shared, caller, told).await,
        Kind::NodeHello(_)
        | Kind::Append(_)
        | Kind::Tail(_)
        | Kind::Watch(_)
        | Kind::Pipeline(_)
        | Kind::Replicate(_)
        | Kind::PullPartition(_) => Err(reply::internal()),
    }
}

/// What `work` tells, which goes on by itself after that.
async fn answered<F>(shared: &Shared, work: impl FnOnce(Tell) -> F) -> Result<Answers, Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    // Nobody waits any more where the client is gone.
    let work = work(Box::new(|result| drop(answer.send(result))));
    shared.tasks.spawn("request", work);
    answered.await.unwrap_or_else(|_| Err(reply::cut_off()))
}

type Tell = Box<dyn FnOnce(Result<Answers, Error>) + Send>;

pub(super) async fn on_disk<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let shared = Arc::clone(shared);
    blocking(move || work(&shared))
        .await
        .unwrap_or_else(|| Err(reply::internal()))
}

/// An answer without a body.
pub(super) fn plain(answer: Answer) -> Answers {
    vec![(answer, Bytes::new())]
}

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
