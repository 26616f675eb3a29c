//! All nodes that a client knows, and what it knows about them.
//!
//! It begins with the contacts of its configuration, and learns the others from the cluster map, which it asks for when it
//! is needed and again when something went wrong: never by the clock.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex as SyncMutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    back_off::{Attempt, BackOff, first_to_succeed},
    config::ClientConfig,
    error::{ClientError, Lost},
    line::Line,
    link::Link,
    routes::Routes,
    sockets::Sockets,
    unary::{self, Outcome},
};
use crate::{
    identity::Fingerprint,
    tasks::TaskSet,
    wire::proto::{self, ErrorCode, Request, reply, request},
};

/// How long one node may take before the next is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);
/// The longest that one node may take to tell the map.
const MAP_TIMEOUT: Duration = Duration::from_secs(1);

/// The nodes, and the routes to them.
#[derive(Debug)]
pub(super) struct Links {
    contacts: Vec<Arc<str>>,
    pub(super) timeout: Duration,
    sockets: Arc<Sockets>,
    tasks: TaskSet,
    known: SyncMutex<HashMap<Arc<str>, Arc<Link>>>,
    routes: SyncMutex<Arc<Routes>>,
    /// When somebody last began to ask for the map and got an answer. Held while it is asked for.
    refreshed: Mutex<Option<Instant>>,
    /// So that not always the same node is asked first.
    turn: AtomicUsize,
}

impl Links {
    pub(super) fn new(config: &ClientConfig, tasks: TaskSet) -> Result<Self, ClientError> {
        if config.nodes.is_empty() {
            return Err(ClientError::Invalid("no node address is configured".into()));
        }
        Ok(Self {
            contacts: config
                .nodes
                .iter()
                .map(|node| node.as_str().into())
                .collect(),
            timeout: config.timeout,
            sockets: Arc::new(Sockets::new(config)?),
            tasks,
            known: SyncMutex::default(),
            routes: SyncMutex::new(Arc::new(Routes::Unknown)),
            refreshed: Mutex::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// What is known of the cluster.
    pub(super) fn routes(&self) -> Arc<Routes> {
        lock(&self.routes).clone()
    }

    /// The way to the node at `address`.
    pub(super) fn link(&self, address: &Arc<str>) -> Arc<Link> {
        lock(&self.known)
            .entry(address.clone())
            .or_insert_with(|| Link::new(address.clone(), self.sockets.clone(), self.tasks.clone()))
            .clone()
    }

    /// The contacts, those first that are connected.
    pub(super) fn contacts(&self) -> Vec<Arc<Link>> {
        self.by_connected(self.contacts.iter().cloned())
    }

    /// Every node: those first that are connected, `besides` last.
    pub(super) fn all(&self, besides: Option<&Arc<str>>) -> Vec<Arc<Link>> {
        let routes = self.routes();
        let mut nodes: Vec<Arc<str>> = routes.nodes().into_iter().cloned().collect();
        // Behind a gateway the nodes may not be where they think they are, but the contacts are.
        nodes.extend(self.contacts.iter().cloned());
        let mut links = self.by_connected(nodes.into_iter());
        links.sort_by_key(|link| besides == Some(link.address()));
        links
    }

    /// The links to these nodes, each once, those first that are connected.
    pub(super) fn by_connected(&self, nodes: impl Iterator<Item = Arc<str>>) -> Vec<Arc<Link>> {
        let mut links = self.each_once(nodes);
        links.sort_by_key(|link| link.living().is_none());
        links
    }

    /// Puts those last that have not answered lately. Where another is to be asked before them, they are dialled aside, so
    /// that they are known when they are back.
    pub(super) fn doubted_last(links: &mut [Arc<Link>]) {
        if !links.iter().any(|link| link.doubt().holds()) {
            return;
        }
        links.sort_by_cached_key(|link| link.doubt().holds());
        let in_doubt = |link: &&Arc<Link>| link.doubt().holds();
        if links.first().is_some_and(|first| !in_doubt(&first)) {
            links
                .iter()
                .filter(in_doubt)
                .for_each(|link| link.try_aside());
        }
    }

    /// The links to these nodes in their order, each once.
    pub(super) fn each_once(&self, nodes: impl Iterator<Item = Arc<str>>) -> Vec<Arc<Link>> {
        let mut links: Vec<Arc<Link>> = Vec::new();
        for address in nodes {
            if !links.iter().any(|link| *link.address() == address) {
                links.push(self.link(&address));
            }
        }
        links
    }

    /// A connection to the first of `links` that answers; the next is tried beside one that does not at once.
    ///
    /// # Errors
    /// The failure of the last; [`Lost::Refused`] as soon as a node will not have this client.
    pub(super) async fn first_line(
        &self,
        links: &[Arc<Link>],
        deadline: Instant,
    ) -> Result<Line, Lost> {
        let mut links = links.to_vec();
        Self::doubted_last(&mut links);
        let attempts: VecDeque<Attempt<'_, Result<Line, Lost>, Lost>> = links
            .iter()
            .map(|link| -> Attempt<'_, _, _> {
                Box::pin(async move {
                    match link.line(deadline).await {
                        Err(lost @ Lost::Connection(_)) => Err(lost),
                        end => Ok(end),
                    }
                })
            })
            .collect();
        match first_to_succeed(STAGGER, attempts).await {
            Ok(line) => line,
            Err(lost) => Err(lost.unwrap_or_else(|| Lost::Connection("no node is known".into()))),
        }
    }

    /// Connects to the first contact that answers; tries again and again until the timeout.
    pub(super) async fn connect(&self) -> Result<(), ClientError> {
        let deadline = Instant::now() + self.timeout;
        let mut back_off = BackOff::new();
        loop {
            let cause = match self.first_line(&self.contacts(), deadline).await {
                Ok(_) => return Ok(()),
                Err(Lost::Connection(cause)) => cause,
                Err(lost) => return Err(lost.into_error("cannot connect")),
            };
            if Instant::now() >= deadline {
                let nodes: Vec<&str> = self.contacts.iter().map(AsRef::as_ref).collect();
                return Err(ClientError::Unavailable(format!(
                    "no connection to {} within the timeout: {cause}",
                    nodes.join(", ")
                )));
            }
            back_off.pause(deadline).await;
        }
    }

    /// Asks for the map where nobody has yet.
    ///
    /// # Errors
    /// As for [`Links::refresh`].
    pub(super) async fn learn(&self, deadline: Instant) -> Result<(), ClientError> {
        if *self.routes() != Routes::Unknown {
            return Ok(());
        }
        self.refresh(None, None, deadline).await
    }

    /// Asks for the map, `besides` last, unless it was asked for after `since`. Whoever asks at the same time shares the
    /// answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] where the nodes will not have this client; [`ClientError::Unavailable`] where none
    /// answers within a second or by `deadline`. What was known is still known then.
    pub(super) async fn refresh(
        &self,
        besides: Option<&Arc<str>>,
        since: Option<Instant>,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let late = || ClientError::Unavailable("no node tells the cluster map".into());
        let mut refreshed = timeout_at(deadline, self.refreshed.lock())
            .await
            .map_err(|_| late())?;
        let is_new = |at: Instant| since.is_none_or(|since| at >= since);
        if refreshed.is_some_and(is_new) && *self.routes() != Routes::Unknown {
            return Ok(());
        }
        let began = Instant::now();
        let deadline = deadline.min(began + MAP_TIMEOUT);
        let mut links = self.all(besides);
        let others = links
            .iter()
            .take_while(|link| link.living().is_some() && besides != Some(link.address()));
        let others = others.count();
        if since.is_some() && others > 1 {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            links[..others].rotate_left(turn % others);
        }
        Self::doubted_last(&mut links);
        let attempts: VecDeque<Attempt<'_, Result<(), ClientError>, Lost>> = links
            .iter()
            .map(|link| -> Attempt<'_, _, _> { Box::pin(self.ask_map(link, deadline)) })
            .collect();
        match timeout_at(deadline, first_to_succeed(STAGGER, attempts)).await {
            Ok(Ok(known)) => {
                known?;
                *refreshed = Some(began);
                Ok(())
            }
            Ok(Err(lost)) => Err(lost.map_or_else(late, |lost| lost.into_error("cluster map"))),
            Err(_) => Err(late()),
        }
    }

    /// Asks one node. `Err`: another one may know more.
    async fn ask_map(
        &self,
        link: &Arc<Link>,
        deadline: Instant,
    ) -> Result<Result<(), ClientError>, Lost> {
        let routes = self.routes();
        let known = if routes.is_whole() {
            routes.version()
        } else {
            0
        };
        let asked = Request::new(request::Kind::Map(proto::GetMap {
            known,
            exact: false,
        }));
        let line = match link.line(deadline).await {
            Ok(line) => line,
            Err(lost @ Lost::Connection(_)) => return Err(lost),
            Err(lost) => return Ok(Err(lost.into_error("cluster map"))),
        };
        let _waiting = line.ask();
        let outcome = unary::attempt(line.connection(), &asked, Bytes::new()).await;
        match outcome {
            Outcome::Answered(answer) => match answer.replies.into_iter().next() {
                Some((reply::Kind::Map(_), body)) => Ok(self.take_in(&body, link.address())),
                _ => Ok(Err(ClientError::protocol("another kind of answer"))),
            },
            Outcome::Refused(error)
                if matches!(error.code(), ErrorCode::Stopping | ErrorCode::Stopped) =>
            {
                Err(Lost::Connection(error.message))
            }
            // It has no map to tell, and is all that there is as far as it knows.
            Outcome::Refused(_) => {
                let mut routes = lock(&self.routes);
                if routes.has_others() {
                    return Err(Lost::Connection(format!(
                        "{} has no cluster map",
                        link.address()
                    )));
                }
                *routes = Arc::new(Routes::One {
                    address: link.address().clone(),
                    version: 0,
                });
                Ok(Ok(()))
            }
            Outcome::Lost(lost @ Lost::Connection(_)) => Err(lost),
            Outcome::Lost(lost) => Ok(Err(lost.into_error("cluster map"))),
        }
    }

    fn take_in(&self, body: &Bytes, from: &Arc<str>) -> Result<(), ClientError> {
        if body.is_empty() {
            return self.confirm(from);
        }
        let map = proto::ClusterMap::decode(body.clone())
            .map_err(|_| ClientError::protocol("an ill-formed map"))?;
        let new = Routes::of_map(&map, from)?;
        let revoked = map.revoked.iter().filter_map(|bytes| {
            let digest = <[u8; 32]>::try_from(&bytes[..]).ok()?;
            Some(Fingerprint(digest))
        });
        {
            let mut routes = lock(&self.routes);
            if new.version() < routes.version() {
                return Ok(());
            }
            *routes = Arc::new(new);
        }
        self.sockets.identity.revoked().set_cluster(revoked);
        self.drop_unknown();
        Ok(())
    }

    /// The map is as new as what is known. A lone node may have answered at another of its addresses.
    fn confirm(&self, from: &Arc<str>) -> Result<(), ClientError> {
        let mut routes = lock(&self.routes);
        if let Routes::One { address, version } = &**routes
            && address != from
        {
            *routes = Arc::new(Routes::One {
                address: from.clone(),
                version: *version,
            });
        }
        Ok(())
    }

    /// Lets go of nodes that neither the map nor the configuration names. Who still uses one keeps it.
    fn drop_unknown(&self) {
        let routes = self.routes();
        let nodes = routes.nodes();
        lock(&self.known)
            .retain(|address, _| nodes.contains(&address) || self.contacts.contains(address));
    }

    /// Closes all connections; nothing is dialled any more.
    pub(super) async fn close(&self) {
        self.sockets.close().await;
    }
}

fn lock<T>(mutex: &SyncMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
