//! Digests of large groups, made beside the writer: by a thread of their own where a processor is free, and by the writer
//! where that thread has not come to them. The writer never waits for it.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use mesh_ring::merkle::{LeafSum, binding_digest};

/// Bindings that are handed over together: large against the cost of that, small against a group.
const CHUNK_BINDINGS: usize = 32;

/// What a change of a binding adds to its leaf: the digest that comes less the one that goes.
pub(crate) fn difference(key: &[u8], before: Option<&[u8]>, after: Option<&[u8]>) -> LeafSum {
    let digest = |encoded: Option<&[u8]>| match encoded {
        Some(encoded) => binding_digest(key, encoded),
        None => LeafSum::ZERO,
    };
    digest(after).sub(digest(before))
}

/// The thread, which is started when it is needed first, and ends with this.
#[derive(Default)]
pub(crate) struct Digests {
    helper: OnceLock<Option<Helper>>,
}

impl Digests {
    /// Begins the differences of a group; `None` where there is no processor to make them beside the writer.
    pub(crate) fn begin(&self) -> Option<Beside> {
        let helper = self.helper.get_or_init(Helper::start).as_ref()?;
        Some(Beside {
            shared: Arc::clone(&helper.shared),
            filling: Chunk::default(),
            chunks: Vec::new(),
        })
    }
}

struct Helper {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Arc<Chunk>>,
    is_closed: bool,
    waits: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.lock();
        while !queue.is_closed {
            if let Some(chunk) = queue.chunks.pop_front() {
                drop(queue);
                let _ = chunk.differences();
                queue = self.lock();
                continue;
            }
            queue.waits = true;
            queue = self
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.waits = false;
        }
    }
}

impl Helper {
    fn start() -> Option<Helper> {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if processors < 2 {
            return None;
        }
        let shared = Arc::new(Shared::default());
        let run = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("engine-digests".into())
            .spawn(move || run.run());
        // Without it the writer makes them all.
        let thread = Some(thread.ok()?);
        Some(Helper { shared, thread })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.is_closed = true;
        drop(queue);
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // It only hashes: there is nothing that it could tell.
            let _ = thread.join();
        }
    }
}

/// Bindings that changed, and what that adds to their leaves once somebody has hashed them.
#[derive(Default)]
struct Chunk {
    keys: Vec<u8>,
    bindings: Vec<Changed>,
    differences: OnceLock<Vec<LeafSum>>,
}

struct Changed {
    key: Range<usize>,
    before: Option<Bytes>,
    after: Option<Bytes>,
}

impl Chunk {
    fn push(&mut self, key: &[u8], before: Option<Bytes>, after: Option<Bytes>) {
        let from = self.keys.len();
        self.keys.extend_from_slice(key);
        self.bindings.push(Changed {
            key: from..self.keys.len(),
            before,
            after,
        });
    }

    fn make(&self) -> Vec<LeafSum> {
        let of = |changed: &Changed| {
            let key = self.keys.get(changed.key.clone()).unwrap_or_default();
            difference(key, changed.before.as_deref(), changed.after.as_deref())
        };
        self.bindings.iter().map(of).collect()
    }

    /// Made at the first call that ends; whoever comes meanwhile makes them as well, rather than wait.
    fn differences(&self) -> &[LeafSum] {
        if let Some(made) = self.differences.get() {
            return made;
        }
        let made = self.make();
        let _ = self.differences.set(made);
        self.differences
            .get()
            .map(Vec::as_slice)
            .unwrap_or_default()
    }
}

/// The differences of a group, in the order of its changes.
pub(crate) struct Beside {
    shared: Arc<Shared>,
    filling: Chunk,
    chunks: Vec<Arc<Chunk>>,
}

impl Beside {
    /// Takes a change of a binding.
    pub(super) fn push(&mut self, key: &[u8], before: Option<Bytes>, after: Option<Bytes>) {
        self.filling.push(key, before, after);
        if self.filling.bindings.len() < CHUNK_BINDINGS {
            return;
        }
        let chunk = Arc::new(std::mem::take(&mut self.filling));
        self.chunks.push(Arc::clone(&chunk));
        let mut queue = self.shared.lock();
        queue.chunks.push_back(chunk);
        let waits = queue.waits;
        drop(queue);
        if waits {
            self.shared.filled.notify_one();
        }
    }

    /// All differences so far, in the order in which the changes were taken.
    pub(super) fn finish(&mut self) -> impl Iterator<Item = LeafSum> {
        // The thread comes to no more of them; what it has in its hands is looked for last.
        self.shared.lock().chunks.clear();
        let mut chunks = std::mem::take(&mut self.chunks);
        chunks.push(Arc::new(std::mem::take(&mut self.filling)));
        for chunk in chunks.iter().rev() {
            let _ = chunk.differences();
        }
        chunks
            .into_iter()
            .flat_map(|chunk| chunk.differences().to_vec())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn differences_are_those_of_the_digests_whoever_makes_them() {
        let helper = Helper::start();
        let shared = helper.as_ref().map(|helper| Arc::clone(&helper.shared));
        // With the thread, where there are processors for it, and without.
        for shared in [shared.unwrap_or_default(), Arc::default()] {
            let mut beside = Beside {
                shared,
                filling: Chunk::default(),
                chunks: Vec::new(),
            };
            for round in 0..50_usize {
                let count = round * 7 % 200;
                let mut expected = Vec::new();
                for n in 0..count {
                    let key = n.to_be_bytes();
                    let state =
                        |of: usize| (n % 3 != of).then(|| Bytes::from(vec![n as u8; of + 9]));
                    let (before, after) = (state(0), state(1));
                    let digest = |encoded: &Option<Bytes>| {
                        let encoded = encoded.as_ref();
                        encoded.map_or(LeafSum::ZERO, |encoded| binding_digest(&key, encoded))
                    };
                    expected.push(digest(&after).sub(digest(&before)));
                    beside.push(&key, before, after);
                }
                assert_eq!(beside.finish().collect::<Vec<_>>(), expected, "{round}");
            }
        }
    }
}
