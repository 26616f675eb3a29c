//! Rows of the control plane: plain keys and values in a family of their own, durable through the same writer and the
//! same fsync as everything else.
//!
//! What they mean is decided above. They go ahead of all bulk, so that a busy log cannot hold up a vote.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{ColumnFamily, WriteBatch};

use crate::engine::Engine;
use crate::error::{ReadError, Stopped};
use crate::keys::family;
use crate::store::Store;
use crate::writer::Op;

/// Largest row that [`Engine::rows`] is meant for, key and value, in bytes: larger ones belong in pieces.
pub const ROW_BYTES_MAX: usize = 16 << 20;

/// Where rows can be read: a running store, or what is left of a damaged one.
pub trait ReadRows {
    /// One row.
    ///
    /// # Errors
    /// The row cannot be read.
    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// Rows with keys in `from..to` in order, at most `limit`. An empty `to` has no end.
    ///
    /// # Errors
    /// A row cannot be read; none is left out silently.
    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError>;
}

/// One change of the control plane's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// Writes a row, over any that is there.
    Put {
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Removes a row, if it is there.
    Delete {
        /// Its key.
        key: Vec<u8>,
    },
    /// Removes every row whose key is in `from..to`.
    DeleteRange {
        /// The first key that goes.
        from: Vec<u8>,
        /// The first key behind it that stays.
        to: Vec<u8>,
    },
}

impl RowChange {
    /// About what it adds to a WriteBatch, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        16 + match self {
            RowChange::Put { key, value } => key.len() + value.len(),
            RowChange::Delete { key } => key.len(),
            RowChange::DeleteRange { from, to } => from.len() + to.len(),
        }
    }

    pub(crate) fn stage(&self, batch: &mut WriteBatch, rows: &ColumnFamily) {
        match self {
            RowChange::Put { key, value } => batch.put_cf(rows, key, value),
            RowChange::Delete { key } => batch.delete_cf(rows, key),
            // RocksDB refuses a range that ends before it begins; there is nothing in it.
            RowChange::DeleteRange { from, to } if from < to => {
                batch.delete_range_cf(rows, from, to);
            }
            RowChange::DeleteRange { .. } => {}
        }
    }
}

impl Engine {
    /// Queues changes, in this order and all or none of them; `done` is called on the writer's thread when they are
    /// durable. It must not block. Calls are applied in the order in which they were made.
    ///
    /// # Errors
    /// `done` is told that the store stopped; the changes may or may not be there after a restart.
    pub fn submit_rows(
        &self,
        changes: Vec<RowChange>,
        done: impl FnOnce(Result<(), Stopped>) + Send + 'static,
    ) {
        self.queue().push_control(Op::Rows {
            changes,
            done: Box::new(done),
        });
    }

    /// One row; what [`Engine::submit_rows`] has not called `done` for may not be seen yet.
    ///
    /// # Errors
    /// The row cannot be read.
    pub fn row(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        row(self.store(), key)
    }

    /// Rows with keys in `from..to` in order, at most `limit`. An empty `to` has no end.
    ///
    /// # Errors
    /// A row cannot be read; none is left out silently.
    pub fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        rows(self.store(), from, to, limit)
    }

    /// The last row with a key in `from..to`. An empty `to` has no end.
    ///
    /// # Errors
    /// As for [`Engine::rows`].
    pub fn last_row(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, ReadError> {
        let store = self.store();
        let mut iterator = store.between(family::CONTROL, from, to);
        iterator.seek_to_last();
        let found = iterator
            .item()
            .map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value)));
        iterator
            .status()
            .map_err(|error| store.read_error(family::CONTROL, from, &error))?;
        Ok(found)
    }
}

impl ReadRows for Engine {
    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Engine::row(self, key)
    }

    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        Engine::rows(self, from, to, limit)
    }
}

impl<R: ReadRows> ReadRows for Arc<R> {
    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        R::row(self, key)
    }

    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        R::rows(self, from, to, limit)
    }
}

pub(crate) fn row(store: &Store, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
    let value = store.get(family::CONTROL, key)?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

pub(crate) fn rows(
    store: &Store,
    from: &[u8],
    to: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
    let mut iterator = store.between(family::CONTROL, from, to);
    iterator.seek_to_first();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some((key, value)) = iterator.item()
    {
        found.push((key.to_vec(), Bytes::copy_from_slice(value)));
        iterator.next();
    }
    iterator
        .status()
        .map_err(|error| store.read_error(family::CONTROL, from, &error))?;
    Ok(found)
}
