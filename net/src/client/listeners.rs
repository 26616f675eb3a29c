//! Who watches and tails what, on every node.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout_at};

use super::error::Lost;
use super::links::Links;
use super::unary::{Outcome, attempt};
use super::{Client, ClientError, NodeState, NodeView, WatchTarget};
use crate::wire::proto::{self, Request, listener::What, reply, request};

/// Longest time that one node's answer is waited for.
const ANSWER_MAX: Duration = Duration::from_millis(1_500);

/// Somebody who listens to something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The name of the node that serves them.
    pub node: String,
    /// The name in their certificate.
    pub client: String,
    /// Since when, by that node's clock, Unix milliseconds.
    pub since_ms: u64,
    /// To what.
    pub what: Listening,
}

/// What somebody listens to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Listening {
    /// Changes of keys.
    Watch {
        /// Of which.
        target: WatchTarget,
        /// In how many partitions of the node: other nodes may serve the same watch in others.
        partitions: u32,
    },
    /// Records of a topic.
    Tail {
        /// Of which.
        topic: String,
        /// The offset that is sent next.
        next: u64,
        /// Whether they wait for more at the end.
        follow: bool,
    },
}

/// Who listens in the whole cluster, as far as its nodes answer.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listeners {
    /// By node, then the longest first.
    pub listeners: Vec<Listener>,
    /// Nodes that should have answered and did not, by name, and why.
    pub silent: Vec<(String, ClientError)>,
    /// Nodes that have more listeners than they list.
    pub truncated: Vec<String>,
}

impl Client {
    /// Asks every node who watches and tails what there. Only what the client may read itself is told.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where no node tells who the others are. One that does not answer is named in the result.
    pub async fn listeners(&self) -> Result<Listeners, ClientError> {
        let view = self.cluster().await?;
        let mut nodes: Vec<&NodeView> = view.nodes.iter().collect();
        nodes.retain(|node| node.state != NodeState::Removed);
        nodes.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
        let alone = nodes.len() <= 1;
        let (answer_to, mut answers) = mpsc::channel(nodes.len().max(1));
        for (place, node) in nodes.iter().enumerate() {
            let links = self.0.links.clone();
            // A node by itself may not be where it thinks it is.
            let at: Option<Arc<str>> = (!alone).then(|| node.address.as_str().into());
            let answer_to = answer_to.clone();
            self.0.tasks.spawn("listeners", async move {
                let answer = ask(&links, at).await;
                // The caller may have stopped waiting.
                let _ = answer_to.send((place, answer)).await;
            });
        }
        drop(answer_to);
        let mut told: Vec<Option<Result<proto::ListenerList, ClientError>>> =
            vec![None; nodes.len()];
        while let Some((place, answer)) = answers.recv().await {
            told[place] = Some(answer);
        }
        let mut all = Listeners::default();
        for (node, answer) in nodes.into_iter().zip(told) {
            let ended = || Err(ClientError::Unavailable("the client is closed".into()));
            match answer.unwrap_or_else(ended) {
                Ok(list) => all.add(&node.name, list)?,
                Err(error) => all.silent.push((node.name.clone(), error)),
            }
        }
        Ok(all)
    }
}

impl Listeners {
    fn add(&mut self, node: &str, list: proto::ListenerList) -> Result<(), ClientError> {
        if list.more {
            self.truncated.push(node.to_owned());
        }
        for listener in list.listeners {
            self.listeners.push(Listener {
                node: node.to_owned(),
                client: listener.client,
                since_ms: listener.since_ms,
                what: listening(listener.what)?,
            });
        }
        Ok(())
    }
}

fn listening(what: Option<What>) -> Result<Listening, ClientError> {
    Ok(match what {
        Some(What::Watching(watching)) => Listening::Watch {
            target: match watching.is_prefix {
                true => WatchTarget::Prefix(watching.key),
                false => WatchTarget::Key(watching.key),
            },
            partitions: watching.partitions,
        },
        Some(What::Tailing(tailing)) => Listening::Tail {
            topic: tailing.topic,
            next: tailing.next,
            follow: tailing.follow,
        },
        None => return Err(ClientError::protocol("a listener of no known kind")),
    })
}

/// Asks the node at an address, or the only one.
async fn ask(links: &Links, at: Option<Arc<str>>) -> Result<proto::ListenerList, ClientError> {
    let deadline = Instant::now() + ANSWER_MAX.min(links.timeout);
    let late = || Lost::Connection("it does not answer".into()).into_error("listeners");
    let link = match at {
        Some(address) => links.link(&address),
        None => links.all(None).into_iter().next().ok_or_else(late)?,
    };
    let lost = |lost: Lost| lost.into_error("listeners");
    let line = link.line(deadline).await.map_err(lost)?;
    let _asking = line.ask();
    let request = Request::new(request::Kind::Listeners(proto::GetListeners {}));
    let asking = attempt(line.connection(), &request, Bytes::new());
    let outcome = timeout_at(deadline, asking).await.map_err(|_| late())?;
    match outcome {
        Outcome::Answered(answer) => match answer.one()? {
            (reply::Kind::Listeners(_), body) => proto::ListenerList::decode(body)
                .map_err(|_| ClientError::protocol("an ill-formed answer")),
            _ => Err(ClientError::protocol("another kind of answer")),
        },
        Outcome::Refused(error) => Err(error.into()),
        Outcome::Lost(lost) => Err(lost.into_error("listeners")),
    }
}
