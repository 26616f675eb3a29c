//! What changed of leaves before a crash, and was not folded.

use std::sync::Mutex;

use super::row::{Entry, entries};
use super::{Leaves, Partition, State, rebuild};
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::undecodable;
use crate::store::Store;

impl Leaves {
    /// Those of a store that nothing writes to yet. Makes sums and index anew where what is stored of them cannot be gone on
    /// with, or where `is_cut`: the store has lost the end of its log, which pages and index may be ahead of.
    ///
    /// # Errors
    /// The store cannot be read, or written.
    pub(crate) fn load(store: &Store, partitions: u16, is_cut: bool) -> Result<Leaves, ReadError> {
        let replayed = match is_cut || rebuild::is_of_old_layout(store, partitions) {
            true => None,
            false => match State::replay(store) {
                Err(ReadError::Damaged(damage)) => {
                    tracing::error!(%damage, "what changed of Merkle leaves before a crash cannot be read");
                    None
                }
                replayed => Some(replayed?),
            },
        };
        let state = match replayed {
            Some(state) => state,
            None => {
                tracing::warn!("Merkle leaves and their index are made anew from the bindings");
                rebuild::rebuild(store, partitions)?;
                State::default()
            }
        };
        Ok(Leaves {
            state: Mutex::new(state),
            ..Leaves::default()
        })
    }
}

impl State {
    /// Reads the rows of changes that were not folded before a crash.
    pub(super) fn replay(store: &Store) -> Result<State, ReadError> {
        let mut replayed = State::default();
        let prefix = keys::MERKLE_CHANGES_PREFIX;
        let mut iterator = store.iterate(family::MERKLE, &prefix);
        iterator.seek_to_first();
        let mut first = None;
        while let Some((key, row)) = iterator.item() {
            let broken = || {
                undecodable(
                    "the changes of Merkle leaves",
                    &"a key that is never written",
                )
            };
            let number = keys::parse_merkle_changes_key(key).ok_or_else(broken)?;
            first.get_or_insert(number);
            replayed.next = number + 1;
            for entry in entries(row) {
                let (entry, bytes) =
                    entry.map_err(|error| undecodable("the changes of Merkle leaves", &error))?;
                replayed.replay_entry(store, number, entry, bytes)?;
            }
            iterator.next();
        }
        iterator
            .status()
            .map_err(|error| store.read_error(family::MERKLE, &prefix, &error))?;
        replayed.removed = first.unwrap_or(0);
        Ok(replayed)
    }

    fn replay_entry(
        &mut self,
        store: &Store,
        number: u64,
        entry: Entry<'_>,
        bytes: &[u8],
    ) -> Result<(), ReadError> {
        match entry {
            Entry::Wiped(id) => {
                self.loaded(store, id)?;
                self.clear_waiting(id);
                self.waiting.retain(|(_, waiting)| *waiting != id);
                self.put(id, Partition::empty());
            }
            Entry::Sum(id, leaf, sum) => {
                self.loaded(store, id)?;
                if let Some(partition) = self.changed(id, number) {
                    partition.set(leaf, sum);
                }
            }
            Entry::Bound(id, ..) | Entry::Gone(id, ..) => {
                self.loaded(store, id)?;
                self.add_keys(bytes, number);
            }
        }
        Ok(())
    }
}
