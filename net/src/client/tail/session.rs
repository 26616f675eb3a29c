//! One stream of a tail, on one node, from its request to its end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::RecvStream;
use tokio::{
    select,
    time::{Instant, timeout_at},
};

use crate::{
    client::{
        error::{ClientError, Lost},
        line::{Line, Waiting},
        link::Link,
        links::Links,
    },
    quic::STREAM_GIVEN_UP,
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, Request, TailFrame, request, tail_frame},
    },
};

/// How long a node may take to begin where another one could.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(3);

/// A tail that has begun.
#[derive(Debug)]
pub(super) struct Session {
    line: Line,
    reader: FrameReader<RecvStream>,
    /// Lets the line notice that its node has died.
    _waiting: Waiting,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.stop(STREAM_GIVEN_UP);
    }
}

/// Why there is no more on a stream.
#[derive(Debug)]
pub(super) enum Failure {
    /// Another node, or this one later, may go on.
    Passing(Lost),
    /// The same, as far as one that may lag behind can say: the leader knows better.
    Doubtful(ClientError),
    /// What another attempt alone does not mend.
    Final(ClientError),
}

/// Which nodes a tail asks.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// The node that failed last, which is asked again after all others.
    failed: Option<Arc<str>>,
    /// Those that have a record that they cannot read.
    damaged: BTreeSet<Arc<str>>,
    /// A replica has said what only the leader can know.
    leader_only: bool,
    /// When something last went wrong: what was known of the cluster before may no longer be so.
    since: Option<Instant>,
}

impl Choice {
    /// Nothing is wrong with the node that it reads from.
    pub(super) fn served(&mut self) {
        if self.since.is_some() {
            *self = Self::default();
        }
    }

    /// The nodes to try, best first: replicas that are connected, then the leader, then the other replicas, then whoever
    /// may know more.
    fn order(&self, links: &Links, topic: &[u8]) -> Vec<Arc<Link>> {
        let routes = links.routes();
        let leader = routes.leader(topic).cloned();
        if let (true, Some(leader)) = (self.leader_only, &leader) {
            return vec![links.link(leader)];
        }
        let replicas = || routes.replicas(topic).into_iter().cloned();
        let contacts = links.contacts();
        let near = contacts
            .iter()
            .filter(|link| link.living().is_some())
            .map(|link| link.address().clone())
            .filter(|address| replicas().any(|replica| replica == *address));
        let rest = links.all(None);
        let rest = rest.iter().map(|link| link.address().clone());
        let best = near.chain(leader).chain(replicas()).chain(rest);
        let mut order = links.each_once(best);
        order.sort_by_key(|link| {
            let address = link.address();
            (
                self.damaged.contains(address),
                self.failed.as_ref() == Some(address),
            )
        });
        order
    }

    /// Takes note of what went wrong at `line`, and says what that means for the tail.
    fn judge(&mut self, links: &Links, topic: &[u8], line: &Line, trouble: Trouble) -> Failure {
        let (routes, address) = (links.routes(), line.address());
        self.since = Some(Instant::now());
        self.failed = Some(address.clone());
        let error = match trouble {
            Trouble::Lost(lost) => {
                links.link(address).forget(line);
                self.leader_only = false;
                return Failure::Passing(lost);
            }
            Trouble::Said(error) => error,
        };
        let code = error.code();
        match code {
            ErrorCode::Stopping | ErrorCode::Stopped => links.link(address).forget(line),
            ErrorCode::Corrupt => {
                self.damaged.insert(address.clone());
            }
            _ => {}
        }
        let knows = !routes.has_others() || routes.leader(topic) == Some(address);
        match code {
            ErrorCode::Corrupt if self.is_damaged_everywhere(&routes.replicas(topic)) => {
                Failure::Final(error.into())
            }
            ErrorCode::Corrupt
            | ErrorCode::Stopping
            | ErrorCode::Stopped
            | ErrorCode::NotLeader
            | ErrorCode::NotReplica
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::WrongNode
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Unavailable => {
                self.leader_only = false;
                Failure::Passing(Lost::Connection(error.message))
            }
            // A replica may not have heard yet of what the leader knows.
            ErrorCode::TopicNotFound | ErrorCode::TopicDeleted | ErrorCode::OffsetBeyondEnd
                if !knows =>
            {
                self.leader_only = true;
                Failure::Doubtful(error.into())
            }
            _ => Failure::Final(error.into()),
        }
    }

    /// The node of this session has less than another one had: the leader has it all.
    pub(super) fn lags(&mut self, session: &Session) -> Failure {
        let address = session.line.address();
        self.since = Some(Instant::now());
        self.failed = Some(address.clone());
        self.leader_only = true;
        Failure::Doubtful(ClientError::Unavailable(format!(
            "tail: {address} lags behind"
        )))
    }

    fn is_damaged_everywhere(&self, replicas: &[&Arc<str>]) -> bool {
        replicas
            .iter()
            .all(|replica| self.damaged.contains(*replica))
    }
}

/// What went wrong on a line.
enum Trouble {
    Lost(Lost),
    /// The node's word.
    Said(proto::Error),
}

/// Begins a tail at the best node that answers.
pub(super) async fn begin(
    links: &Links,
    choice: &mut Choice,
    open: proto::TailOpen,
    deadline: Instant,
) -> Result<(Session, proto::TailStarted), Failure> {
    let topic = open.topic.clone().into_bytes();
    // What is known serves where nobody tells more.
    let _ = match choice.since {
        None => links.learn(deadline).await,
        Some(since) => {
            let failed = choice.failed.as_ref();
            links.refresh(failed, Some(since), deadline).await
        }
    };
    let order = choice.order(links, &topic);
    let line = match links.first_line(&order, deadline).await {
        Ok(line) => line,
        Err(lost) => {
            choice.leader_only = false;
            choice.since = Some(Instant::now());
            return Err(Failure::Passing(lost));
        }
    };
    let deadline = match order.len() {
        0 | 1 => deadline,
        _ => deadline.min(Instant::now() + BEGIN_TIMEOUT),
    };
    let begun = timeout_at(deadline, start(links, &line, open)).await;
    begun
        .unwrap_or_else(|_| {
            Err(Trouble::Lost(Lost::Connection(format!(
                "{} does not begin to answer",
                line.address()
            ))))
        })
        .map_err(|trouble| choice.judge(links, &topic, &line, trouble))
}

async fn start(
    links: &Links,
    line: &Line,
    open: proto::TailOpen,
) -> Result<(Session, proto::TailStarted), Trouble> {
    let _asking = line.ask();
    let (send, receive) = line
        .connection()
        .open_bi()
        .await
        .map_err(|e| Trouble::Lost(Lost::of_connection(&e)))?;
    let mut session = Session {
        line: line.clone(),
        reader: FrameReader::new(receive),
        _waiting: line.listen(),
    };
    let mut writer = FrameWriter::new(send);
    writer
        .header(&Request::new(request::Kind::Tail(open)))
        .await
        .map_err(|e| Trouble::Lost(Lost::of_frame(e, line.connection())))?;
    writer.finish();
    match session.frame(links).await? {
        (tail_frame::Kind::Started(started), _) => Ok((session, started)),
        _ => Err(Trouble::Lost(Lost::Protocol(
            "a tail that does not start".into(),
        ))),
    }
}

impl Session {
    /// The next part of the tail. Not cancel-safe.
    pub(super) async fn next(
        &mut self,
        links: &Links,
        choice: &mut Choice,
        topic: &str,
    ) -> Result<(tail_frame::Kind, Bytes), Failure> {
        self.frame(links)
            .await
            .map_err(|trouble| choice.judge(links, topic.as_bytes(), &self.line, trouble))
    }

    async fn frame(&mut self, links: &Links) -> Result<(tail_frame::Kind, Bytes), Trouble> {
        let (line, reader) = (&self.line, &mut self.reader);
        let frame = select! {
            frame = reader.frame::<TailFrame>() => frame,
            () = gone(line, links) => {
                let cause = format!("{} has gone silent", line.address());
                return Err(Trouble::Lost(Lost::Connection(cause)));
            }
        };
        let lost = |lost: Lost| Err(Trouble::Lost(lost));
        match frame {
            Ok(Some((TailFrame { kind: Some(kind) }, body))) => match kind {
                tail_frame::Kind::Error(error) => Err(Trouble::Said(error)),
                kind => Ok((kind, body)),
            },
            Ok(Some(_)) => lost(Lost::Protocol("an answer of no known kind".into())),
            Ok(None) => lost(Lost::Connection("the tail ended early".into())),
            Err(error) => lost(Lost::of_frame(error, line.connection())),
        }
    }
}

/// Resolves once the node is to be taken for dead, and there are others.
async fn gone(line: &Line, links: &Links) {
    line.silent().await;
    if !links.routes().has_others() {
        // QUIC says when the connection is lost.
        std::future::pending::<()>().await;
    }
}
