//! From a topic's name to its key, without asking the disk for every append.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use mesh_ring::ids::{Epoch, TopicKey};

/// Most names that are remembered; beyond it all are forgotten and looked up again.
const NAMES_MAX: usize = 65_536;

/// Names that were looked up, each in an epoch: in another one somebody else may have made the topic anew. A name that is
/// wrong here costs one refused append: a deleted topic's key is never another topic's.
#[derive(Debug, Default)]
pub(super) struct TopicNames {
    names: RwLock<HashMap<String, (TopicKey, Epoch)>>,
}

impl TopicNames {
    /// What was looked up last, and in which epoch of its partition: in another it does not hold. The name is valid.
    pub(super) fn get(&self, name: &str) -> Option<(TopicKey, Epoch)> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(name).copied()
    }

    /// Remembers what was looked up while this node led in `epoch`.
    pub(super) fn insert(&self, name: &str, topic: TopicKey, epoch: Epoch) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(name.to_owned(), (topic, epoch));
    }

    pub(super) fn forget(&self, name: &str) {
        self.names
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::{PartitionId, TopicId};

    use super::*;

    #[test]
    fn the_newest_of_a_name_is_told_with_its_epoch() {
        let topic = |id| TopicKey {
            partition: PartitionId(1),
            id: TopicId(id),
        };
        let names = TopicNames::default();
        names.insert("t", topic(5), Epoch(3));
        assert_eq!(names.get("t"), Some((topic(5), Epoch(3))));
        names.insert("t", topic(9), Epoch(7));
        assert_eq!(names.get("t"), Some((topic(9), Epoch(7))));
        names.forget("t");
        assert_eq!(names.get("t"), None);
    }
}
