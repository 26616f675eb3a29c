//! Facts about a node.

use std::time::Duration;

use mesh_ring::ids::{ClusterId, NodeId};

use super::{Client, ClientError};
use crate::wire::proto::{self, reply, request};

/// Facts about a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Partitions of the cluster.
    pub partitions: u16,
    /// The epoch in which it leads.
    pub epoch: u64,
    /// How often its store was opened.
    pub boot: u32,
    /// The address that it listens on.
    pub address: String,
    /// Its version.
    pub version: String,
    /// The format of its store.
    pub format: u32,
    /// Bytes free where its store lies, if the system tells.
    pub free_bytes: u64,
    /// How long it has been running.
    pub uptime: Duration,
    /// Connections open.
    pub connections: u32,
    /// Stale copies of bindings that reads through this node have found since its start, and had repaired.
    pub read_repairs: u64,
}

/// What a node stores in one family.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FamilyUsage {
    /// The family.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// About how many keys.
    pub keys_estimate: u64,
}

impl Client {
    /// Facts about the node that the client is connected to.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn info(&self) -> Result<NodeInfo, ClientError> {
        let (reply::Kind::Info(info), _) = self
            .ask_safe("info", request::Kind::Info(proto::GetInfo {}))
            .await?
            .one()?
        else {
            return Err(ClientError::protocol("another kind of answer"));
        };
        let id = |bytes: &[u8]| {
            <[u8; 16]>::try_from(bytes).map_err(|_| ClientError::protocol("an ill-formed id"))
        };
        Ok(NodeInfo {
            node: NodeId(id(&info.node)?),
            cluster: ClusterId(id(&info.cluster)?),
            partitions: u16::try_from(info.partitions)
                .map_err(|_| ClientError::protocol("too many partitions"))?,
            name: info.name,
            epoch: info.epoch,
            boot: info.boot,
            address: info.address,
            version: info.version,
            format: info.format,
            free_bytes: info.free_bytes,
            uptime: Duration::from_millis(info.uptime_ms),
            connections: info.connections,
            read_repairs: info.read_repairs,
        })
    }

    /// What that node stores, by family.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`].
    pub async fn storage(&self) -> Result<Vec<FamilyUsage>, ClientError> {
        match self
            .ask_safe("storage", request::Kind::Storage(proto::GetStorage {}))
            .await?
            .one()?
        {
            (reply::Kind::Storage(storage), _) => Ok(storage
                .families
                .into_iter()
                .map(|f| FamilyUsage {
                    name: f.name,
                    bytes: f.bytes,
                    keys_estimate: f.keys_estimate,
                })
                .collect()),
            _ => Err(ClientError::protocol("another kind of answer")),
        }
    }
}
