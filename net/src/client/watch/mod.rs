//! Watching keys: what they hold, and every change of it, for as long as somebody listens.
//!
//! - `cover`: which nodes to ask, so that together they are homes of everything that is watched;
//! - `stream`: one node's word on it; `state`: what that says of a key;
//! - `seen`: what it adds to what was seen before; `follow`: the task that goes on when nodes do not;
//!   `inquiry`: what it asks beside the streams.

mod cover;
mod follow;
mod inquiry;
mod seen;
mod state;
mod stream;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Client, ClientError};

/// Events that a watch has ready before it lets the nodes wait.
const READY_EVENTS_MAX: usize = 64;

/// What to watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WatchTarget {
    /// One key.
    Key(Bytes),
    /// Every key that begins so; nothing: every key.
    Prefix(Bytes),
}

/// What has happened to a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchKind {
    /// It has a value, and had none as far as this watch has seen: also for what is there when the watch begins.
    New,
    /// It has another value, or another concurrent one beside it.
    Changed,
    /// It has no value any more: it was deleted, or has expired.
    Deleted,
    /// Other nodes are its homes now. What it holds is the same.
    Moved,
}

/// Something that has happened to a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WatchEvent {
    /// What.
    pub kind: WatchKind,
    /// To which key.
    pub key: Bytes,
    /// Its newest value, where it is new or has changed.
    pub value: Option<Bytes>,
    /// How many values it has; more than one: concurrent writes.
    pub siblings: u32,
    /// The node through which it was written; of a move, the first of its homes. `None` where that is forgotten.
    pub node: Option<String>,
    /// When it was written, or has expired, or when the move was noticed; Unix milliseconds. `None` where that is
    /// forgotten.
    pub time_ms: Option<u64>,
    /// Of a move: its homes, in the order of preference.
    pub replicas: Vec<String>,
}

/// A watch that goes on by itself. Dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<Result<WatchEvent, ClientError>>,
    ended: Option<ClientError>,
}

impl Watch {
    /// The next event, as it comes.
    ///
    /// The first ones are the values that there are, as [`WatchKind::New`]. Where a node dies or gives its partitions away
    /// the watch goes on at another one, for however long that takes: it tells what differs from what it has told, never
    /// the same twice, and nothing that is older. Several changes of a key in short order may come as one; the latest
    /// always comes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] where the watch could not begin everywhere within the timeout, or the client was
    /// closed; [`ClientError::Refused`] without a grant to read; [`ClientError::Invalid`] for what is no key. The watch
    /// has ended then, and every further call gives the same.
    pub async fn next(&mut self) -> Result<WatchEvent, ClientError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let event = self.events.recv().await;
        let event = event.unwrap_or_else(|| {
            Err(ClientError::Unavailable(
                "watch: the client is closed".into(),
            ))
        });
        if let Err(error) = &event {
            self.ended = Some(error.clone());
        }
        event
    }
}

impl Client {
    /// Watches a key, or all keys that begin alike.
    ///
    /// ```no_run
    /// # async fn example(client: mesh_net::client::Client) -> Result<(), mesh_net::client::ClientError> {
    /// use mesh_net::client::{WatchKind, WatchTarget};
    ///
    /// let mut watch = client.watch(WatchTarget::Prefix("user:".into()));
    /// loop {
    ///     let event = watch.next().await?;
    ///     match event.kind {
    ///         WatchKind::New | WatchKind::Changed => println!("{:?} is {:?}", event.key, event.value),
    ///         WatchKind::Deleted => println!("{:?} is gone", event.key),
    ///         WatchKind::Moved => println!("{:?} is kept by {:?}", event.key, event.replicas),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// It remembers, for each key that matches, which writes it has seen: about 200 bytes a key.
    pub fn watch(&self, target: WatchTarget) -> Watch {
        let (sender, events) = mpsc::channel(READY_EVENTS_MAX);
        let (links, tasks) = (self.0.links.clone(), self.0.tasks.clone());
        let following = follow::follow(links, tasks.clone(), target, sender);
        tasks.spawn("watch", following);
        Watch {
            events,
            ended: None,
        }
    }
}
