//! The group's log: in memory as a whole, because it is short, and durable in the engine's rows.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_engine::{Engine, ReadRows, RowChange, Stopped};
use mesh_ring::control::ControlCommand;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};

use super::raft::{Change, Entry, Group, LogId, StorageError, Vote};
use super::rows::{self, RowError};

/// Bytes of entries in one message, unless a single entry is larger.
pub(super) const APPEND_BYTES_MAX: usize = 512 << 10;

/// How far terms leap where votes and entries may be forgotten: further than any disk can lose at its end.
pub(super) const TERMS_LEAP: u64 = 1 << 20;

/// The log. Clones are the same log.
#[derive(Clone)]
pub(super) struct Log {
    engine: Arc<Engine>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// With its size as a row, in bytes.
    entries: BTreeMap<u64, (Entry, usize)>,
}

impl Log {
    /// Reads everything; waits for the disk.
    pub(super) fn load(engine: Arc<Engine>) -> Result<Log, RowError> {
        let kept = Arc::new(Mutex::new(Kept::read(&engine)?));
        Ok(Log { engine, kept })
    }

    /// The last entry that this node has.
    pub(super) fn last(&self) -> Option<LogId> {
        self.kept().last()
    }

    /// The highest term that this node has voted in, or has an entry of.
    pub(super) fn term(&self) -> u64 {
        let kept = self.kept();
        let voted = kept.vote.map_or(0, |vote| vote.leader_id().term);
        let written = kept.last().map_or(0, |last| last.leader_id.term);
        voted.max(written)
    }

    /// Whether the voters had to go on without being sure of what they knew, up to a leader of `term`, and no entry says
    /// so yet: terms leap then.
    pub(super) fn lacks_salvage(&self, term: u64) -> bool {
        let kept = self.kept();
        let mut before = kept.purged.map_or(0, |purged| purged.leader_id.term);
        let mut lacks = false;
        for (entry, _) in kept.entries.values() {
            let of = entry.log_id.leader_id.term;
            lacks = (lacks || of >= before + TERMS_LEAP) && !is_salvage(entry);
            before = of;
        }
        lacks || term >= before + TERMS_LEAP
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_salvage(entry: &Entry) -> bool {
    let EntryPayload::Normal(Change::Command(command)) = &entry.payload else {
        return false;
    };
    matches!(command, ControlCommand::Salvaged { .. })
}

/// The entries that are known to be committed, in order, as far as they are kept.
pub(super) fn read_committed(rows: &impl ReadRows) -> Result<Vec<Entry>, RowError> {
    let kept = Kept::read(rows)?;
    let committed = kept.committed.map_or(0, |id| id.index + 1);
    let entries = kept.entries.into_values().map(|(entry, _)| entry);
    Ok(entries
        .take_while(|entry| entry.log_id.index < committed)
        .collect())
}

impl Kept {
    fn read(from: &impl ReadRows) -> Result<Kept, RowError> {
        let purged: Option<LogId> = rows::read(from, rows::PURGED)?;
        let mut kept = Kept {
            vote: rows::read(from, rows::VOTE)?,
            // Written as an option.
            committed: rows::read::<Option<LogId>>(from, rows::COMMITTED)?.flatten(),
            purged,
            entries: BTreeMap::new(),
        };
        let expected = purged.map_or(0, |id| id.index + 1)..;
        for (expected, (entry, bytes)) in expected.zip(rows::read_entries::<Entry>(from)?) {
            let index = entry.log_id.index;
            if index != expected {
                return Err(RowError::Damaged {
                    key: rows::entry_key(expected),
                    detail: format!("the entry behind it is {index}"),
                });
            }
            kept.entries.insert(index, (entry, bytes));
        }
        Ok(kept)
    }

    fn last(&self) -> Option<LogId> {
        let last = self.entries.last_key_value();
        last.map(|(_, (entry, _))| entry.log_id).or(self.purged)
    }
}

impl RaftLogReader<Group> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let kept = self.kept();
        let entries = kept.entries.range(range);
        Ok(entries.map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let kept = self.kept();
        let (mut next, mut sum) = (start, 0);
        // Nothing, rather than entries that do not begin where they were asked for.
        let entries = kept
            .entries
            .range(start..end)
            .take_while(|(index, (_, bytes))| {
                let follows = **index == next;
                (next, sum) = (next + 1, sum + bytes);
                follows && (**index == start || sum <= APPEND_BYTES_MAX)
            });
        Ok(entries.map(|(_, (entry, _))| entry.clone()).collect())
    }
}

impl RaftLogStorage<Group> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Group>, StorageError> {
        let kept = self.kept();
        Ok(LogState {
            last_purged_log_id: kept.purged,
            last_log_id: kept.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let value =
            rows::encode(vote).map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        self.kept().vote = Some(*vote);
        let put = RowChange::Put {
            key: rows::VOTE.to_vec(),
            value,
        };
        rows::write(&self.engine, vec![put])
            .await
            .map_err(|stopped| StorageIOError::write_vote(AnyError::new(&stopped)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.kept().vote)
    }

    /// Durable with some later write: without it, a restart only learns later how far it may apply.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let value = rows::encode(&committed).map_err(write_failed)?;
        self.kept().committed = committed;
        let put = RowChange::Put {
            key: rows::COMMITTED.to_vec(),
            value,
        };
        drop(rows::submit(&self.engine, vec![put]));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.kept().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Group>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        let mut fresh = Vec::new();
        for entry in entries {
            let value = rows::encode(&entry).map_err(write_failed)?;
            fresh.push((entry.log_id.index, (entry, value.len())));
            changes.push(RowChange::Put {
                key: rows::entry_key(fresh.last().map_or(0, |(index, _)| *index)),
                value,
            });
        }
        self.kept().entries.extend(fresh);
        self.engine.submit_rows(changes, move |outcome| {
            callback
                .log_io_completed(outcome.map_err(|stopped: Stopped| io::Error::other(stopped)));
        });
        Ok(())
    }

    async fn truncate(&mut self, from: LogId) -> Result<(), StorageError> {
        self.kept().entries.split_off(&from.index);
        let range = RowChange::DeleteRange {
            from: rows::entry_key(from.index),
            to: rows::entries_end(),
        };
        rows::write(&self.engine, vec![range])
            .await
            .map_err(write_failed)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let value = rows::encode(&upto).map_err(write_failed)?;
        {
            let mut kept = self.kept();
            kept.entries = kept.entries.split_off(&(upto.index + 1));
            kept.purged = Some(upto);
        }
        let put = RowChange::Put {
            key: rows::PURGED.to_vec(),
            value,
        };
        let range = RowChange::DeleteRange {
            from: rows::entry_key(0),
            to: rows::entry_key(upto.index + 1),
        };
        rows::write(&self.engine, vec![put, range])
            .await
            .map_err(write_failed)
    }
}

fn write_failed(error: impl std::error::Error + 'static) -> StorageError {
    StorageIOError::write_logs(AnyError::new(&error)).into()
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::NodeId;
    use openraft::CommittedLeaderId;

    use super::super::raft::RaftId;
    use super::super::suite;
    use super::*;

    const NODE: NodeId = NodeId([2; 16]);

    fn entry(term: u64, index: u64, payload: EntryPayload<Group>) -> Entry {
        let leader = CommittedLeaderId::new(term, RaftId(NODE));
        Entry {
            log_id: LogId::new(leader, index),
            payload,
        }
    }

    #[test]
    fn a_leap_of_terms_is_answered_by_one_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = suite::load(&suite::engine(&dir));
        let add = |term, index, payload| {
            let entry = entry(term, index, payload);
            log.kept().entries.insert(index, (entry, 1));
        };
        let salvaged = || {
            let command = ControlCommand::Salvaged { node: NODE };
            EntryPayload::Normal(Change::Command(command))
        };
        add(1, 0, EntryPayload::Blank);
        add(3, 1, EntryPayload::Blank);
        assert!(!log.lacks_salvage(4));
        assert!(
            !log.lacks_salvage(3 + TERMS_LEAP - 1),
            "elections one by one"
        );
        assert!(log.lacks_salvage(3 + TERMS_LEAP));

        // The leader that leapt died before it could say so: the next one has to.
        let leapt = 4 + TERMS_LEAP;
        add(leapt, 2, EntryPayload::Blank);
        assert!(log.lacks_salvage(leapt) && log.lacks_salvage(leapt + 1));
        add(leapt + 1, 3, salvaged());
        assert!(!log.lacks_salvage(leapt + 1));
        assert!(!log.lacks_salvage(leapt + 2));
        assert!(log.lacks_salvage(leapt + 2 + TERMS_LEAP), "once more");

        // What is purged is known by its last entry.
        log.kept().entries.clear();
        log.kept().purged = Some(entry(leapt + 1, 3, EntryPayload::Blank).log_id);
        assert!(!log.lacks_salvage(leapt + 2));
        assert!(log.lacks_salvage(leapt + 2 + TERMS_LEAP));
    }
}
