//! The way to one node: dialled when it is needed, shared by everything, dialled again when it is lost.

use std::{
    sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use super::{
    doubt::{Dialling, Doubt},
    error::Lost,
    line::Line,
    sockets::Sockets,
};
use crate::tasks::TaskSet;

/// The longest that one attempt to connect may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Those who wanted a connection while an attempt failed share its failure for so long.
const FAILURE_SHARED_FOR: Duration = Duration::from_millis(50);

/// Where a node is, and the connection to it.
#[derive(Debug)]
pub(super) struct Link {
    me: Weak<Link>,
    address: Arc<str>,
    sockets: Arc<Sockets>,
    tasks: TaskSet,
    current: SyncMutex<Option<Line>>,
    /// Held by the one that dials. How its attempt failed.
    dialling: Mutex<Option<(Instant, Lost)>>,
    doubt: Doubt,
}

impl Link {
    pub(super) fn new(address: Arc<str>, sockets: Arc<Sockets>, tasks: TaskSet) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            address,
            sockets,
            tasks,
            current: SyncMutex::default(),
            dialling: Mutex::default(),
            doubt: Doubt::new(),
        })
    }

    pub(super) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// Whether the node is to be asked last.
    pub(super) fn doubt(&self) -> &Doubt {
        &self.doubt
    }

    /// Dials the node while others are asked, unless somebody does.
    pub(super) fn try_aside(&self) {
        let Some(link) = self.me.upgrade() else {
            return;
        };
        if self.doubt.begin_try() {
            self.tasks.spawn("dialling aside", async move {
                if link.line(Instant::now() + DIAL_TIMEOUT).await.is_ok() {
                    link.doubt.end();
                }
                link.doubt.end_try();
            });
        }
    }

    /// The connection, dialled anew where there is none that lives. One attempt.
    ///
    /// # Errors
    /// [`Lost::Connection`] where the node does not answer, at `deadline` at the latest; [`Lost::Refused`] where it will
    /// not have this client.
    pub(super) async fn line(&self, deadline: Instant) -> Result<Line, Lost> {
        if let Some(line) = self.living() {
            return Ok(line);
        }
        let late = || {
            Lost::Connection(format!(
                "{} does not answer; is the node running?",
                self.address
            ))
        };
        let deadline = deadline.min(Instant::now() + DIAL_TIMEOUT);
        let mut failed = timeout_at(deadline, self.dialling.lock())
            .await
            .map_err(|_| late())?;
        if let Some(line) = self.living() {
            return Ok(line);
        }
        if let Some((at, lost)) = &*failed
            && at.elapsed() < FAILURE_SHARED_FOR
        {
            return Err(lost.clone());
        }
        let dialling = Dialling::begin(&self.doubt);
        let dialled = match timeout_at(deadline, self.sockets.dial(&self.address)).await {
            Ok(dialled) => {
                dialling.ended(dialled.is_ok());
                dialled
            }
            // Whoever asked may have had no time for it.
            Err(_) => {
                drop(dialling);
                Err(late())
            }
        };
        match dialled {
            Ok((connection, fingerprint)) => {
                let line = Line::new(self.address.clone(), connection);
                let revoked = self.sockets.identity.revoked().clone();
                let pulse = line.pulse(self.me.clone(), revoked, fingerprint);
                self.tasks.spawn("pulse", pulse);
                let carrying = line.calls().carry(line.connection().clone());
                self.tasks.spawn("pipeline", carrying);
                *self.current() = Some(line.clone());
                *failed = None;
                Ok(line)
            }
            Err(lost) => {
                *failed = Some((Instant::now(), lost.clone()));
                Err(lost)
            }
        }
    }

    /// Dials anew for whoever asks next, and leaves those who still use `line` alone.
    pub(super) fn forget(&self, line: &Line) {
        let mut current = self.current();
        if current
            .as_ref()
            .is_some_and(|current| current.is_same_as(line))
        {
            *current = None;
        }
    }

    /// The connection, if there is one.
    pub(super) fn living(&self) -> Option<Line> {
        self.current().clone().filter(Line::is_open)
    }

    fn current(&self) -> MutexGuard<'_, Option<Line>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
