//! Who watches and tails what at this node, while they do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_ring::ids::Offset;
use prost::Message;

use super::Shared;
use super::watches::Wanted;
use crate::identity::{Access, Peer, Scope};
use crate::wire::proto::{
    self, ListenerList, ListenersAre, Tailing, Watching, listener, reply::Kind as Answer,
};

/// Most listeners that one answer names.
const LISTED_MAX: usize = 10_000;
/// Most bytes of one answer: keys may be long.
const LISTED_BYTES_MAX: usize = 2 << 20;

/// Every stream that waits for news.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    of: BTreeMap<u64, Listener>,
}

#[derive(Debug)]
struct Listener {
    client: String,
    /// By this node's clock, unix milliseconds.
    since_ms: u64,
    what: What,
}

/// What somebody listens to.
#[derive(Debug)]
pub(super) enum What {
    Watch {
        wanted: Wanted,
        /// How many it covers here.
        partitions: usize,
    },
    Tail {
        topic: String,
        /// The offset that comes next.
        next: Arc<AtomicU64>,
        follow: bool,
    },
}

/// Somebody listens until this is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    listeners: Arc<Listeners>,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.listeners.registry().of.remove(&self.number);
    }
}

impl Listeners {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(self: &Arc<Self>, client: &str, since_ms: u64, what: What) -> Listening {
        let mut registry = self.registry();
        let number = registry.next;
        registry.next += 1;
        let listener = Listener {
            client: client.to_owned(),
            since_ms,
            what,
        };
        registry.of.insert(number, listener);
        Listening {
            listeners: Arc::clone(self),
            number,
        }
    }

    /// A tail, and where it is to say how far it has come.
    pub(super) fn add_tail(
        self: &Arc<Self>,
        client: &str,
        since_ms: u64,
        (topic, follow): (&str, bool),
        next: Offset,
    ) -> (Listening, Arc<AtomicU64>) {
        let next = Arc::new(AtomicU64::new(next));
        let what = What::Tail {
            topic: topic.to_owned(),
            next: Arc::clone(&next),
            follow,
        };
        (self.add(client, since_ms, what), next)
    }

    /// Those who listen to what `peer` may read, the oldest first.
    fn list(&self, peer: &Peer) -> ListenerList {
        let registry = self.registry();
        let mut list = ListenerList::default();
        let mut bytes = 0;
        for listener in registry.of.values().filter(|one| one.is_for(peer)) {
            let described = listener.describe();
            bytes += described.encoded_len();
            if list.listeners.len() == LISTED_MAX || bytes > LISTED_BYTES_MAX {
                list.more = true;
                break;
            }
            list.listeners.push(described);
        }
        list
    }
}

impl Listener {
    fn is_for(&self, peer: &Peer) -> bool {
        let (scope, name) = match &self.what {
            What::Watch { wanted, .. } => (Scope::Key, &wanted.name()[..]),
            What::Tail { topic, .. } => (Scope::Topic, topic.as_bytes()),
        };
        peer.allows(Access::Read, scope, name)
    }

    fn describe(&self) -> proto::Listener {
        let what = match &self.what {
            What::Watch { wanted, partitions } => listener::What::Watching(Watching {
                key: wanted.name().clone(),
                is_prefix: matches!(wanted, Wanted::Prefix(_)),
                partitions: u32::try_from(*partitions).unwrap_or(u32::MAX),
            }),
            What::Tail {
                topic,
                next,
                follow,
            } => listener::What::Tailing(Tailing {
                topic: topic.clone(),
                next: next.load(Ordering::Relaxed),
                follow: *follow,
            }),
        };
        proto::Listener {
            client: self.client.clone(),
            since_ms: self.since_ms,
            what: Some(what),
        }
    }
}

/// Who listens here, as far as the caller may read what they listen to.
pub(super) fn answer(shared: &Shared, peer: &Peer) -> (Answer, Bytes) {
    let list = shared.listeners.list(peer);
    (
        Answer::Listeners(ListenersAre {}),
        list.encode_to_vec().into(),
    )
}
