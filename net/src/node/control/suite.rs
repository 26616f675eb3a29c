//! openraft's own tests of a storage, run against the engine's rows.

use std::sync::Arc;

use mesh_engine::{Engine, Identity, Options, prepare};
use mesh_ring::ids::{ClusterId, Epoch, NodeId};
use mesh_ring::map::ClusterMap;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::log::Log;
use super::machine::Machine;
use super::raft::{Group, RaftId, StorageError};

impl From<u64> for RaftId {
    fn from(number: u64) -> Self {
        RaftId(NodeId(u128::from(number).to_be_bytes()))
    }
}

const CLUSTER: ClusterId = ClusterId([1; 16]);
const NODE: NodeId = NodeId([2; 16]);

pub(super) fn engine(dir: &TempDir) -> Arc<Engine> {
    let data = dir.path().join("data");
    if !data.exists() {
        let identity = Identity {
            cluster: CLUSTER,
            node: NODE,
            name: "n1".into(),
            partitions: 4,
        };
        prepare(&data, &identity).unwrap();
    }
    Arc::new(Engine::open(&data, Options::default()).unwrap())
}

pub(super) fn load(engine: &Arc<Engine>) -> (Log, Machine) {
    let map = ClusterMap::single(CLUSTER, NODE, "n1", 4, Epoch(1)).unwrap();
    let (published, _) = watch::channel(Arc::new(map));
    let log = Log::load(Arc::clone(engine)).unwrap();
    let machine = Machine::load(Arc::clone(engine), published).unwrap();
    (log, machine)
}

struct Builder;

impl StoreBuilder<Group, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = load(&engine(&dir));
        Ok((dir, log, machine))
    }
}

#[test]
fn the_storage_is_one_that_openraft_can_rely_on() {
    Suite::test_all(Builder).unwrap();
}
