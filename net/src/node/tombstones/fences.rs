//! The fences of this node: one for each partition, and since when it is of the cluster.
//!
//! A fence has two edges. What comes in is admitted by the highest fence that this node was asked to raise or has heard of;
//! what goes out is stamped with a fence that is durable, and under which no round still looks here: otherwise a state from
//! before the look could pass for one that was read after it, at a node that has looked already.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_ring::ids::PartitionId;
use mesh_ring::tombstone::{Knowledge, Question, Refusal, Stamp, Void, raise};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Not known yet: nothing is admitted.
const NEVER: u64 = u64::MAX;

/// Instead of the fence of a look: the copy was emptied since.
pub(super) const EMPTIED: u64 = u64::MAX;

/// All fences of the node.
#[derive(Debug)]
pub(in crate::node) struct Fences {
    of: Box<[Mutex<Fence>]>,
    /// The first version of the map in which this node is registered.
    since: AtomicU64,
    /// Rung when a fence stamps higher than before.
    raised: Notify,
    /// Held by whoever gives a suspect copy up.
    pub(super) giving_up: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fence {
    /// Nothing is admitted that is stamped lower.
    admits: u64,
    /// What the disk was told, and what it says.
    told: Kept,
    durable: Kept,
    /// What goes out is stamped with this.
    stamps: u64,
    /// Rounds that look at this moment.
    looks: u32,
    looked: Looked,
}

/// Up to which fence this node has looked, as it is kept on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Looked {
    /// What is on the disk is no older than the look under this fence.
    pub(super) fence: u64,
    /// The disk has lost its end since. Under a higher fence tombstones may have been forgotten that it does not know of.
    pub(super) is_suspect: bool,
}

/// A fence as it is kept on the disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Kept {
    pub(super) fence: u64,
    /// The map by which it was raised. Under an older one this node does not know whom it must not listen to.
    pub(super) map_version: u64,
}

/// Why a state is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotTaken {
    /// Its sender was removed: nobody asks it what it holds any more.
    Removed,
    Stale(Refusal),
}

/// Held by a round from when it has raised a fence until it has looked.
#[derive(Debug)]
pub(super) struct Look {
    fences: Arc<Fences>,
    partition: PartitionId,
}

impl Fence {
    fn settle(&mut self) {
        if self.looks == 0 {
            let most = match self.looked.is_suspect {
                true => self.looked.fence,
                false => u64::MAX,
            };
            self.stamps = self.stamps.max(self.durable.fence.min(most));
        }
    }
}

impl Fences {
    /// What the disk says, for each partition in order, and since when this node is of the cluster, if it ever was.
    pub(super) fn new(kept: Vec<(Kept, Looked)>, since: Option<u64>) -> Fences {
        let fence = |(kept, looked): (Kept, Looked)| {
            // What is suspect speaks for nothing beyond its last look, so that nobody gives way to it for less.
            let fence = match looked.is_suspect {
                true => kept.fence.min(looked.fence),
                false => kept.fence,
            };
            Mutex::new(Fence {
                admits: fence,
                told: kept,
                durable: kept,
                stamps: fence,
                looks: 0,
                looked,
            })
        };
        Fences {
            of: kept.into_iter().map(fence).collect(),
            since: AtomicU64::new(since.unwrap_or(NEVER)),
            raised: Notify::new(),
            giving_up: tokio::sync::Mutex::default(),
        }
    }

    /// The fence under which this node has looked last, where the disk has lost its end since.
    pub(super) fn suspect(&self, partition: PartitionId) -> Option<u64> {
        let looked = self.lock(partition)?.looked;
        looked.is_suspect.then_some(looked.fence)
    }

    /// All partitions of which that is so.
    pub(super) fn suspects(&self) -> Vec<PartitionId> {
        let all = (0..=u16::MAX).map(PartitionId).take(self.of.len());
        all.filter(|id| self.suspect(*id).is_some()).collect()
    }

    /// A look under this fence is over. Returns what the disk is to be told.
    pub(super) fn note_look(&self, partition: PartitionId, fence: u64) -> Looked {
        self.lock(partition).map_or_else(Looked::default, |mut of| {
            of.looked.fence = of.looked.fence.max(fence);
            of.looked
        })
    }

    /// Nothing is left on the disk of what may be too old, but not all is there yet either: it is as suspect as before, and gives
    /// way to nobody any more.
    pub(super) fn note_emptied(&self, partition: PartitionId) {
        if let Some(mut fence) = self.lock(partition) {
            fence.looked.fence = EMPTIED;
        }
    }

    /// All that should be on the disk is there, and the disk says so.
    pub(super) fn trust(&self, partition: PartitionId) {
        if let Some(mut fence) = self.lock(partition) {
            // The next look says anew how old it is at most.
            let fence_of_look = fence.looked.fence;
            fence.looked = Looked {
                fence: if fence_of_look == EMPTIED {
                    0
                } else {
                    fence_of_look
                },
                is_suspect: false,
            };
            fence.admits = fence.admits.max(fence.durable.fence);
            fence.settle();
        }
        self.raised.notify_waiters();
    }

    /// `None`: the cluster has fewer partitions.
    fn lock(&self, partition: PartitionId) -> Option<MutexGuard<'_, Fence>> {
        let fence = self.of.get(usize::from(partition.0))?;
        Some(fence.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// With what anything of the partition that is read from now on is stamped.
    pub(super) fn stamp(&self, partition: PartitionId, map_version: u64) -> Stamp {
        let fence = self.lock(partition).map_or(0, |fence| fence.stamps);
        Stamp { map_version, fence }
    }

    /// The fence by which states are admitted.
    pub(in crate::node) fn admits(&self, partition: PartitionId) -> u64 {
        self.lock(partition).map_or(NEVER, |fence| fence.admits)
    }

    /// The first version of the map in which this node is registered; `None`: it is in none that it knows of.
    pub(in crate::node) fn since(&self) -> Option<u64> {
        let since = self.since.load(Ordering::Acquire);
        (since != NEVER).then_some(since)
    }

    /// This node is registered in this version of the map. Returns whether that is news.
    pub(super) fn note_since(&self, map_version: u64) -> bool {
        let news =
            self.since
                .compare_exchange(NEVER, map_version, Ordering::AcqRel, Ordering::Acquire);
        news.is_ok()
    }

    /// Hands a state to the store, by `submit`, if its stamp allows it. No fence is raised in between: whoever flushes the
    /// store's queue after raising one finds it there. `map_version` is that of the newest map, or `None` where that says
    /// that the sender was removed.
    pub(super) fn admit<T>(
        &self,
        partition: PartitionId,
        stamp: Stamp,
        map_version: impl FnOnce() -> Option<u64>,
        submit: impl FnOnce() -> T,
    ) -> Result<T, NotTaken> {
        let fenced = |fence| Refusal::Fenced {
            sent: stamp.fence,
            fence,
        };
        let Some(fence) = self.lock(partition) else {
            return Err(NotTaken::Stale(fenced(NEVER)));
        };
        let map_version = map_version().ok_or(NotTaken::Removed)?;
        if map_version < fence.told.map_version {
            return Err(NotTaken::Stale(Refusal::NewMap {
                sent: fence.told.map_version,
                known: map_version,
            }));
        }
        let knowledge = self.knowledge(map_version, fence.admits);
        knowledge.admit(stamp).map_err(NotTaken::Stale)?;
        Ok(submit())
    }

    /// What decides by this fence which states may be taken.
    pub(super) fn knowledge(&self, map_version: u64, fence: u64) -> Knowledge {
        Knowledge {
            map_version,
            member_since: self.since.load(Ordering::Acquire),
            fence,
        }
    }

    /// The first half of an answer to a round: from now on nothing older is admitted, and nothing goes out under the new
    /// fence before the look is over.
    pub(super) fn begin_look(
        self: &Arc<Self>,
        question: &Question,
        map_version: u64,
    ) -> Result<Look, Void> {
        let partition = question.partition;
        let other_map = Void::OtherMap { known: map_version };
        let mut fence = self.lock(partition).ok_or(other_map)?;
        fence.admits = raise(question, map_version, fence.admits)?;
        fence.looks += 1;
        drop(fence);
        Ok(Look {
            fences: Arc::clone(self),
            partition,
        })
    }

    /// Another node is at this fence: nothing lower is admitted from now on. Returns whether the disk does not say so yet.
    pub(super) fn learn(&self, partition: PartitionId, heard: u64) -> bool {
        let Some(mut fence) = self.lock(partition) else {
            return false;
        };
        fence.admits = fence.admits.max(heard);
        fence.durable.fence < heard
    }

    /// Has the disk told of the fence, by `submit`. What it is told never goes down.
    pub(super) fn tell(&self, partition: PartitionId, map_version: u64, submit: impl FnOnce(Kept)) {
        if let Some(mut fence) = self.lock(partition) {
            fence.told = Kept {
                fence: fence.admits.max(fence.told.fence),
                map_version: fence.told.map_version.max(map_version),
            };
            submit(fence.told);
        }
    }

    /// The disk says so now.
    pub(super) fn note_durable(&self, partition: PartitionId, kept: Kept) {
        if let Some(mut fence) = self.lock(partition) {
            let durable = &mut fence.durable;
            durable.fence = durable.fence.max(kept.fence);
            durable.map_version = durable.map_version.max(kept.map_version);
            fence.settle();
        }
        self.raised.notify_waiters();
    }

    /// Waits until what is read is stamped with this fence or a higher one; `false`: not in time.
    pub(super) async fn reaches(&self, partition: PartitionId, wanted: u64, by: Instant) -> bool {
        loop {
            let rung = self.raised.notified();
            tokio::pin!(rung);
            // Before the look: what is raised after it rings.
            rung.as_mut().enable();
            if self.stamp(partition, 0).fence >= wanted {
                return true;
            }
            if timeout_at(by, rung).await.is_err() {
                return false;
            }
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(mut fence) = self.fences.lock(self.partition) {
            fence.looks -= 1;
            fence.settle();
        }
        self.fences.raised.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(0);

    fn question(fence: u64) -> Question {
        Question {
            map_version: 7,
            partition: P,
            fence,
            candidates: Vec::new(),
        }
    }

    fn kept(fence: u64) -> Kept {
        Kept {
            fence,
            map_version: 7,
        }
    }

    fn fences(fence: u64) -> Arc<Fences> {
        Arc::new(Fences::new(vec![(kept(fence), Looked::default())], Some(3)))
    }

    fn admits(fences: &Fences, map_version: u64, fence: u64) -> Result<(), Refusal> {
        let stamp = Stamp { map_version, fence };
        let taken = fences.admit(P, stamp, || Some(7), || ());
        taken.map_err(|cause| match cause {
            NotTaken::Stale(refusal) => refusal,
            NotTaken::Removed => panic!("nobody was removed"),
        })
    }

    fn told(fences: &Fences) -> Kept {
        let mut told = None;
        fences.tell(P, 7, |kept| told = Some(kept));
        told.unwrap()
    }

    #[test]
    fn nothing_goes_out_under_a_fence_before_the_look_is_over() {
        let fences = fences(4);
        let look = fences.begin_look(&question(6), 7).unwrap();
        assert_eq!(
            admits(&fences, 7, 5),
            Err(Refusal::Fenced { sent: 5, fence: 6 })
        );
        assert_eq!(fences.stamp(P, 7).fence, 4, "it is not durable");
        assert_eq!(told(&fences), kept(6));
        fences.note_durable(P, kept(6));
        assert_eq!(fences.stamp(P, 7).fence, 4, "it has not looked");
        // Nor under one that it hears of meanwhile.
        assert!(fences.learn(P, 9));
        assert_eq!(told(&fences), kept(9), "never less than before");
        fences.note_durable(P, kept(9));
        assert_eq!(fences.stamp(P, 7).fence, 4);
        drop(look);
        assert_eq!(fences.stamp(P, 7).fence, 9);
        let late = fences.begin_look(&question(9), 7);
        assert_eq!(late.unwrap_err(), Void::Fenced { fence: 9 });
    }

    #[test]
    fn a_look_that_was_given_up_before_the_fence_was_durable_raises_no_stamp() {
        let fences = fences(4);
        drop(fences.begin_look(&question(6), 7).unwrap());
        assert_eq!((fences.stamp(P, 7).fence, fences.admits(P)), (4, 6));
        fences.note_durable(P, kept(6));
        assert_eq!(fences.stamp(P, 7).fence, 6);
    }

    #[test]
    fn what_is_heard_of_counts_at_once_and_is_said_when_it_is_durable() {
        let fences = fences(4);
        assert!(!fences.learn(P, 4));
        assert!(fences.learn(P, 8));
        assert_eq!((fences.stamp(P, 7).fence, fences.admits(P)), (4, 8));
        fences.note_durable(P, kept(8));
        assert_eq!(fences.stamp(P, 7).fence, 8);
    }

    #[test]
    fn who_is_in_no_map_or_has_an_older_one_than_before_takes_nothing() {
        let new = Fences::new(vec![(kept(0), Looked::default())], None);
        assert!(matches!(admits(&new, 7, 0), Err(Refusal::OldMap { .. })));
        assert!(new.note_since(5) && !new.note_since(6));
        assert_eq!(new.since(), Some(5));
        assert!(admits(&new, 7, 0).is_ok());
        assert!(matches!(admits(&new, 4, 0), Err(Refusal::OldMap { .. })));
        assert!(matches!(admits(&new, 8, 0), Err(Refusal::NewMap { .. })));
        let stamp = Stamp {
            map_version: 5,
            fence: 9,
        };
        let refused = |version| new.admit(P, stamp, || version, || ()).unwrap_err();
        let behind = Refusal::NewMap { sent: 7, known: 6 };
        assert_eq!(refused(Some(6)), NotTaken::Stale(behind));
        assert_eq!(refused(None), NotTaken::Removed);
    }

    #[test]
    fn a_disk_without_its_end_is_stamped_with_what_it_has_looked_under() {
        let looked = Looked {
            fence: 2,
            is_suspect: true,
        };
        let fences = Fences::new(vec![(kept(4), looked)], Some(3));
        assert_eq!((fences.stamp(P, 7).fence, fences.admits(P)), (2, 2));
        assert_eq!((fences.suspect(P), fences.suspects()), (Some(2), vec![P]));
        assert_eq!(told(&fences), kept(4), "the disk is told nothing lower");
        fences.learn(P, 6);
        fences.note_durable(P, kept(6));
        assert_eq!(fences.stamp(P, 7).fence, 2);
        fences.note_emptied(P);
        fences.note_durable(P, kept(6));
        assert_eq!(
            (fences.stamp(P, 7).fence, fences.suspect(P)),
            (6, Some(EMPTIED))
        );
        fences.trust(P);
        assert_eq!((fences.stamp(P, 7).fence, fences.suspect(P)), (6, None));
        assert_eq!(
            fences.note_look(P, 6),
            Looked {
                fence: 6,
                is_suspect: false
            }
        );
        assert_eq!(fences.note_look(P, 5).fence, 6);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_fence_is_told_of_it() {
        let fences = fences(4);
        let soon = Instant::now() + std::time::Duration::from_millis(20);
        assert!(!fences.reaches(P, 6, soon).await);
        let look = fences.begin_look(&question(6), 7).unwrap();
        fences.note_durable(P, kept(6));
        let late = Instant::now() + std::time::Duration::from_secs(30);
        let waiting = fences.reaches(P, 6, late);
        let (reached, ()) = tokio::join!(waiting, async { drop(look) });
        assert!(reached);
    }
}
