//! Who waits for which bindings to change: the way from the engine's writer to the watches.
//!
//! What waits for a watch is the keys that changed, each once, and never their values: whoever is slow reads the latest
//! state of a key, later. Where even the keys are too many they are forgotten, and the watch begins again with everything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mesh_ring::ids::PartitionId;
use tokio::sync::Notify;

/// Most keys that wait for one watch, and the most bytes of them.
pub(super) const MARKED_KEYS_MAX: usize = 16_384;
pub(super) const MARKED_BYTES_MAX: usize = 1 << 20;

/// What a watch is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node) enum Wanted {
    Key(Bytes),
    /// Every key that begins so.
    Prefix(Bytes),
}

impl Wanted {
    /// The key or the prefix.
    pub(in crate::node) fn name(&self) -> &Bytes {
        let (Wanted::Key(name) | Wanted::Prefix(name)) = self;
        name
    }
}

/// All watches of this node.
#[derive(Debug, Default)]
pub(in crate::node) struct Watches {
    /// How many there are: where there is none, a write costs no more than a look at this.
    count: AtomicUsize,
    registry: Mutex<Registry>,
}

#[derive(Debug, Default)]
struct Registry {
    keys: HashMap<Bytes, Vec<Arc<Marks>>>,
    prefixes: HashMap<Bytes, Vec<Arc<Marks>>>,
    /// How many different prefixes there are of each length: a key is looked up once for each.
    lengths: BTreeMap<usize, usize>,
}

/// What has changed since one watch last looked.
#[derive(Debug)]
struct Marks {
    marked: Mutex<Marked>,
    rung: Notify,
}

#[derive(Debug)]
struct Marked {
    partitions: BTreeSet<PartitionId>,
    /// In the order in which they changed first.
    queue: VecDeque<Bytes>,
    queued: HashSet<Bytes>,
    bytes: usize,
    /// There were too many: any key may have changed.
    lost: bool,
}

/// One watch. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Subscription {
    watches: Arc<Watches>,
    wanted: Wanted,
    marks: Arc<Marks>,
}

/// What a watch finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Nothing,
    /// They have changed, in this order.
    Keys(Vec<Bytes>),
    /// Any key may have.
    Anything,
}

impl Watches {
    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to watch in these partitions. To be done before the first read, so that nothing falls between.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        wanted: Wanted,
        partitions: BTreeSet<PartitionId>,
    ) -> Subscription {
        let marks = Arc::new(Marks {
            marked: Mutex::new(Marked {
                partitions,
                queue: VecDeque::new(),
                queued: HashSet::new(),
                bytes: 0,
                lost: false,
            }),
            rung: Notify::new(),
        });
        self.registry().add(&wanted, &marks);
        self.count.fetch_add(1, Ordering::SeqCst);
        Subscription {
            watches: Arc::clone(self),
            wanted,
            marks,
        }
    }

    /// Tells those who watch these keys. Called on the engine's writer; never blocks for long.
    pub(in crate::node) fn bound(&self, changed: &mut dyn Iterator<Item = (PartitionId, &[u8])>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let registry = self.registry();
        for (partition, key) in changed {
            registry.tell(partition, key);
        }
    }
}

impl Registry {
    fn add(&mut self, wanted: &Wanted, marks: &Arc<Marks>) {
        let among = match wanted {
            Wanted::Key(key) => self.keys.entry(key.clone()).or_default(),
            Wanted::Prefix(prefix) => {
                let among = self.prefixes.entry(prefix.clone()).or_default();
                if among.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                among
            }
        };
        among.push(Arc::clone(marks));
    }

    fn remove(&mut self, wanted: &Wanted, marks: &Arc<Marks>) {
        let (map, name) = match wanted {
            Wanted::Key(key) => (&mut self.keys, key),
            Wanted::Prefix(prefix) => (&mut self.prefixes, prefix),
        };
        let Some(among) = map.get_mut(name) else {
            return;
        };
        among.retain(|other| !Arc::ptr_eq(other, marks));
        if !among.is_empty() {
            return;
        }
        map.remove(name);
        if let Wanted::Prefix(prefix) = wanted
            && let Some(count) = self.lengths.get_mut(&prefix.len())
        {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&prefix.len());
            }
        }
    }

    fn tell(&self, partition: PartitionId, key: &[u8]) {
        let lengths = self.lengths.range(..=key.len());
        let prefixes = lengths.filter_map(|(length, _)| self.prefixes.get(&key[..*length]));
        for marks in self.keys.get(key).into_iter().chain(prefixes).flatten() {
            marks.mark(partition, key);
        }
    }
}

impl Marks {
    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, partition: PartitionId, key: &[u8]) {
        let mut marked = self.marked();
        if marked.lost || !marked.partitions.contains(&partition) || marked.queued.contains(key) {
            return;
        }
        if marked.queue.len() == MARKED_KEYS_MAX || marked.bytes + key.len() > MARKED_BYTES_MAX {
            marked.forget();
            marked.lost = true;
        } else {
            let key = Bytes::copy_from_slice(key);
            marked.bytes += key.len();
            marked.queued.insert(key.clone());
            marked.queue.push_back(key);
        }
        self.rung.notify_one();
    }
}

impl Marked {
    fn forget(&mut self) {
        self.queue = VecDeque::new();
        self.queued = HashSet::new();
        self.bytes = 0;
        self.lost = false;
    }
}

impl Subscription {
    /// Forgets what has changed so far: everything is about to be read.
    pub(super) fn begin_anew(&self) {
        self.marks.marked().forget();
    }

    /// Takes up to `keys_max` of what has changed.
    pub(super) fn take(&self, keys_max: usize) -> Taken {
        let mut marked = self.marks.marked();
        if marked.lost {
            return Taken::Anything;
        }
        let count = marked.queue.len().min(keys_max);
        if count == 0 {
            return Taken::Nothing;
        }
        let keys: Vec<Bytes> = marked.queue.drain(..count).collect();
        for key in &keys {
            marked.queued.remove(key);
            marked.bytes -= key.len();
        }
        Taken::Keys(keys)
    }

    /// Resolves when there is something to take. Cancel-safe.
    pub(super) async fn changed(&self) {
        loop {
            {
                let marked = self.marks.marked();
                if marked.lost || !marked.queue.is_empty() {
                    return;
                }
            }
            self.marks.rung.notified().await;
        }
    }

    /// Watches no longer in these partitions.
    pub(super) fn leave(&self, partitions: &[PartitionId]) {
        let mut marked = self.marks.marked();
        for partition in partitions {
            marked.partitions.remove(partition);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.watches.count.fetch_sub(1, Ordering::SeqCst);
        self.watches.registry().remove(&self.wanted, &self.marks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: PartitionId = PartitionId(1);
    const ELSEWHERE: PartitionId = PartitionId(2);

    fn prefix(prefix: &'static str) -> Wanted {
        Wanted::Prefix(prefix.into())
    }

    fn change(watches: &Watches, partition: PartitionId, keys: &[&str]) {
        watches.bound(&mut keys.iter().map(|key| (partition, key.as_bytes())));
    }

    fn keys(names: &[&'static str]) -> Taken {
        Taken::Keys(names.iter().map(|name| Bytes::from(*name)).collect())
    }

    #[test]
    fn each_watch_hears_of_what_it_wants() {
        let watches = Arc::new(Watches::default());
        let subscribe = |wanted| watches.subscribe(wanted, [HERE].into());
        let (all, users, longer) = (
            subscribe(prefix("")),
            subscribe(prefix("user:")),
            subscribe(prefix("user:123")),
        );
        let one = subscribe(Wanted::Key("user:12".into()));
        change(&watches, HERE, &["user:12", "zone", "user:12", "user"]);
        change(&watches, ELSEWHERE, &["user:123"]);
        assert_eq!(all.take(9), keys(&["user:12", "zone", "user"]));
        assert_eq!(users.take(9), keys(&["user:12"]));
        assert_eq!(longer.take(9), Taken::Nothing);
        assert_eq!(one.take(9), keys(&["user:12"]));
        assert_eq!(one.take(9), Taken::Nothing);
        users.leave(&[HERE]);
        change(&watches, HERE, &["user:12"]);
        assert_eq!(users.take(9), Taken::Nothing);
        assert_eq!(one.take(9), keys(&["user:12"]));
    }

    #[test]
    fn a_key_that_changes_again_waits_once_and_in_its_first_place() {
        let watches = Arc::new(Watches::default());
        let all = watches.subscribe(prefix(""), [HERE].into());
        change(&watches, HERE, &["a", "b", "a"]);
        assert_eq!(all.take(1), keys(&["a"]));
        // It has been taken: this change is another one.
        change(&watches, HERE, &["a"]);
        assert_eq!(all.take(9), keys(&["b", "a"]));
    }

    #[test]
    fn a_slow_watch_costs_bounded_memory_and_is_told_that_anything_may_have_changed() {
        let watches = Arc::new(Watches::default());
        let all = watches.subscribe(prefix(""), [HERE].into());
        for number in 0..MARKED_KEYS_MAX {
            change(&watches, HERE, &[&number.to_string()]);
        }
        assert!(matches!(all.take(1), Taken::Keys(_)));
        change(&watches, HERE, &["one", "more"]);
        assert_eq!(all.take(9), Taken::Anything);
        assert_eq!(all.marks.marked().queue.capacity(), 0);
        all.begin_anew();
        assert_eq!(all.take(9), Taken::Nothing);
        change(&watches, HERE, &["again"]);
        assert_eq!(all.take(9), keys(&["again"]));

        let long = "k".repeat(1000);
        for number in 0..=MARKED_BYTES_MAX / 1000 {
            change(&watches, HERE, &[&format!("{long}{number}")]);
        }
        assert_eq!(all.take(9), Taken::Anything);
    }

    #[tokio::test]
    async fn a_change_between_the_look_and_the_wait_is_not_missed() {
        let watches = Arc::new(Watches::default());
        let one = watches.subscribe(Wanted::Key("k".into()), [HERE].into());
        assert_eq!(one.take(9), Taken::Nothing);
        change(&watches, HERE, &["k"]);
        one.changed().await;
        assert_eq!(one.take(9), keys(&["k"]));
    }

    #[test]
    fn nothing_is_left_when_nobody_watches() {
        let watches = Arc::new(Watches::default());
        let subscribe = |wanted| watches.subscribe(wanted, [HERE].into());
        let two = (subscribe(prefix("a")), subscribe(prefix("a")));
        drop((two, subscribe(Wanted::Key("a".into()))));
        let registry = watches.registry();
        assert!(registry.keys.is_empty() && registry.prefixes.is_empty());
        assert!(registry.lengths.is_empty());
        assert_eq!(watches.count.load(Ordering::SeqCst), 0);
    }
}
