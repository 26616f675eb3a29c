//! The writer's queue: bounded in bytes, with a lane for control that bulk cannot hold up.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Op;
use crate::error::Stopped;

/// Most bytes of appends and writes that wait for the writer; an append blocks beyond them.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Most bytes that go into one WriteBatch and share one fsync.
const GROUP_BYTES_MAX: usize = 8 << 20;

pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    room: Condvar,
}

#[derive(Default)]
struct State {
    control: VecDeque<Op>,
    bulk: VecDeque<(Op, usize)>,
    bytes: usize,
    writer_waits: bool,
    pushers_wait: usize,
    closing: bool,
    stopped: Option<Stopped>,
}

/// What the writer found when it looked.
pub(crate) enum Taken {
    /// Work, in order, control first.
    Ops(Vec<Op>),
    /// Nothing came within the time.
    Idle,
    /// Nothing is left and nothing will come.
    Closed,
}

impl Queue {
    pub(crate) fn new() -> Queue {
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            room: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is a few counters and lists that every path leaves whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `op`, which weighs `bytes`; waits while the queue is full. A stopped store refuses it.
    pub(crate) fn push(&self, op: Op, bytes: usize) {
        let mut state = self.room_for(self.lock(), bytes);
        if let Some(stopped) = state.refusal() {
            drop(state);
            return op.refuse(&stopped);
        }
        state.bytes += bytes;
        state.bulk.push_back((op, bytes));
        self.wake(state);
    }

    /// Waits until an op of `bytes` would not wait in [`Queue::push`].
    pub(crate) fn wait_for_room(&self, bytes: usize) {
        let state = self.lock();
        drop(self.room_for(state, bytes));
    }

    /// Queues `op` behind all bulk, whatever the bound: whoever calls has waited for room, or bounds what it has under way.
    pub(crate) fn push_reserved(&self, op: Op, bytes: usize) {
        let mut state = self.lock();
        if let Some(stopped) = state.refusal() {
            drop(state);
            return op.refuse(&stopped);
        }
        state.bytes += bytes;
        state.bulk.push_back((op, bytes));
        self.wake(state);
    }

    /// Waits until the queue has room for `bytes`, or takes nothing any more.
    fn room_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        bytes: usize,
    ) -> MutexGuard<'a, State> {
        while state.bytes > 0 && state.bytes + bytes > QUEUE_BYTES_MAX && state.refusal().is_none()
        {
            state.pushers_wait += 1;
            state = self
                .room
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.pushers_wait -= 1;
        }
        state
    }

    /// Queues `op` ahead of all bulk, whatever the bound.
    pub(crate) fn push_control(&self, op: Op) {
        let mut state = self.lock();
        if let Some(stopped) = state.refusal() {
            drop(state);
            return op.refuse(&stopped);
        }
        state.control.push_back(op);
        self.wake(state);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if std::mem::take(&mut state.writer_waits) {
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Takes the next group, waiting up to `patience` for the first op (`None`: for ever).
    pub(crate) fn take(&self, patience: Option<Duration>) -> Taken {
        let mut state = self.lock();
        while state.control.is_empty() && state.bulk.is_empty() {
            if state.closing {
                return Taken::Closed;
            }
            state.writer_waits = true;
            match patience {
                None => {
                    state = self
                        .filled
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner)
                }
                Some(patience) => {
                    let (woken, wait) = self
                        .filled
                        .wait_timeout(state, patience)
                        .unwrap_or_else(PoisonError::into_inner);
                    state = woken;
                    if wait.timed_out()
                        && state.control.is_empty()
                        && state.bulk.is_empty()
                        && !state.closing
                    {
                        state.writer_waits = false;
                        return Taken::Idle;
                    }
                }
            }
        }
        let mut ops: Vec<Op> = state.control.drain(..).collect();
        let mut group = 0;
        while let Some((op, bytes)) = state.bulk.pop_front() {
            group += bytes;
            state.bytes -= bytes;
            ops.push(op);
            if group >= GROUP_BYTES_MAX {
                break;
            }
        }
        if state.pushers_wait > 0 {
            self.room.notify_all();
        }
        Taken::Ops(ops)
    }

    /// Lets no more in; what is queued is still taken.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.filled.notify_one();
        self.room.notify_all();
    }

    /// Stops for good and gives back what was queued.
    pub(crate) fn stop(&self, stopped: &Stopped) -> Vec<Op> {
        let mut state = self.lock();
        state.stopped = Some(stopped.clone());
        state.closing = true;
        state.bytes = 0;
        let mut ops: Vec<Op> = state.control.drain(..).collect();
        ops.extend(state.bulk.drain(..).map(|(op, _)| op));
        drop(state);
        self.room.notify_all();
        ops
    }

    /// Why the store takes no writes, if it does not.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        self.lock().refusal()
    }
}

impl State {
    fn refusal(&self) -> Option<Stopped> {
        match &self.stopped {
            Some(stopped) => Some(stopped.clone()),
            None if self.closing => Some(Stopped {
                cause: "it was closed".into(),
            }),
            None => None,
        }
    }
}
