//! Where `meshctl init` puts what, so that other commands find it again.

use std::path::{Path, PathBuf};

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
