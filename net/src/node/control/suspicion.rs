//! A log that may have lost its end: its node neither votes nor campaigns by itself until it is known to lack nothing.

use std::sync::atomic::Ordering;

use mesh_engine::RowChange;

use super::raft::Vote;
use super::rows::{self, RowError};
use super::{ControlConfig, Shared};

/// Whether the log may have lost its end, now or at an earlier start since which it was not caught up.
pub(super) async fn mark(config: &ControlConfig) -> Result<bool, RowError> {
    let marked: Option<()> = rows::read(&config.engine, rows::SUSPECT)?;
    if config.suspect {
        let row = |key: &[u8], value: Result<Vec<u8>, _>| RowChange::Put {
            key: key.to_vec(),
            value: value.unwrap_or_default(),
        };
        let mut changes = vec![row(rows::SUSPECT, rows::encode(&()))];
        let vote: Option<Vote> = rows::read(&config.engine, rows::VOTE)?;
        if let Some(mut vote) = vote {
            // A leader would go on as one without any election, and give lost entries' numbers away once more.
            vote.committed = false;
            changes.push(row(rows::VOTE, rows::encode(&vote)));
        }
        rows::write(&config.engine, changes).await?;
    }
    Ok(marked.is_some() || config.suspect)
}

impl Shared {
    /// Whether the log may have lost its end: then this node neither votes nor campaigns.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    /// A leader knows of nothing on this node that this node does not have, or nobody who votes knows more: its log is
    /// whole again.
    pub(super) async fn trust_again(&self) {
        let gone = RowChange::Delete {
            key: rows::SUSPECT.to_vec(),
        };
        if rows::write(&self.engine, vec![gone]).await.is_ok() {
            self.suspect.store(false, Ordering::Release);
            self.forget_assembly();
            self.raft.runtime_config().elect(true);
            tracing::info!("the control plane's log is whole again: this node may vote");
        }
    }
}
