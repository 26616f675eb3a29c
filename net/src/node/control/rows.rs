//! What the control plane keeps on the disk: keys and values of the engine's `control` family, byte by byte.
//!
//! | key | value |
//! |---|---|
//! | 1 | the vote |
//! | 2 | how far the log is known to be committed |
//! | 3 | the last entry that was dropped from the log's beginning |
//! | 4 | the newest snapshot: what it covers, and the map |
//! | 5, index u64 BE | one entry of the log |
//! | 6 | present while the log may have lost its end to a damaged disk |
//!
//! A value is a version byte and JSON.

use bytes::Bytes;
use mesh_engine::{Engine, ReadError, ReadRows, RowChange, Stopped};
use mesh_ring::map::ClusterMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::raft::SnapshotMeta;

/// Version of every value.
const VERSION: u8 = 1;

/// Rows read at a time when the log is loaded.
const PAGE_ROWS: usize = 256;

pub(super) const VOTE: &[u8] = &[1];
pub(super) const COMMITTED: &[u8] = &[2];
pub(super) const PURGED: &[u8] = &[3];
pub(super) const SNAPSHOT: &[u8] = &[4];
pub(super) const SUSPECT: &[u8] = &[6];
const ENTRY: u8 = 5;

/// A row of the control plane cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// The store cannot read it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was not written.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// It was written by a newer release.
    #[error(
        "the control plane's row {key:02x?} has version {version}, and this release knows up to {VERSION}: use the release that wrote it"
    )]
    Version {
        /// Its key.
        key: Vec<u8>,
        /// Its version byte.
        version: u8,
    },
    /// It is not what was written.
    #[error(
        "the control plane's row {key:02x?} is damaged ({detail}): rebuild this node as a new member"
    )]
    Damaged {
        /// Its key.
        key: Vec<u8>,
        /// What is wrong.
        detail: String,
    },
}

/// A snapshot as it lies in its row, and (without its version byte) as it travels.
#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
pub(super) struct SnapshotRow {
    pub(super) meta: SnapshotMeta,
    pub(super) map: Option<ClusterMap>,
}

/// Key of an entry of the log.
pub(super) fn entry_key(index: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(ENTRY);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// The key behind the last possible entry.
pub(super) fn entries_end() -> Vec<u8> {
    vec![ENTRY + 1]
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value)?;
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, RowError> {
    let damaged = |detail: String| RowError::Damaged {
        key: key.to_vec(),
        detail,
    };
    match value.split_first() {
        Some((&VERSION, json)) => {
            serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))
        }
        Some((&version, _)) if version > VERSION => Err(RowError::Version {
            key: key.to_vec(),
            version,
        }),
        _ => Err(damaged("it has no version".into())),
    }
}

pub(super) fn read<T: DeserializeOwned>(
    rows: &impl ReadRows,
    key: &[u8],
) -> Result<Option<T>, RowError> {
    rows.row(key)?.map(|value| decode(key, &value)).transpose()
}

/// Every entry of the log, in order, with its size in bytes.
pub(super) fn read_entries<T: DeserializeOwned>(
    rows: &impl ReadRows,
) -> Result<Vec<(T, usize)>, RowError> {
    let mut entries = Vec::new();
    let mut from = entry_key(0);
    loop {
        let page: Vec<(Vec<u8>, Bytes)> = rows.rows(&from, &entries_end(), PAGE_ROWS)?;
        for (key, value) in &page {
            entries.push((decode(key, value)?, value.len()));
        }
        let Some((last, _)) = page.last().filter(|_| page.len() == PAGE_ROWS) else {
            return Ok(entries);
        };
        from.clone_from(last);
        from.push(0);
    }
}

/// Writes, and waits until it is durable.
pub(super) async fn write(engine: &Engine, changes: Vec<RowChange>) -> Result<(), Stopped> {
    submit(engine, changes).await
}

/// Writes in the order of the calls; the future resolves when it is durable.
pub(super) fn submit(
    engine: &Engine,
    changes: Vec<RowChange>,
) -> impl Future<Output = Result<(), Stopped>> + use<> {
    let (done, written) = oneshot::channel();
    engine.submit_rows(changes, move |outcome| {
        // Whoever asked may have gone.
        let _ = done.send(outcome);
    });
    async move {
        written.await.unwrap_or_else(|_| {
            Err(Stopped {
                cause: "the writer is gone".into(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::NodeId;
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::super::raft::{Entry, LogId, RaftId, Vote};
    use super::*;

    #[test]
    fn keys_are_these_bytes() {
        assert_eq!(
            [VOTE, COMMITTED, PURGED, SNAPSHOT, SUSPECT],
            [&[1], &[2], &[3], &[4], &[6]]
        );
        assert_eq!(entry_key(0x0102), [5, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(entries_end(), [6]);
        assert!(entry_key(u64::MAX) < entries_end());
    }

    #[test]
    fn values_are_these_bytes() {
        let node = RaftId(NodeId([0x0a; 16]));
        let id = LogId::new(CommittedLeaderId::new(3, node), 9);
        assert_eq!(
            encode(&Some(id)).unwrap(),
            b"\x01{\"leader_id\":{\"term\":3,\"node_id\":\"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"},\"index\":9}"
        );
        assert_eq!(
            encode(&Vote::new(3, node)).unwrap(),
            b"\x01{\"leader_id\":{\"term\":3,\"node_id\":\"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"},\"committed\":false}"
        );
        let entry = Entry {
            log_id: id,
            payload: EntryPayload::Blank,
        };
        assert_eq!(
            encode(&entry).unwrap(),
            b"\x01{\"log_id\":{\"leader_id\":{\"term\":3,\"node_id\":\"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a\"},\"index\":9},\"payload\":\"Blank\"}"
        );
    }

    #[test]
    fn an_unknown_version_and_damage_are_errors() {
        assert!(matches!(
            decode::<Vote>(VOTE, b"\x02{}"),
            Err(RowError::Version { version: 2, .. })
        ));
        for bytes in [&b""[..], b"\x00{}", b"\x01{", b"\x01\xff"] {
            assert!(
                matches!(decode::<Vote>(VOTE, bytes), Err(RowError::Damaged { .. })),
                "{bytes:?}"
            );
        }
    }
}
