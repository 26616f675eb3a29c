//! Every task of this crate: spawned here, with a name, an owner and an end.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, ready},
};

use tokio::{
    runtime::Handle,
    task::{Id, JoinError, JoinSet},
};

/// The tasks of one owner, which joins or aborts them all. Cheap to clone; all clones are the same set.
///
/// Dropping the last clone aborts what still runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct TaskSet(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    running: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl TaskSet {
    /// Runs `task` until it ends by itself or the set is aborted. A panic ends it alone, and is logged with its name.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut tasks = self.lock();
        while let Some(ended) = tasks.running.try_join_next_with_id() {
            tasks.note_end(ended);
        }
        let id = tasks.running.spawn(task).id();
        tasks.names.insert(id, name);
    }

    /// Waits until every task has ended, those spawned meanwhile included.
    pub(crate) async fn join(&self) {
        poll_fn(|cx| {
            let mut tasks = self.lock();
            while let Some(ended) = ready!(tasks.running.poll_join_next_with_id(cx)) {
                tasks.note_end(ended);
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Ends every task at its next await.
    pub(crate) fn abort(&self) {
        self.lock().running.abort_all();
    }

    /// The names of those that still run, each once: what a stop that takes too long waits for.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.lock().names.values().copied().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks {
    fn note_end(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), error.is_panic().then_some(error)),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        if let Some(panic) = panic {
            tracing::error!(task = name, %panic, "a task panicked");
        }
    }
}

/// Starts `work`, which may wait for the disk, at once, on a thread where that holds up no task. `None`: it panicked. Where
/// the runtime is ending it never resolves: whoever waits ends with the runtime, and answers nobody.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Option<T>> + Send {
    let running = Handle::current().spawn_blocking(work);
    async move {
        match running.await {
            Ok(done) => Some(done),
            Err(error) if error.is_cancelled() => std::future::pending().await,
            Err(error) => {
                tracing::error!(%error, "blocking work was abandoned");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn join_waits_for_every_task_and_survives_a_panic() {
        let tasks = TaskSet::default();
        let (end, ended) = oneshot::channel::<()>();
        let inner = tasks.clone();
        tasks.spawn("outer", async move {
            inner.spawn("inner", async move {
                let _ = ended.await;
            });
            panic!("on purpose");
        });
        tokio::select! {
            biased;
            () = tasks.join() => panic!("joined while a task runs"),
            () = async { while tasks.names() != ["inner"] { tokio::task::yield_now().await } } => {}
        }
        end.send(()).unwrap();
        tasks.join().await;
        assert!(tasks.names().is_empty());
    }

    #[tokio::test]
    async fn abort_ends_what_would_never_end() {
        let tasks = TaskSet::default();
        tasks.spawn("endless", std::future::pending());
        tasks.abort();
        tasks.join().await;
    }
}
