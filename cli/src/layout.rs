//! Where `meshctl init` puts what, so that other commands find it again.

use std::path::{Path, PathBuf};

use mesh_net::node::NODE_FILE;

use crate::error::Failure;

/// A mesh directory: `ca/`, `n1/` …, `client/`, and `clients/NAME/` for identities issued later.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The private CA: the one folder that should not stay on a server.
    pub(crate) fn authority(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// The folder of one node.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The names of the nodes whose folders lie here, n2 before n10.
    pub(crate) fn nodes(&self) -> Result<Vec<String>, Failure> {
        let failed = |e: std::io::Error| Failure::file("read", &self.root, &e);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().join(NODE_FILE).is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_by_key(|name| (name.len(), name.clone()));
        Ok(names)
    }

    /// The folder of the client identity that `init` makes, allowed everything.
    pub(crate) fn client(&self) -> PathBuf {
        self.root.join("client")
    }

    /// The folder of a client identity issued later.
    pub(crate) fn issued(&self, name: &str) -> PathBuf {
        self.root.join("clients").join(name)
    }
}

/// The store of the node whose folder this is.
pub(crate) fn data(node: &Path) -> PathBuf {
    node.join("data")
}
