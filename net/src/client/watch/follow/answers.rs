//! What a watch asks beside its streams, and what the answers come to.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_ring::ids::PartitionId;
use tokio::time::Instant;

use super::{Follower, INQUIRIES_MAX, Over, now_ms};
use crate::client::ClientError;
use crate::client::watch::cover::WatchMap;
use crate::client::watch::inquiry::{self, Found};
use crate::client::watch::{WatchEvent, WatchKind, WatchTarget};

impl Follower {
    /// Asks for the map, unless an answer is awaited.
    pub(super) fn ask_map(&mut self) {
        if self.map_asked.is_some() {
            return;
        }
        self.map_asked = Some(Instant::now());
        let (links, found) = (self.links.clone(), self.found.clone());
        let asking = inquiry::map(links, self.map_wanted, found);
        self.tasks.spawn("watch map", asking);
    }

    pub(super) fn want_map(&mut self, version: u64) {
        self.map_wanted = self.map_wanted.max(version);
        if self
            .map
            .as_ref()
            .is_some_and(|map| map.version < self.map_wanted)
        {
            self.ask_map();
        }
    }

    /// Asks a majority about keys of which one node says that there is nothing.
    pub(super) fn inquire(&mut self) {
        while self.asked.len() < INQUIRIES_MAX
            && let Some(key) = self.doubtful.pop_first()
        {
            self.asked.insert(key.clone());
            let asking = inquiry::key(self.links.clone(), key, self.found.clone());
            self.tasks.spawn("watch inquiry", asking);
        }
    }

    pub(super) async fn find(&mut self, found: Found) -> Result<(), Over> {
        match found {
            Found::Map(Ok(map)) => {
                self.map_asked = None;
                self.take_map(map).await?;
                self.want_map(0);
                Ok(())
            }
            Found::Map(Err(error)) => {
                self.map_asked = None;
                if !matches!(error, ClientError::Unavailable(_)) {
                    return self.fail(error).await;
                }
                self.trouble.get_or_insert(error);
                if self.map.is_none() {
                    self.ask_map();
                }
                Ok(())
            }
            // A newer word on it has come meanwhile, where it is not asked for any more.
            Found::Key(key, _) if !self.asked.remove(&key) => Ok(()),
            Found::Key(key, Some(false)) => match self.seen.is_gone(&key) {
                Some(event) => self.tell(event).await,
                None => Ok(()),
            },
            Found::Key(_, Some(true)) => Ok(()),
            Found::Key(key, None) => {
                self.doubtful.insert(key);
                Ok(())
            }
        }
    }

    /// Takes in a map, and tells of what has other owners than before.
    pub(super) async fn take_map(&mut self, map: WatchMap) -> Result<(), Over> {
        let Some(before) = self.map.replace(map.clone()) else {
            self.uncovered = map.partitions_of(&self.target);
            return Ok(());
        };
        if map.version <= before.version {
            self.map = Some(before);
            return Ok(());
        }
        let moved = |id: &PartitionId| sorted(map.owners(*id)) != sorted(before.owners(*id));
        let partitions = map.partitions_of(&self.target);
        let moved: BTreeSet<PartitionId> = partitions.into_iter().filter(moved).collect();
        if moved.is_empty() {
            return Ok(());
        }
        let keys: Vec<Bytes> = match &self.target {
            WatchTarget::Key(key) => vec![key.clone()],
            WatchTarget::Prefix(_) => {
                let live = self.seen.live_keys();
                let moved = live.filter(|key| moved.contains(&map.partition(key)));
                moved.cloned().collect()
            }
        };
        for key in keys {
            let replicas = map.owners(map.partition(&key));
            self.tell(WatchEvent {
                kind: WatchKind::Moved,
                key,
                value: None,
                siblings: 0,
                node: replicas.first().cloned(),
                time_ms: Some(now_ms()),
                replicas,
            })
            .await?;
        }
        Ok(())
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}
