//! One topic of one producer: what waits, what is numbered, and the node that it goes to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32};

use super::{
    flights::Flights,
    gather::{Gather, Shared},
    lane::Lane,
};
use crate::client::ClientError;

/// One topic of one producer.
#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    gather: Mutex<Gather>,
    /// Only those that send look here.
    flights: Mutex<Flights>,
    /// The node that it goes to. Changed only under the lock of `flights`, so that what is sent is sent on one lane.
    lane: Mutex<Option<Arc<Lane>>>,
    /// How often another node had to be found since something was appended.
    pub(super) bounces: AtomicU32,
}

impl Topic {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            gather: Mutex::default(),
            flights: Mutex::default(),
            lane: Mutex::default(),
            bounces: AtomicU32::new(0),
        }
    }

    /// The lane that it is on, which may have ended.
    pub(super) fn lane(&self) -> Option<Arc<Lane>> {
        self.lane
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn is_on(&self, lane: &Lane) -> bool {
        self.lane
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_deref()
            .is_some_and(|on| std::ptr::eq(on, lane))
    }

    /// Moves it. The caller holds `flights`, in which nothing is under way.
    pub(super) fn set_lane(&self, _flights: &MutexGuard<'_, Flights>, lane: Option<Arc<Lane>>) {
        *self.lane.lock().unwrap_or_else(PoisonError::into_inner) = lane;
    }

    pub(super) fn gather(&self) -> MutexGuard<'_, Gather> {
        self.gather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up everything that it has.
    pub(super) fn fail(&self, error: &ClientError, shared: &Shared) {
        let mut released = self.flights().fail(error);
        let mut gather = self.gather();
        while let Some(pending) = gather.take(0) {
            pending.completion.resolve(Err(error.clone()));
            released += pending.counted;
        }
        gather.looked(0);
        drop(gather);
        shared.inflight.release(released);
    }

    pub(super) fn is_idle(&self) -> bool {
        // One lock at a time: a lane takes both, the other way round.
        let nothing_waits = self.gather().is_empty();
        nothing_waits && self.flights().is_empty()
    }
}
