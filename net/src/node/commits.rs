//! Who waits for a topic to grow: the way from the engine's writer to the tails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_ring::ids::{Offset, TopicKey};
use tokio::sync::watch;

/// Topics that someone waits for. A topic that nobody tails costs nothing here.
#[derive(Debug, Default)]
pub(super) struct Commits {
    watched: Mutex<HashMap<TopicKey, watch::Sender<Offset>>>,
}

/// A wait for one topic. To be taken before the read whose emptiness leads to the wait, so that no commit is missed.
#[derive(Debug)]
pub(super) struct Watch {
    commits: Arc<Commits>,
    topic: TopicKey,
    changes: watch::Receiver<Offset>,
}

impl Commits {
    fn lock(&self) -> MutexGuard<'_, HashMap<TopicKey, watch::Sender<Offset>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait for these topics. Called on the engine's writer; never blocks for long.
    pub(super) fn committed(&self, topics: &[(TopicKey, Offset)]) {
        let watched = self.lock();
        if watched.is_empty() {
            return;
        }
        for (topic, next) in topics {
            if let Some(sender) = watched.get(topic) {
                sender.send_replace(*next);
            }
        }
    }

    /// Begins to wait for `topic`.
    pub(super) fn watch(self: &Arc<Self>, topic: TopicKey) -> Watch {
        let changes = self
            .lock()
            .entry(topic)
            .or_insert_with(|| watch::channel(0).0)
            .subscribe();
        Watch {
            commits: Arc::clone(self),
            topic,
            changes,
        }
    }
}

impl Watch {
    /// Resolves when something was committed since the last call, or since the watch began.
    pub(super) async fn changed(&mut self) {
        // The sender stays in the registry for as long as this receiver lives.
        let _ = self.changes.changed().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.commits.lock();
        // This receiver is still counted.
        if watched
            .get(&self.topic)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            watched.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_ring::ids::{PartitionId, TopicId};

    const TOPIC: TopicKey = TopicKey {
        partition: PartitionId(1),
        id: TopicId(2),
    };

    #[tokio::test]
    async fn a_commit_between_the_watch_and_the_wait_is_not_missed() {
        let commits = Arc::new(Commits::default());
        let mut watch = commits.watch(TOPIC);
        commits.committed(&[(TOPIC, 5)]);
        watch.changed().await;
    }

    #[test]
    fn nothing_is_left_when_nobody_waits() {
        let commits = Arc::new(Commits::default());
        let (a, b) = (commits.watch(TOPIC), commits.watch(TOPIC));
        drop(a);
        assert_eq!(commits.lock().len(), 1);
        drop(b);
        assert!(commits.lock().is_empty());
    }
}
