//! From a topic's name to its key, without asking the disk for every append.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use mesh_ring::ids::TopicKey;

/// Most names that are remembered; beyond it all are forgotten and looked up again.
const NAMES_MAX: usize = 65_536;

/// Names that were looked up. A name that is wrong here costs one refused append: a deleted topic's key is never
/// another topic's.
#[derive(Debug, Default)]
pub(super) struct TopicNames {
    names: RwLock<HashMap<String, TopicKey>>,
}

impl TopicNames {
    pub(super) fn get(&self, name: &str) -> Option<TopicKey> {
        self.names
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .copied()
    }

    pub(super) fn insert(&self, name: &str, topic: TopicKey) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(name.to_owned(), topic);
    }

    pub(super) fn forget(&self, name: &str) {
        self.names
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}
