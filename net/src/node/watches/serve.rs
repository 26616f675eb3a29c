//! One watch: everything that matches, then every change.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_engine::ReadError;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::limits::BINDING_KEY_BYTES_MAX;
use mesh_ring::map::ClusterMap;
use mesh_ring::name::BindingKey;
use tokio::sync::watch::Receiver;

use super::hub::{Subscription, Taken, Wanted};
use super::states::{FRAME_KEYS_MAX, Found, frames};
use crate::identity::{Access, Scope};
use crate::node::connection::Stream;
use crate::node::listeners::What;
use crate::node::requests::access::allow;
use crate::node::{Shared, reply};
use crate::tasks::blocking;
use crate::wire::TAIL_FRAME_BYTES;
use crate::wire::frame::{FrameError, FrameWriter};
use crate::wire::proto::{
    Error, Moved, SnapshotBegin, SnapshotEnd, WatchFrame, WatchOpen, watch_frame::Kind,
};

/// How long a node waits for the map by which it was chosen.
const MAP_WAIT: Duration = Duration::from_secs(2);

/// How long a watch goes on at a node that has lost the others. Its client tries those, and comes back if there is none.
const CUT_OFF_AFTER: Duration = Duration::from_secs(5);

/// Keys that are read at once without giving way to others, at most.
const AT_HAND_MAX: usize = 16;

/// Why a watch ended.
enum Cut {
    Refused(Error),
    /// The client is gone.
    Lost,
}

impl From<FrameError> for Cut {
    fn from(_: FrameError) -> Cut {
        Cut::Lost
    }
}

pub(in crate::node) async fn serve(shared: Arc<Shared>, mut stream: Stream, open: WatchOpen) {
    match run(&shared, &mut stream, open).await {
        Ok(never) => match never {},
        Err(Cut::Lost) => {}
        Err(Cut::Refused(error)) => {
            if send(&mut stream.writer, Kind::Error(error), [])
                .await
                .is_ok()
            {
                stream.writer.finish();
                stream.writer.delivered().await;
            }
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    stream: &mut Stream,
    open: WatchOpen,
) -> Result<Infallible, Cut> {
    let wanted = wanted(stream, &open).map_err(Cut::Refused)?;
    let mut map = shared.control.map();
    let catching_up = map.wait_for(|map| map.version() >= open.map_version);
    // A node that stays behind says what it knows.
    let _ = tokio::time::timeout(MAP_WAIT, catching_up).await;
    let now = Arc::clone(&map.borrow_and_update());
    let owners = covered(shared, &now, &wanted, &open).map_err(Cut::Refused)?;
    let covers: BTreeSet<PartitionId> = owners.keys().copied().collect();
    let _listening = shared.listeners.add(
        &stream.peer.name,
        shared.engine.now_ms(),
        What::Watch {
            wanted: wanted.clone(),
            partitions: covers.len(),
        },
    );
    let mut watch = Watch {
        shared,
        writer: &mut stream.writer,
        subscription: shared.watches.subscribe(wanted.clone(), covers.clone()),
        wanted,
        map,
        owners,
    };
    let cut_off = pin!(cut_off(shared, covers));
    watch.follow(cut_off).await
}

/// What the caller wants to watch, and may.
fn wanted(stream: &Stream, open: &WatchOpen) -> Result<Wanted, Error> {
    allow(&stream.peer, Access::Read, Scope::Key, &open.key)?;
    if !open.is_prefix {
        BindingKey::new(&open.key).map_err(reply::invalid)?;
        return Ok(Wanted::Key(open.key.clone()));
    }
    if open.key.len() > BINDING_KEY_BYTES_MAX {
        return Err(reply::invalid(format!(
            "a prefix of {} bytes: keys have no more than {BINDING_KEY_BYTES_MAX}",
            open.key.len()
        )));
    }
    Ok(Wanted::Prefix(open.key.clone()))
}

/// The partitions to watch, of each of which this node is a home, with all their homes.
fn covered(
    shared: &Shared,
    map: &ClusterMap,
    wanted: &Wanted,
    open: &WatchOpen,
) -> Result<BTreeMap<PartitionId, Vec<NodeId>>, Error> {
    let of_key = match wanted {
        Wanted::Key(key) => Some(map.partition(key)),
        Wanted::Prefix(_) => None,
    };
    let asked = open.partitions.iter();
    let asked: Result<BTreeSet<PartitionId>, _> = asked
        .map(|number| u16::try_from(*number).map(PartitionId))
        .collect();
    let asked = asked.map_err(reply::malformed)?;
    let partitions = match of_key {
        Some(partition) => [partition].into(),
        None if asked.is_empty() => map.assignments().map(|(id, _)| id).collect(),
        None => asked,
    };
    let mut covered = BTreeMap::new();
    for id in partitions {
        let owners = owners(map, id);
        if !owners.contains(&shared.me()) {
            return Err(shared.not_replica(id));
        }
        covered.insert(id, owners);
    }
    Ok(covered)
}

/// The homes of a partition, whatever their order.
fn owners(map: &ClusterMap, id: PartitionId) -> Vec<NodeId> {
    let mut owners = map
        .assignment(id)
        .map_or_else(Vec::new, |assignment| assignment.replicas.clone());
    owners.sort_unstable();
    owners
}

/// A watch that goes on.
struct Watch<'a> {
    shared: &'a Arc<Shared>,
    writer: &'a mut FrameWriter,
    wanted: Wanted,
    subscription: Subscription,
    map: Receiver<Arc<ClusterMap>>,
    /// What it covers, and whose it was when that was last looked at.
    owners: BTreeMap<PartitionId, Vec<NodeId>>,
}

impl Watch<'_> {
    async fn follow(
        &mut self,
        mut cut_off: std::pin::Pin<&mut impl Future<Output = PartitionId>>,
    ) -> Result<Infallible, Cut> {
        self.snapshot().await?;
        loop {
            if self.shared.tasks.is_stopping() {
                return Err(Cut::Refused(reply::stopping()));
            }
            match self.subscription.take(FRAME_KEYS_MAX) {
                Taken::Keys(keys) => {
                    let found = match held_at_hand(self.shared, &keys) {
                        Some(found) => found,
                        None => self.read(move |shared| held(shared, keys)).await?,
                    };
                    self.tell(found).await?;
                    continue;
                }
                Taken::Anything => {
                    self.snapshot().await?;
                    continue;
                }
                Taken::Nothing => {}
            }
            tokio::select! {
                () = self.subscription.changed() => {}
                Ok(()) = self.map.changed() => self.take_map().await?,
                id = &mut cut_off => return Err(Cut::Refused(self.shared.behind(id))),
                () = self.shared.tasks.stopping() => {}
                () = self.writer.delivered() => return Err(Cut::Lost),
            }
        }
    }

    /// Sends everything that there is. What changes from its beginning on is sent after it.
    async fn snapshot(&mut self) -> Result<(), Cut> {
        self.subscription.begin_anew();
        let map_version = self.shared.map().version();
        let begin = Kind::SnapshotBegin(SnapshotBegin { map_version });
        send(self.writer, begin, []).await?;
        match self.wanted.clone() {
            Wanted::Key(key) => {
                let mut found = self.read(move |shared| held(shared, vec![key])).await?;
                // Only a change says that there is nothing: before, this node may never have had it.
                found.retain(|(_, binding)| !binding.versions().is_empty());
                self.tell(found).await?;
            }
            Wanted::Prefix(prefix) => {
                let partitions: Vec<PartitionId> = self.owners.keys().copied().collect();
                for partition in partitions {
                    self.snapshot_of(partition, &prefix).await?;
                }
            }
        }
        // A partition that has left this node meanwhile was not read to its end: that is said first.
        self.take_map().await?;
        send(self.writer, Kind::SnapshotEnd(SnapshotEnd {}), []).await?;
        Ok(())
    }

    async fn snapshot_of(&mut self, partition: PartitionId, prefix: &Bytes) -> Result<(), Cut> {
        let mut after: Option<Bytes> = None;
        loop {
            if self.shared.tasks.is_stopping() {
                return Err(Cut::Refused(reply::stopping()));
            }
            let (prefix, from) = (prefix.clone(), after.take());
            let page = self
                .read(move |shared| {
                    let engine = &shared.engine;
                    engine.bindings_page(partition, &prefix, from.as_deref(), TAIL_FRAME_BYTES)
                })
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            self.tell(page).await?;
        }
    }

    async fn read(
        &self,
        read: impl FnOnce(&Shared) -> Result<Vec<Found>, ReadError> + Send + 'static,
    ) -> Result<Vec<Found>, Cut> {
        let shared = Arc::clone(self.shared);
        let found = blocking(move || read(&shared)).await;
        let found = found.ok_or_else(|| Cut::Refused(reply::internal()))?;
        found.map_err(|error| Cut::Refused(reply::of_read(&error)))
    }

    async fn tell(&mut self, found: Vec<Found>) -> Result<(), Cut> {
        let map = self.shared.map();
        for frame in frames(&map, self.shared.engine.now_ms(), found) {
            send(self.writer, Kind::States(frame.header), frame.body).await?;
        }
        Ok(())
    }

    /// Tells which partitions have other owners now, and lets go of those that are not this node's any more.
    async fn take_map(&mut self) -> Result<(), Cut> {
        let map = Arc::clone(&self.map.borrow_and_update());
        let (mut stay, mut left) = (Vec::new(), Vec::new());
        for (id, known) in &mut self.owners {
            let now = owners(&map, *id);
            if now == *known {
                continue;
            }
            match now.contains(&self.shared.me()) {
                true => stay.push(*id),
                false => left.push(*id),
            }
            *known = now;
        }
        if stay.is_empty() && left.is_empty() {
            return Ok(());
        }
        self.subscription.leave(&left);
        self.owners.retain(|id, _| !left.contains(id));
        let numbers = |ids: &[PartitionId]| ids.iter().map(|id| id.0.into()).collect();
        let moved = Moved {
            partitions: numbers(&stay),
            left: numbers(&left),
            map_version: map.version(),
        };
        send(self.writer, Kind::Moved(moved), []).await?;
        match left.first() {
            Some(id) if self.owners.is_empty() => Err(Cut::Refused(self.shared.not_replica(*id))),
            _ => Ok(()),
        }
    }
}

/// What this node holds under these keys.
fn held(shared: &Shared, keys: Vec<Bytes>) -> Result<Vec<Found>, ReadError> {
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        // What is no valid key cannot have been bound.
        let Ok(name) = BindingKey::new(&key) else {
            continue;
        };
        let binding = shared.engine.binding(&name)?.unwrap_or_default();
        found.push((key, binding));
    }
    Ok(found)
}

/// The same, where there are few and that takes no look at the disk.
fn held_at_hand(shared: &Shared, keys: &[Bytes]) -> Option<Vec<Found>> {
    if keys.len() > AT_HAND_MAX {
        return None;
    }
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let name = BindingKey::new(key).ok()?;
        let binding = shared.engine.binding_at_hand(&name)?.ok()?;
        found.push((key.clone(), binding.unwrap_or_default()));
    }
    Some(found)
}

/// Resolves when this node has lost so many others that a watch elsewhere may well learn more, with one of the partitions
/// of which that is so. A node that was in that state when the watch began was chosen although it was.
async fn cut_off(shared: &Shared, covers: BTreeSet<PartitionId>) -> PartitionId {
    let short = || {
        let mut covers = covers.iter().copied();
        covers.find(|id| shared.shortage(*id).is_some())
    };
    let mut lives = shared.lives.clone();
    let mut began_whole = short().is_none();
    loop {
        match short() {
            None => began_whole = true,
            Some(_) if began_whole => {
                tokio::time::sleep(CUT_OFF_AFTER).await;
                if let Some(id) = short() {
                    return id;
                }
            }
            Some(_) => {}
        }
        if lives.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn send(
    writer: &mut FrameWriter,
    kind: Kind,
    body: impl AsRef<[Bytes]>,
) -> Result<(), FrameError> {
    writer.frame(&WatchFrame { kind: Some(kind) }, body).await
}
