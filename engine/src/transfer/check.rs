//! What an import looks at before it believes that rows belong where they are to stand.

use mesh_ring::ids::{Offset, PartitionId, TopicKey};
use mesh_ring::replica::Position;

use super::{Chunk, ExportHeader, hash, take_row};
use crate::batch::BatchHeader;
use crate::engine::Engine;
use crate::error::ReadError;
use crate::keys::{self, family};
use crate::read::{checked, load_extent};
use crate::replica::first_and_last;
use crate::scrub::check_value;
use crate::transfer::ImportError;

/// Rows of a topic that are to go: those that end before the offset; [`Offset::MAX`]: all of them.
pub(crate) type Stale = (TopicKey, Offset);

/// What follows from a chunk's rows.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// What was trimmed between the export before and this one: only rows that follow each other are held.
    pub(super) stale: Vec<Stale>,
    pub(super) log_bytes: u64,
}

impl Engine {
    /// Checks every row against the partition, its codec, and what is held; `continued`: that came of other exports too.
    pub(super) fn check(
        &self,
        partition: PartitionId,
        chunk: &Chunk,
        continued: bool,
    ) -> Result<Checked, ImportError> {
        let damaged = |detail: String| ImportError::Damaged(detail);
        if hash(&chunk.after, &chunk.upto, &chunk.rows) != chunk.hash {
            return Err(damaged("a chunk does not match its hash".into()));
        }
        let mut found = Checked::default();
        let mut before = None;
        let mut rows = &chunk.rows[..];
        while !rows.is_empty() {
            let bytes_left = rows.len();
            let row = take_row(&mut rows).map_err(|error| damaged(error.to_string()))?;
            if !row.key.starts_with(&partition.0.to_be_bytes()) {
                return Err(damaged(format!("a row is not of partition {partition}")));
            }
            match row.family {
                family::LOG => {
                    let topic = keys::parse_log_key(row.key);
                    let (topic, _) =
                        topic.ok_or_else(|| damaged("a key of the log is too short".into()))?;
                    let header = checked(self.store(), topic, row.key, row.value)
                        .map_err(|error| damaged(error.to_string()))?;
                    let trimmed = self.follows(before, topic, &header, continued)?;
                    found.stale.extend(trimmed);
                    found.log_bytes += (bytes_left - rows.len()) as u64;
                    before = Some((topic, header.next_offset()));
                }
                name => check_value(name, row.key, row.value)
                    .map_err(|error| damaged(format!("{name}: {error}")))?,
            }
        }
        Ok(found)
    }

    /// Checks that a batch goes on where what comes before it in its topic ends. Returns what is to go where that was
    /// trimmed at the giver, so that there is a gap.
    fn follows(
        &self,
        before: Option<(TopicKey, Offset)>,
        topic: TopicKey,
        header: &BatchHeader,
        continued: bool,
    ) -> Result<Option<Stale>, ImportError> {
        let base = header.leader.base_offset;
        let (next, of_others) = match before {
            Some((last, next)) if last == topic => (Some(next), false),
            _ => (self.held_before(topic, header.last_offset())?, continued),
        };
        match next {
            None => Ok(None),
            Some(next) if next == base => Ok(None),
            Some(next) if next < base && of_others => Ok(Some((topic, base))),
            Some(next) if of_others => Err(ImportError::Diverged(format!(
                "topic {topic} goes on at offset {base}, and is held up to {next}"
            ))),
            Some(next) => Err(ImportError::Damaged(format!(
                "topic {topic} goes on at offset {base} instead of {next}"
            ))),
        }
    }

    /// The offset behind the row that is held before the one that ends with `last`.
    fn held_before(&self, topic: TopicKey, last: Offset) -> Result<Option<Offset>, ReadError> {
        let Some(before) = last.checked_sub(1) else {
            return Ok(None);
        };
        let mut iterator = self
            .store()
            .iterate(family::LOG, &keys::topic_prefix(topic));
        let key = keys::log_key(topic, before);
        iterator.seek_for_prev(key);
        let found = iterator.key().and_then(keys::parse_log_key);
        iterator
            .status()
            .map_err(|error| self.store().read_error(family::LOG, &key, &error))?;
        Ok(found.map(|(_, last)| last + 1))
    }

    /// Checks what has come as a whole. Returns the log rows that are to go.
    pub(super) fn check_whole(
        &self,
        header: &ExportHeader,
        continued: bool,
    ) -> Result<Vec<Stale>, ImportError> {
        self.check_journal(header)?;
        // Of a single export, every row is in the catalogue that came with it.
        if continued {
            self.stale(header.partition)
        } else {
            Ok(Vec::new())
        }
    }

    /// Rows that are held of topics, and of parts of topics, that the catalogue which has come does not know: they were
    /// deleted, or trimmed, after the export had been made that they came from.
    fn stale(&self, partition: PartitionId) -> Result<Vec<Stale>, ImportError> {
        let prefix = partition.0.to_be_bytes();
        let mut stale = Vec::new();
        let mut iterator = self.store().iterate(family::LOG, &prefix);
        iterator.seek_to_first();
        while let Some((topic, last)) = iterator.key().and_then(keys::parse_log_key) {
            match load_extent(self.store(), topic)? {
                None => stale.push((topic, Offset::MAX)),
                Some(extent) => {
                    if last < extent.first {
                        stale.push((topic, extent.first));
                        iterator.seek(keys::log_key(topic, extent.first));
                    }
                    if let Some((key, batch)) = iterator.item()
                        && key.starts_with(&keys::topic_prefix(topic))
                    {
                        let base = checked(self.store(), topic, key, batch)?.leader.base_offset;
                        if base > extent.first {
                            return Err(ImportError::Diverged(format!(
                                "topic {topic} begins at offset {}, and is held from {base} on",
                                extent.first
                            )));
                        }
                    }
                }
            }
            match keys::prefix_end(&keys::topic_prefix(topic)) {
                Some(end) => iterator.seek(end),
                None => break,
            }
        }
        iterator
            .status()
            .map_err(|error| self.store().read_error(family::LOG, &prefix, &error))?;
        Ok(stale)
    }

    /// The journal that came must be the one that the header tells of.
    fn check_journal(&self, header: &ExportHeader) -> Result<(), ImportError> {
        let found = first_and_last(self.store(), header.partition)?;
        let expected = header.epochs.last().map(|(epoch, _)| {
            let last = Position {
                epoch: *epoch,
                index: header.commit,
            };
            (header.first, last)
        });
        if found == expected {
            Ok(())
        } else {
            let detail = format!("its journal is {found:?} where {expected:?} was announced");
            Err(ImportError::Diverged(detail))
        }
    }
}
