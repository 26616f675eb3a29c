//! What the group's entries make: the cluster map.
//!
//! Entries are applied in memory and published at once; durable are the log, how far it is committed, and a snapshot every
//! few hundred entries. A restart applies what is committed behind its snapshot again.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_engine::{Engine, ReadRows, RowChange};
use mesh_ring::control;
use mesh_ring::map::ClusterMap;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use tokio::sync::watch;

use super::log;
use super::raft::{Answer, Change, Entry, Group, LogId, Membership, SnapshotMeta, StorageError};
use super::rows::{self, RowError, SnapshotRow};

/// The state machine. Clones are the same machine.
#[derive(Clone)]
pub(super) struct Machine {
    engine: Arc<Engine>,
    state: Arc<Mutex<State>>,
    published: watch::Sender<Arc<ClusterMap>>,
}

#[derive(Default)]
struct State {
    applied: Option<LogId>,
    membership: Membership,
    map: Option<Arc<ClusterMap>>,
    snapshot: Option<Stored>,
    /// What another member has applied beyond that, as long as it is beyond that.
    learned: Option<SnapshotRow>,
}

/// The newest snapshot, as it lies in its row and as it is sent.
#[derive(Clone)]
struct Stored {
    meta: SnapshotMeta,
    bytes: Arc<Vec<u8>>,
}

impl Machine {
    /// Goes on from the stored snapshot. Maps go to `published` while they are newer than the one that is there.
    ///
    /// # Errors
    /// The snapshot cannot be read.
    pub(super) fn load(
        engine: Arc<Engine>,
        published: watch::Sender<Arc<ClusterMap>>,
    ) -> Result<Machine, RowError> {
        let state = Arc::new(Mutex::new(State::read(&engine)?));
        let machine = Machine {
            engine,
            state,
            published,
        };
        machine.publish();
        Ok(machine)
    }

    /// The map as far as it is applied; `None` until the entry that founds it.
    pub(super) fn map(&self) -> Option<Arc<ClusterMap>> {
        self.state().map.clone()
    }

    /// The last entry that is applied.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.state().applied
    }

    /// The last entry that is known to be applied, be it by another member.
    pub(super) fn known(&self) -> Option<LogId> {
        self.state().known()
    }

    /// Whether another member has applied more than this one, of which the log knows nothing.
    pub(super) fn is_told_more(&self) -> bool {
        self.state().learned.is_some()
    }

    /// All that is known to be applied, be it by another member.
    pub(super) fn all_known(&self) -> SnapshotRow {
        let learned = self.state().learned.clone();
        learned.unwrap_or_else(|| self.current())
    }

    /// Takes note of what another member has applied, and publishes the map that it has made of that. It is in memory only:
    /// the log knows nothing of it. Returns whether it is news.
    pub(super) fn learn(&self, row: SnapshotRow) -> bool {
        {
            let mut state = self.state();
            if row.map.is_none() || row.meta.last_log_id <= state.known() {
                return false;
            }
            state.learned = Some(row);
        }
        self.publish();
        true
    }

    /// All that is applied, as a snapshot.
    pub(super) fn current(&self) -> SnapshotRow {
        let state = self.state();
        SnapshotRow {
            meta: SnapshotMeta {
                last_log_id: state.applied,
                last_membership: state.membership.clone(),
                snapshot_id: state.applied.map_or("empty".into(), |id| id.to_string()),
            },
            map: state.map.as_deref().cloned(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self) {
        let Some(map) = self.state().newest() else {
            return;
        };
        self.published.send_if_modified(|shown| {
            let newer = map.version() > shown.version();
            if newer {
                *shown = map;
            }
            newer
        });
    }
}

/// The map as far as this node knows it to be committed; waits for the disk.
pub(super) fn read_map(rows: &impl ReadRows) -> Result<Option<ClusterMap>, RowError> {
    let mut state = State::read(rows)?;
    for entry in log::read_committed(rows)? {
        if Some(entry.log_id) > state.applied {
            state.apply(entry);
        }
    }
    Ok(state.map.map(Arc::unwrap_or_clone))
}

impl State {
    fn read(rows: &impl ReadRows) -> Result<State, RowError> {
        let mut state = State::default();
        if let Some(bytes) = rows.row(rows::SNAPSHOT)? {
            let row: SnapshotRow = rows::decode(rows::SNAPSHOT, &bytes)?;
            state.take(row, bytes.to_vec());
        }
        Ok(state)
    }

    fn known(&self) -> Option<LogId> {
        let learned = self.learned.as_ref();
        self.applied
            .max(learned.and_then(|row| row.meta.last_log_id))
    }

    fn newest(&self) -> Option<Arc<ClusterMap>> {
        let learned = self.learned.as_ref();
        let learned = learned.and_then(|row| row.map.clone()).map(Arc::new);
        learned.or_else(|| self.map.clone())
    }

    fn note_applied(&mut self, applied: Option<LogId>) {
        self.applied = applied;
        self.learned.take_if(|row| row.meta.last_log_id <= applied);
    }

    fn take(&mut self, row: SnapshotRow, bytes: Vec<u8>) {
        self.note_applied(row.meta.last_log_id);
        self.membership = row.meta.last_membership.clone();
        self.map = row.map.map(Arc::new);
        self.snapshot = Some(Stored {
            meta: row.meta,
            bytes: Arc::new(bytes),
        });
    }

    fn apply(&mut self, entry: Entry) -> Answer {
        self.note_applied(Some(entry.log_id));
        match entry.payload {
            EntryPayload::Blank => Answer::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                Answer::Nothing
            }
            EntryPayload::Normal(Change::Found(map)) => {
                self.map.get_or_insert_with(|| Arc::new(*map));
                Answer::Nothing
            }
            EntryPayload::Normal(Change::Command(command)) => {
                let Some(map) = &self.map else {
                    return Answer::NotFounded;
                };
                let mut next = ClusterMap::clone(map);
                match control::apply(&mut next, &command) {
                    Ok(outcome) => {
                        self.map = Some(Arc::new(next));
                        Answer::Done(outcome)
                    }
                    Err(error) => Answer::Refused(error),
                }
            }
        }
    }
}

impl Stored {
    fn open(self) -> Snapshot<Group> {
        Snapshot {
            meta: self.meta,
            snapshot: Box::new(Cursor::new(self.bytes.to_vec())),
        }
    }
}

impl RaftStateMachine<Group> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        let state = self.state();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let answers = {
            let mut state = self.state();
            entries
                .into_iter()
                .map(|entry| state.apply(entry))
                .collect()
        };
        self.publish();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed =
            |error: AnyError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let bytes = snapshot.into_inner();
        let row: SnapshotRow =
            rows::decode(rows::SNAPSHOT, &bytes).map_err(|error| failed(AnyError::new(&error)))?;
        let written = {
            let mut state = self.state();
            state.take(row, bytes.clone());
            rows::submit(&self.engine, put_snapshot(bytes))
        };
        written
            .await
            .map_err(|error| failed(AnyError::new(&error)))?;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Group>>, StorageError> {
        Ok(self.state().snapshot.clone().map(Stored::open))
    }
}

impl RaftSnapshotBuilder<Group> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Group>, StorageError> {
        let failed = |error: AnyError| StorageIOError::write_snapshot(None, error);
        let row = self.current();
        let bytes = rows::encode(&row).map_err(|error| failed(AnyError::new(&error)))?;
        let stored = Stored {
            meta: row.meta,
            bytes: Arc::new(bytes),
        };
        let written = {
            let mut state = self.state();
            // One that was installed meanwhile covers more, and must not be written over.
            let newest = state.snapshot.as_ref();
            if newest.is_some_and(|newest| newest.meta.last_log_id > stored.meta.last_log_id) {
                return Ok(stored.open());
            }
            state.snapshot = Some(stored.clone());
            rows::submit(&self.engine, put_snapshot(stored.bytes.to_vec()))
        };
        written
            .await
            .map_err(|error| failed(AnyError::new(&error)))?;
        Ok(stored.open())
    }
}

fn put_snapshot(value: Vec<u8>) -> Vec<RowChange> {
    vec![RowChange::Put {
        key: rows::SNAPSHOT.to_vec(),
        value,
    }]
}
