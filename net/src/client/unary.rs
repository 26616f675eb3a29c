//! One question, one answer: a stream of its own for each request, at the node that knows best or the next one.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::{Buf, Bytes};
use quinn::Connection;
use tokio::{
    select,
    time::{Instant, sleep, timeout_at},
};

use super::{
    back_off::{Attempt, BackOff, first_to_succeed},
    doubt::Hearing,
    error::{ClientError, Lost},
    line::Line,
    link::Link,
    links::Links,
};
use crate::{
    pipeline::CallError,
    quic::STREAM_GIVEN_UP,
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, Reply, Request, reply, request},
    },
};

/// A request that changes nothing is put to another node beside one that takes longer than this.
const ASK_NEXT_AFTER: Duration = Duration::from_millis(400);
/// Most nodes that are asked the same at a time.
const BESIDE_MAX: usize = 3;
/// After so long all nodes are asked anew, as the cluster may have changed; doubled each time.
const ROUND_MIN: Duration = Duration::from_secs(2);
/// While the node that knows best is in doubt, and others answer for it, the map is asked for no more often.
const MAP_TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How much longer a request that cannot be repeated waits for a node that is silent.
const SILENCE_BORNE: Duration = Duration::from_millis(1_500);

/// Whether a request whose answer was lost may be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repeat {
    /// Doing it twice is as good as once.
    Safe,
    /// It may have been done. The caller must decide.
    Unsafe,
}

/// What one attempt came to.
pub(super) enum Outcome {
    Answered(Answer),
    /// The node's word on it.
    Refused(proto::Error),
    Lost(Lost),
}

/// Why an attempt is to be followed by another.
enum Again {
    /// Not done: it was not sent, or the node said so.
    NotDone(ClientError),
    /// May have been done.
    Unknown(ClientError),
}

/// Which nodes are asked.
enum Aim {
    /// Those of the configuration and no other: what is asked is about that node.
    Here,
    /// Whichever answers.
    Any,
    /// Best the one that leads the partition of this name.
    About(Bytes),
}

impl Aim {
    fn of(kind: &request::Kind) -> Self {
        use request::Kind;
        let name = |name: &str| Self::About(Bytes::copy_from_slice(name.as_bytes()));
        match kind {
            Kind::Info(_)
            | Kind::Storage(_)
            | Kind::NodeStatus(_)
            | Kind::HashTopic(_)
            | Kind::Listeners(_) => Self::Here,
            Kind::Put(put) => Self::About(put.key.clone()),
            Kind::Get(get) => Self::About(get.key.clone()),
            Kind::CreateTopic(create) => name(&create.name),
            Kind::DescribeTopic(describe) => name(&describe.name),
            Kind::DeleteTopic(delete) => name(&delete.name),
            Kind::TrimTopic(trim) => name(&trim.name),
            Kind::CommitCursor(commit) => name(&commit.topic),
            _ => Self::Any,
        }
    }
}

/// Whether it changes nothing, so that it may be put to two nodes at once. Of two changes, one that nobody waits for any
/// more could come after a later one.
fn is_read(kind: &request::Kind) -> bool {
    use request::Kind;
    matches!(
        kind,
        Kind::Get(_)
            | Kind::List(_)
            | Kind::DescribeTopic(_)
            | Kind::ListTopics(_)
            | Kind::Info(_)
            | Kind::Storage(_)
            | Kind::Map(_)
            | Kind::NodeStatus(_)
            | Kind::HashTopic(_)
            | Kind::Listeners(_)
    )
}

/// Whether the node has not done it, and it or another one may later.
fn may_pass(kind: &request::Kind, code: ErrorCode) -> bool {
    use request::Kind;
    match code {
        ErrorCode::Stopping
        | ErrorCode::NotLeader
        | ErrorCode::NotReplica
        | ErrorCode::WrongNode
        | ErrorCode::Unavailable => true,
        // How many replicas a binding asks for is the caller's choice, and the answer tells whether it can be had.
        ErrorCode::NotEnoughReplicas => {
            !matches!(kind, Kind::Put(_) | Kind::Get(_) | Kind::List(_))
        }
        _ => false,
    }
}

impl Links {
    /// Asks, and asks again, also elsewhere, where the connection is lost and that is safe, until the timeout.
    pub(super) async fn ask(
        &self,
        doing: &str,
        repeat: Repeat,
        kind: request::Kind,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + self.timeout;
        let (aim, is_read) = (Aim::of(&kind), is_read(&kind));
        let question = Question {
            doing,
            repeat,
            request: Request::new(kind),
            body,
            deadline,
            answered_by: OnceLock::new(),
        };
        if let Aim::About(_) = aim {
            // Without a map any node will do, and says itself what is wrong.
            let _ = self.learn(deadline).await;
        }
        let mut back_off = BackOff::new();
        let mut round_max = ROUND_MIN;
        let mut rounds = 0;
        loop {
            let began = Instant::now();
            let mut links = self.aimed(&aim);
            let best = links.first().cloned();
            let is_doubted = best.as_ref().is_some_and(|best| best.doubt().holds());
            Self::doubted_last(&mut links);
            if is_read && !links.is_empty() {
                // Those who know best may all be away: each round begins behind those that the one before has asked.
                let asked = (rounds * BESIDE_MAX) % links.len();
                links.rotate_left(asked);
            }
            let round = async {
                match is_read {
                    true => self.ask_beside(&question, &links).await,
                    false => self.ask_once(&question, &links).await,
                }
            };
            // A round that takes long may wait for nodes that wait for a dead one; where there is no other, it goes on.
            let round_deadline = match (is_read, links.len()) {
                (true, 2..) => deadline.min(began + round_max),
                _ => deadline,
            };
            round_max *= 2;
            let again = match timeout_at(round_deadline, round).await {
                Ok(Ok(result)) => {
                    if let (Aim::About(_), Some(best)) = (&aim, &best)
                        && question.was_answered_beside(best)
                    {
                        // The map may know better by now, which spares all that come later the detour. The answer is
                        // there, and waits no longer for that than a detour takes.
                        let besides = Some(best.address());
                        let soon = deadline.min(Instant::now() + ASK_NEXT_AFTER);
                        // Passing over a node in doubt costs nothing: one request in a while asks for all.
                        let since = match is_doubted {
                            true => began.checked_sub(MAP_TRUSTED_FOR),
                            false => Some(began),
                        };
                        let _ = self.refresh(besides, since, soon).await;
                    }
                    return result;
                }
                Ok(Err(again)) => again,
                Err(_) => Again::Unknown(question.late()),
            };
            let error = match again {
                Again::Unknown(error) if repeat == Repeat::Unsafe => return Err(error),
                Again::Unknown(error) | Again::NotDone(error) => error,
            };
            back_off.pause(deadline).await;
            if Instant::now() >= deadline {
                return Err(error);
            }
            if let Aim::About(_) = aim {
                let _ = self.refresh(None, Some(began), deadline).await;
            }
            rounds += 1;
        }
    }

    /// The nodes to ask, best first.
    fn aimed(&self, aim: &Aim) -> Vec<Arc<Link>> {
        match aim {
            Aim::Here => self.contacts(),
            Aim::Any => self.all(None),
            Aim::About(name) => {
                let routes = self.routes();
                let first = routes.leader(name).into_iter();
                let best = first.chain(routes.replicas(name)).cloned();
                let rest = self.all(None);
                self.each_once(best.chain(rest.iter().map(|link| link.address().clone())))
            }
        }
    }

    /// Asks one node after the other, the next beside one that takes long.
    async fn ask_beside(
        &self,
        question: &Question<'_>,
        links: &[Arc<Link>],
    ) -> Result<Result<Answer, ClientError>, Again> {
        let attempts: VecDeque<Attempt<'_, _, Again>> = links
            .iter()
            .take(BESIDE_MAX)
            .map(|link| -> Attempt<'_, _, Again> {
                Box::pin(async move {
                    match link.line(question.deadline).await {
                        Ok(line) => question.put_to(link, &line, links.len() > 1).await,
                        Err(Lost::Connection(cause)) => Err(question.unreached(cause)),
                        Err(lost) => Ok(Err(lost.into_error(question.doing))),
                    }
                })
            })
            .collect();
        match first_to_succeed(ASK_NEXT_AFTER, attempts).await {
            Ok(result) => Ok(result),
            Err(again) => {
                Err(again.unwrap_or_else(|| question.unreached("no node is known".into())))
            }
        }
    }

    /// Asks the first node that can be reached, and no other.
    async fn ask_once(
        &self,
        question: &Question<'_>,
        links: &[Arc<Link>],
    ) -> Result<Result<Answer, ClientError>, Again> {
        let line = match links.first().and_then(|best| best.living()) {
            Some(line) => Ok(line),
            None => self.first_line(links, question.deadline).await,
        };
        let line = match line {
            Ok(line) => line,
            Err(Lost::Connection(cause)) => return Err(question.unreached(cause)),
            Err(lost) => return Ok(Err(lost.into_error(question.doing))),
        };
        let link = self.link(line.address());
        question.put_to(&link, &line, links.len() > 1).await
    }
}

/// A request, and what is the same for all attempts at it.
struct Question<'a> {
    doing: &'a str,
    repeat: Repeat,
    request: Request,
    body: Bytes,
    deadline: Instant,
    /// The node that did it.
    answered_by: OnceLock<Arc<str>>,
}

impl Question<'_> {
    /// Whether another node than the best did it: that one did not answer, or not in time.
    fn was_answered_beside(&self, best: &Link) -> bool {
        let by = self.answered_by.get();
        by.is_some_and(|by| by != best.address())
    }

    /// One attempt on one line.
    async fn put_to(
        &self,
        link: &Link,
        line: &Line,
        has_others: bool,
    ) -> Result<Result<Answer, ClientError>, Again> {
        let _waiting = line.ask();
        let mut hearing = has_others.then(|| Hearing::begin(link, line));
        let silent = async {
            line.silent().await;
            if self.repeat == Repeat::Unsafe {
                // Nobody else can be asked instead.
                sleep(SILENCE_BORNE).await;
            }
        };
        let outcome = select! {
            outcome = timeout_at(self.deadline, self.attempt(line)) => outcome,
            () = silent, if has_others => {
                link.doubt().rise();
                link.forget(line);
                let cause = format!("{} has gone silent", line.address());
                return Err(Again::Unknown(self.lost(cause)));
            }
        };
        if let (Some(hearing), Ok(Outcome::Answered(_) | Outcome::Refused(_))) =
            (&mut hearing, &outcome)
        {
            hearing.answered();
        }
        match outcome {
            Ok(Outcome::Answered(answer)) => {
                // Of two that are asked beside each other, one answer is taken.
                let _ = self.answered_by.set(link.address().clone());
                Ok(Ok(answer))
            }
            Ok(Outcome::Refused(error)) => {
                let code = error.code();
                if code == ErrorCode::OutcomeUnknown {
                    return Err(Again::Unknown(error.into()));
                }
                let passes = self
                    .request
                    .kind
                    .as_ref()
                    .is_some_and(|kind| may_pass(kind, code));
                if !passes {
                    return Ok(Err(error.into()));
                }
                if code == ErrorCode::Stopping {
                    // A node that stops keeps the connection a while; the next attempt is to go to another one.
                    link.forget(line);
                }
                Err(Again::NotDone(error.into()))
            }
            Ok(Outcome::Lost(Lost::Connection(cause))) => {
                link.forget(line);
                Err(Again::Unknown(self.lost(cause)))
            }
            Ok(Outcome::Lost(lost)) => Ok(Err(lost.into_error(self.doing))),
            Err(_) => Err(Again::Unknown(self.late())),
        }
    }

    async fn attempt(&self, line: &Line) -> Outcome {
        if let Some(request::Kind::Put(_) | request::Kind::Get(_)) = self.request.kind
            && let Some(called) = line.calls().call(&self.request, &self.body).await
        {
            return called.map_or_else(
                |error| of_call(error, line.connection()),
                |replies| Outcome::Answered(Answer { replies }),
            );
        }
        attempt(line.connection(), &self.request, self.body.clone()).await
    }

    fn unreached(&self, cause: String) -> Again {
        Again::NotDone(ClientError::Unavailable(format!("{}: {cause}", self.doing)))
    }

    fn lost(&self, cause: String) -> ClientError {
        ClientError::Unavailable(format!("{}: {cause}{}", self.doing, self.known()))
    }

    fn late(&self) -> ClientError {
        ClientError::Unavailable(format!(
            "{}: no answer within the timeout{}",
            self.doing,
            self.known()
        ))
    }

    fn known(&self) -> &'static str {
        match self.repeat {
            Repeat::Safe => "",
            Repeat::Unsafe => "; it may have been done",
        }
    }
}

/// The whole answer: the first reply, and the bodies of all its frames.
pub(super) struct Answer {
    pub(super) replies: Vec<(reply::Kind, Bytes)>,
}

impl Answer {
    /// The only reply, where one frame is all there is.
    pub(super) fn one(self) -> Result<(reply::Kind, Bytes), ClientError> {
        self.replies
            .into_iter()
            .next()
            .ok_or_else(|| ClientError::protocol("nothing"))
    }
}

/// Sends a request and takes in the whole answer.
pub(super) async fn attempt(connection: &Connection, request: &Request, body: Bytes) -> Outcome {
    let (send, receive) = match connection.open_bi().await {
        Ok(streams) => streams,
        Err(error) => return Outcome::Lost(Lost::of_connection(&error)),
    };
    let mut writer = FrameWriter::new(send);
    let mut guard = Asking {
        reader: FrameReader::new(receive),
        finished: false,
    };
    // The node may answer, and refuse the rest, before it has taken all of the body: its answer tells more.
    let sent = writer.frame(request, [body]).await;
    writer.finish();
    let mut replies = Vec::new();
    loop {
        let (kind, body) = match guard.reader.frame::<Reply>().await {
            Ok(Some((Reply { kind: Some(kind) }, body))) => (kind, body),
            Ok(Some(_)) => {
                return Outcome::Lost(Lost::Protocol("an answer of no known kind".into()));
            }
            Ok(None) => return Outcome::Lost(Lost::Connection("the answer ended early".into())),
            Err(error) => {
                let error = sent.err().unwrap_or(error);
                return Outcome::Lost(Lost::of_frame(error, connection));
            }
        };
        match kind {
            reply::Kind::Error(error) => {
                guard.finished = true;
                return Outcome::Refused(error);
            }
            kind => {
                let more = matches!(&kind, reply::Kind::Values(proto::Values { more: true, .. }));
                replies.push((kind, body));
                if !more {
                    guard.finished = true;
                    return Outcome::Answered(Answer { replies });
                }
            }
        }
    }
}

fn of_call(error: CallError, connection: &Connection) -> Outcome {
    match (error, connection.close_reason()) {
        (CallError::Refused(error), _) => Outcome::Refused(error),
        (CallError::Protocol(cause), _) => Outcome::Lost(Lost::Protocol(cause)),
        (CallError::Lost(_), Some(reason)) => Outcome::Lost(Lost::of_connection(&reason)),
        (CallError::Lost(cause), None) => Outcome::Lost(Lost::Connection(cause)),
    }
}

/// Tells the node to save itself the answer when the caller stops waiting.
struct Asking {
    reader: FrameReader<quinn::RecvStream>,
    finished: bool,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.finished {
            self.reader.stop(STREAM_GIVEN_UP);
        }
    }
}

/// Cuts a body into the pieces of the given lengths.
pub(super) fn pieces(
    mut body: Bytes,
    lengths: impl Iterator<Item = u32>,
) -> Result<Vec<Bytes>, ClientError> {
    let mut pieces = Vec::new();
    for length in lengths {
        if body.remaining() < length as usize {
            return Err(ClientError::protocol("lengths beyond its body"));
        }
        pieces.push(body.split_to(length as usize));
    }
    Ok(pieces)
}
