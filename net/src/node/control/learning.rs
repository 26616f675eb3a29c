//! A map that another node goes by already, and this one has not heard of from the group.
//!
//! Every member applies what is committed, some sooner than others. Where the group has lost its majority in between,
//! those who were told last are never told: so they ask a node that speaks of a newer map for it. What that has applied is
//! committed. It is taken over beside the group, which goes on as if nothing had been: its log catches up when it can, and
//! the next start goes by what the log knows. So nothing is done by such a map that an older one would not forgive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_ring::ids::NodeId;
use tokio::time::{timeout, timeout_at};

use super::network::ask;
use super::rows::SnapshotRow;
use super::rpc::Request;
use super::{Control, Shared};

/// How long a change is waited for that the group is telling everybody at this moment.
const USUAL_WAIT: Duration = Duration::from_millis(30);

/// How long the node that is asked may take, and whoever waits for its turn to ask.
const LEARN_TIMEOUT: Duration = Duration::from_secs(1);

/// When each node was asked last; whoever asks holds the lock.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<NodeId, Turn>>);

type Turn = Arc<tokio::sync::Mutex<Option<Instant>>>;

impl Turns {
    fn of(&self, node: NodeId) -> Turn {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(node).or_default())
    }
}

impl Control {
    /// Waits until this node goes by this version of the map or a newer one; where it does not hear of it by itself, `from`, a
    /// node of the map that speaks of it, is asked for it. A node is asked by one at a time. `false`: not within
    /// about a second.
    pub async fn reach(&self, version: u64, from: NodeId) -> bool {
        let mut map = self.map();
        let heard = timeout(USUAL_WAIT, map.wait_for(|shown| shown.version() >= version));
        if heard.await.is_ok_and(|heard| heard.is_ok()) {
            return true;
        }
        if let Err(detail) = self.shared.learn_map(version, from).await {
            tracing::debug!(%from, version, detail, "not given a newer map");
        }
        self.shared.version() >= version
    }

    /// Whether the map by which this node goes is one that its next start goes by too, or a newer one. Not while it has the map
    /// from another node alone: what an older map gives to this node must not be dropped by that.
    #[must_use]
    pub fn has_map_in_log(&self) -> bool {
        !self.shared.machine.is_told_more()
    }
}

impl Shared {
    fn version(&self) -> u64 {
        self.map.borrow().version()
    }

    async fn learn_map(&self, version: u64, from: NodeId) -> Result<(), String> {
        // Nobody else is asked, and of the others nothing is remembered.
        if !self.members().contains(&from) {
            return Err("it is not in the map".into());
        }
        let came = Instant::now();
        let deadline = tokio::time::Instant::now() + LEARN_TIMEOUT;
        let turn = self.learning.of(from);
        let turn = timeout_at(deadline, turn.lock()).await;
        let mut last_asked = turn.map_err(|_| "others wait for it to answer")?;
        if self.version() >= version {
            return Ok(());
        }
        if last_asked.is_some_and(|at| at > came) {
            return Err("it was asked a moment ago".into());
        }
        *last_asked = Some(Instant::now());
        let asked = ask(&*self.carrier, from, Request::State);
        let row: SnapshotRow = timeout_at(deadline, asked)
            .await
            .map_err(|_| "it does not answer")?
            .map_err(|error| error.to_string())?;
        self.check_learned(&row)?;
        let applied = row.meta.last_log_id;
        if self.machine.learn(row) {
            let map_version = self.version();
            tracing::info!(%from, map_version, ?applied, "took a newer cluster map over from a node that goes by it");
        }
        Ok(())
    }

    fn check_learned(&self, row: &SnapshotRow) -> Result<(), String> {
        let theirs = row.map.as_ref().ok_or("it has no map")?;
        let mine = self.map.borrow();
        let fits = theirs.cluster() == mine.cluster()
            && theirs.partitions().len() == mine.partitions().len();
        match fits {
            true => Ok(()),
            false => Err("its map is another cluster's".into()),
        }
    }
}
