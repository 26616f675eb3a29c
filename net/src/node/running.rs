//! The tasks of a node, which are told to stop together and waited for together.

use std::future::Future;

use tokio_util::sync::CancellationToken;

use crate::tasks::TaskSet;

/// Every task of the node: connections, streams, upkeep.
#[derive(Clone, Debug, Default)]
pub(super) struct Running {
    set: TaskSet,
    stopping: CancellationToken,
}

impl Running {
    /// Runs `task`, which ends by itself or once [`Running::stopping`] resolves.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.set.spawn(name, task);
    }

    /// Resolves once [`Running::stop`] was called.
    pub(super) async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether [`Running::stop`] was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Tells every task to finish what it has accepted.
    pub(super) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits until every task has ended.
    pub(super) async fn ended(&self) {
        self.set.join().await;
    }

    /// Ends what still runs, and says what that was.
    pub(super) fn abort(&self) -> Vec<&'static str> {
        self.set.abort();
        self.set.names()
    }
}
