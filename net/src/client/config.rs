//! How a client finds its nodes and who it is.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{identity::CredentialFiles, quic::Tuning};

/// How long a request may take where nothing else is said.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Bytes that producers may have waiting and under way where nothing else is said.
pub const INFLIGHT_BYTES_MAX_DEFAULT: usize = 64 << 20;

/// A client's configuration.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `HOST:PORT` of one or more nodes, tried in turn.
    pub nodes: Vec<String>,
    /// The authorities trusted, in PEM.
    pub ca: PathBuf,
    /// The client's certificate, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The longest that a request may take, retries included.
    pub timeout: Duration,
    /// Most bytes of records that all producers of this client hold, waiting or under way. Publishing waits beyond.
    pub inflight_bytes_max: usize,
    /// Transport settings.
    pub tuning: Tuning,
}

/// A configuration could not be read or written.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read or written.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("{path} is not a valid configuration: {cause}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        cause: String,
    },
}

/// `client.toml`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ClientFile {
    nodes: Vec<String>,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inflight_bytes_max: Option<usize>,
}

impl ClientConfig {
    /// A configuration with the defaults for everything that is not said here.
    pub fn new(nodes: Vec<String>, files: CredentialFiles) -> Self {
        Self {
            nodes,
            ca: files.ca,
            certificate: files.certificate,
            key: files.key,
            timeout: TIMEOUT_DEFAULT,
            inflight_bytes_max: INFLIGHT_BYTES_MAX_DEFAULT,
            tuning: Tuning::default(),
        }
    }

    /// Reads a `client.toml`. Relative paths in it are relative to the file.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: ClientFile = load_toml(path)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let files = CredentialFiles {
            ca: dir.join(file.ca),
            certificate: dir.join(file.certificate),
            key: dir.join(file.key),
        };
        let mut config = Self::new(file.nodes, files);
        if let Some(ms) = file.timeout_ms {
            config.timeout = Duration::from_millis(ms);
        }
        if let Some(bytes) = file.inflight_bytes_max {
            config.inflight_bytes_max = bytes;
        }
        Ok(config)
    }

    /// Writes a new `client.toml` in which the identity's files lie beside it.
    ///
    /// # Errors
    /// [`ConfigError::File`], also where there is one already.
    pub fn write_new(path: &Path, nodes: &[String]) -> Result<(), ConfigError> {
        let files = CredentialFiles::in_dir(Path::new(""));
        let file = ClientFile {
            nodes: nodes.to_vec(),
            ca: files.ca,
            certificate: files.certificate,
            key: files.key,
            timeout_ms: None,
            inflight_bytes_max: None,
        };
        write_new_toml(path, &file)
    }

    /// Adds a node to those that a `client.toml` names, where it is not among them. The file is written anew, whole or not at
    /// all; comments in it are lost.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file.
    pub fn add_node(path: &Path, node: &str) -> Result<(), ConfigError> {
        let mut file: ClientFile = load_toml(path)?;
        if file.nodes.iter().any(|known| known == node) {
            return Ok(());
        }
        file.nodes.push(node.to_owned());
        let scratch = path.with_extension("toml.new");
        // What a write that was cut short has left behind is nobody's.
        let _ = std::fs::remove_file(&scratch);
        write_new_toml(&scratch, &file)?;
        std::fs::rename(&scratch, path).map_err(|source| ConfigError::File {
            doing: "write",
            path: path.into(),
            source,
        })
    }

    pub(super) fn files(&self) -> CredentialFiles {
        CredentialFiles {
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

fn load_toml<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
        doing: "read",
        path: path.into(),
        source,
    })?;
    toml::from_str(&text).map_err(|e| ConfigError::Contents {
        path: path.into(),
        cause: e.to_string().trim_end().into(),
    })
}

fn write_new_toml<T: Serialize>(path: &Path, contents: &T) -> Result<(), ConfigError> {
    let text = toml::to_string(contents).map_err(|e| ConfigError::Contents {
        path: path.into(),
        cause: e.to_string(),
    })?;
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
    written.map_err(|source| ConfigError::File {
        doing: "write",
        path: path.into(),
        source,
    })
}
