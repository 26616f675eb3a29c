//! `cluster.json` in a mesh directory: what `init` made and `node new` added, so that the next node finds its place.
//!
//! It says what was made here, never what the cluster is like now; that is in the cluster map.

use std::fs;
use std::io::Write;
use std::path::Path;

use mesh_ring::ids::ClusterId;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::error::Failure;

const FILE: &str = "cluster.json";

/// A cluster as it was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Roster {
    cluster: String,
    /// Fixed for the cluster's life.
    pub(crate) partitions: u16,
    pub(crate) nodes: Vec<Named>,
}

/// A node as it was made.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) zone: String,
}

impl Roster {
    pub(crate) fn new(cluster: ClusterId, partitions: u16) -> Self {
        Self {
            cluster: cluster.to_string(),
            partitions,
            nodes: Vec::new(),
        }
    }

    /// Reads that of a mesh directory.
    pub(crate) fn load(root: &Path) -> Result<Self, Failure> {
        let path = root.join(FILE);
        let text = fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Failure::usage(format!(
                "no {}: name a folder beside the nodes that `meshctl init` made",
                path.display()
            )),
            _ => Failure::file("read", &path, &e),
        })?;
        serde_json::from_slice(&text).map_err(|e| invalid(&path, &e.to_string()))
    }

    /// Writes it, whole or not at all.
    pub(crate) fn save(&self, root: &Path) -> Result<(), Failure> {
        let path = root.join(FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|e| invalid(&path, &e.to_string()))?;
        let written = tempfile::NamedTempFile::new_in(root).and_then(|mut file| {
            file.write_all(&text)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|e| e.error)?;
            fs::File::open(root)?.sync_all()
        });
        written.map_err(|e| Failure::file("write", &path, &e))
    }

    pub(crate) fn cluster(&self, root: &Path) -> Result<ClusterId, Failure> {
        let id = self.cluster.parse();
        id.map_err(|e: mesh_ring::ids::ParseIdError| invalid(&root.join(FILE), &e.to_string()))
    }

    /// Where the next node goes if nobody says otherwise: beside the last one.
    pub(crate) fn next_port(&self, host: &str) -> Option<u16> {
        let addresses = self.nodes.iter();
        let ports = addresses.filter_map(|node| {
            let address = Address::parse(&node.address, "").ok()?;
            (address.host() == host).then_some(address.port())
        });
        ports.max()?.checked_add(1)
    }
}

fn invalid(path: &Path, cause: &str) -> Failure {
    Failure::failed(format!("{} cannot be used: {cause}", path.display()))
}
