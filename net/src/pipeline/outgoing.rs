//! Frames of many tasks on their way to one stream.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use prost::Message;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    task::yield_now,
};

use crate::wire::frame::{Chunks, FrameError, FrameWriter};

/// What waits to be written: anyone adds frames, one task writes them, as many at a time as there are.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    changed: Notify,
    taken: Notify,
}

#[derive(Debug, Default)]
struct State {
    chunks: Chunks,
    /// What bounds those who added to the chunks, until these are written.
    held: Vec<OwnedSemaphorePermit>,
    /// Frames that somebody has promised.
    owed: usize,
    ended: bool,
    /// Nobody writes any more.
    lost: bool,
}

impl Outgoing {
    /// Adds a frame. Where nobody writes any more it goes nowhere.
    ///
    /// # Errors
    /// As for [`Chunks::push_frame`]; nothing is added then.
    pub(crate) fn push<M: Message>(&self, header: &M, body: &[Bytes]) -> Result<(), FrameError> {
        let mut state = self.lock();
        if state.lost {
            return Ok(());
        }
        let was_empty = state.chunks.is_empty();
        state.chunks.push_frame(header, body)?;
        drop(state);
        if was_empty {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().chunks.bytes()
    }

    /// Resolves once at most so many bytes wait. For one task at a time. Cancel-safe.
    pub(crate) async fn room(&self, bytes: usize) {
        while self.bytes() > bytes {
            self.taken.notified().await;
        }
    }

    /// Promises an answer; the stream does not end before [`Outgoing::paid`].
    pub(crate) fn owe(&self) {
        self.lock().owed += 1;
    }

    /// An answer that was promised has been added, to its last frame. What it was admitted by is given back when it is
    /// written: a caller that does not read its answers is not to fill this node's memory with them.
    pub(crate) fn paid(&self, admitted: Option<OwnedSemaphorePermit>) {
        let mut state = self.lock();
        if !state.lost {
            state.held.extend(admitted);
        }
        state.owed -= 1;
        let is_last = state.owed == 0 && state.ended;
        drop(state);
        if is_last {
            self.changed.notify_one();
        }
    }

    /// Nothing but what is owed will be added any more.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// Resolves once there is something to write. Cancel-safe.
    pub(crate) async fn filled(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.lock().chunks.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Writes what is added until it has ended and nothing is owed.
    ///
    /// # Errors
    /// [`FrameError::Lost`]; what is added from then on goes nowhere.
    pub(crate) async fn write(&self, writer: &mut FrameWriter) -> Result<(), FrameError> {
        let _lost = Losing(self);
        loop {
            let (mut chunks, held, is_over) = {
                let mut state = self.lock();
                let is_over = state.ended && state.owed == 0;
                let chunks = std::mem::take(&mut state.chunks);
                (chunks, std::mem::take(&mut state.held), is_over)
            };
            if !chunks.is_empty() {
                self.taken.notify_one();
                writer.chunks(&mut chunks).await?;
                drop(held);
                continue;
            }
            if is_over {
                return Ok(());
            }
            self.changed.notified().await;
            // Whoever else is ready adds to it first, so that they share a write: one fsync answers many.
            yield_now().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that nobody writes any more, however writing ended.
struct Losing<'a>(&'a Outgoing);

impl Drop for Losing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.lost = true;
        state.chunks = Chunks::default();
        state.held.clear();
        self.0.taken.notify_one();
    }
}
