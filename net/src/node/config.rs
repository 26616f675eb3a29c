//! `node.toml`: what a node is told when it starts.

use std::path::{Path, PathBuf};

use mesh_engine::{RESERVE_BYTES_DEFAULT, RESERVE_BYTES_MIN};
use mesh_ring::ids::ClusterId;
use serde::Deserialize;

use crate::identity::CredentialFiles;
use crate::quic::Tuning;

/// Name of the file in a node's folder.
pub const NODE_FILE: &str = "node.toml";

/// How a node runs. Paths are absolute or relative to the process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it listens, `HOST:PORT`; port 0: any free one.
    pub listen: String,
    /// Where its store lies.
    pub data: PathBuf,
    /// Its certificate, key and the CAs that it trusts.
    pub identity: CredentialFiles,
    /// The cluster that the store must belong to, where it is stated.
    pub cluster: Option<ClusterId>,
    /// Bytes of disk that appends leave free.
    pub reserve_bytes: u64,
    /// Cache of index and data blocks, in bytes.
    pub cache_bytes: usize,
    /// Memory that gathers writes before they are flushed, in bytes.
    pub write_buffer_bytes: usize,
    /// How fast the background scrub reads, in bytes a second. 0: no scrub.
    pub scrub_bytes_per_second: u64,
    /// The transport's settings.
    pub tuning: Tuning,
}

/// A node's folder does not say how to run it.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}: a node's folder is made by `meshctl init`")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{file}: {detail}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: String,
    data: Option<PathBuf>,
    identity: Option<PathBuf>,
    cluster: Option<String>,
    reserve_bytes: Option<u64>,
    cache_bytes: Option<usize>,
    write_buffer_bytes: Option<usize>,
    scrub_bytes_per_second: Option<u64>,
}

impl NodeConfig {
    /// Reads `node.toml` in a node's folder. Fields: `listen`, and optionally `data` and `identity` (folders,
    /// relative to this one), `cluster`, `reserve_bytes`, `cache_bytes`, `write_buffer_bytes`,
    /// `scrub_bytes_per_second`.
    ///
    /// # Errors
    /// [`NodeConfigError`], with the file's name.
    pub fn load(folder: &Path) -> Result<Self, NodeConfigError> {
        let path = folder.join(NODE_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| NodeConfigError::Read {
            file: path.clone(),
            source,
        })?;
        let invalid = |detail: String| NodeConfigError::Invalid {
            file: path.clone(),
            detail,
        };
        let file: File = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let reserve_bytes = file.reserve_bytes.unwrap_or(RESERVE_BYTES_DEFAULT);
        if reserve_bytes < RESERVE_BYTES_MIN {
            return Err(invalid(format!(
                "reserve_bytes is {reserve_bytes}, the least is {RESERVE_BYTES_MIN}"
            )));
        }
        let write_buffer_bytes = file.write_buffer_bytes.unwrap_or(64 << 20);
        if write_buffer_bytes < 1 << 20 {
            return Err(invalid(format!(
                "write_buffer_bytes is {write_buffer_bytes}, the least is {}",
                1 << 20
            )));
        }
        let cluster = match file.cluster {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|error| invalid(format!("cluster: {error}")))?,
            ),
        };
        Ok(NodeConfig {
            listen: file.listen,
            data: folder.join(file.data.unwrap_or_else(|| "data".into())),
            identity: CredentialFiles::in_dir(
                &folder.join(file.identity.unwrap_or_else(|| "identity".into())),
            ),
            cluster,
            reserve_bytes,
            cache_bytes: file.cache_bytes.unwrap_or(64 << 20),
            write_buffer_bytes,
            scrub_bytes_per_second: file.scrub_bytes_per_second.unwrap_or(16 << 20),
            tuning: Tuning::default(),
        })
    }
}
