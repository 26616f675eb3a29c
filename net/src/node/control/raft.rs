//! openraft, told what it replicates: the types of this cluster's control group, and its clock.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Cursor;
use std::time::Duration;

use mesh_ring::control::{ControlCommand, ControlError, Outcome};
use mesh_ring::ids::NodeId;
use mesh_ring::map::ClusterMap;
use openraft::{Config, ConfigError, EmptyNode, SnapshotPolicy, TokioRuntime};
use serde::{Deserialize, Serialize};

/// Applied entries between two snapshots, and as many are kept behind the newest for members that are a little late.
const SNAPSHOT_ENTRIES: u64 = 256;

/// Entries in one message. Together with the bytes of [`super::log::APPEND_BYTES_MAX`] it bounds a message.
const MESSAGE_ENTRIES_MAX: u64 = 64;

/// Bytes of a snapshot in one message.
pub(super) const SNAPSHOT_CHUNK_BYTES: u64 = 256 << 10;

/// How long one chunk of a snapshot may take, the last one with its installation included.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(5);

openraft::declare_raft_types!(
    /// What the control group replicates.
    pub(super) Group:
        D = Change,
        R = Answer,
        NodeId = RaftId,
        Node = EmptyNode,
        Entry = openraft::Entry<Group>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = TokioRuntime,
);

pub(super) type Raft = openraft::Raft<Group>;
pub(super) type Entry = openraft::Entry<Group>;
pub(super) type LogId = openraft::LogId<RaftId>;
pub(super) type Vote = openraft::Vote<RaftId>;
pub(super) type Membership = openraft::StoredMembership<RaftId, EmptyNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<RaftId, EmptyNode>;
pub(super) type StorageError = openraft::StorageError<RaftId>;

/// A node as a member of the group. In JSON, where it is also a key, it is 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct RaftId(pub(super) NodeId);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Change {
    /// The map that the cluster begins with. Ignored where there is a map already.
    Found(Box<ClusterMap>),
    /// A command, decided by `ring::control` against the map that the entries before it made.
    Command(ControlCommand),
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It was none of ours, or changed nothing.
    Nothing,
    /// The command is in the map.
    Done(Outcome),
    /// The command does not hold against the map, which is as it was.
    Refused(ControlError),
    /// There is no map yet.
    NotFounded,
}

/// How patient the control group is.
///
/// A follower campaigns once it has heard nothing for `election_max` (until then it helps nobody else to be elected) and
/// then for its own time between `election_min` and `election_max`, looked at every one and a half heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlClock {
    /// A leader says at least this often that it is there; one message to a follower may take this long.
    pub heartbeat: Duration,
    /// See above.
    pub election_min: Duration,
    /// See above.
    pub election_max: Duration,
}

impl Default for ControlClock {
    /// A dead leader is replaced 0.5 to 0.9 s after its end.
    fn default() -> Self {
        ControlClock {
            heartbeat: Duration::from_millis(90),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(350),
        }
    }
}

impl ControlClock {
    pub(super) fn config(&self) -> Result<Config, String> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Config {
            cluster_name: "control".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(SNAPSHOT_CHUNK_TIMEOUT),
            max_payload_entries: MESSAGE_ENTRIES_MAX,
            replication_lag_threshold: 2 * SNAPSHOT_ENTRIES,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_in_snapshot_log_to_keep: SNAPSHOT_ENTRIES,
            ..Config::default()
        }
        .validate()
        .map_err(|error: ConfigError| error.to_string())
    }
}

pub(super) fn raft_ids(nodes: impl IntoIterator<Item = NodeId>) -> BTreeSet<RaftId> {
    nodes.into_iter().map(RaftId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_hexadecimal_also_as_a_key() {
        let id = RaftId(NodeId([0xab; 16]));
        let members = std::collections::BTreeMap::from([(id, EmptyNode {})]);
        let json = serde_json::to_string(&members).unwrap();
        assert_eq!(json, r#"{"abababababababababababababababab":{}}"#);
        let back: std::collections::BTreeMap<RaftId, EmptyNode> =
            serde_json::from_str(&json).unwrap();
        assert_eq!(back, members);
        assert!(serde_json::from_str::<RaftId>(r#""ab""#).is_err());
    }

    #[test]
    fn the_default_clock_is_one_that_openraft_takes() {
        ControlClock::default().config().unwrap();
    }
}
