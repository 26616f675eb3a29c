//! What an entry of a replicated journal carries through this crate.

use std::sync::Arc;

use bytes::Bytes;
use mesh_ring::{command::Command, replica::Weigh};

/// Bytes that a command takes in memory besides its name, roughly.
const COMMAND_BYTES: usize = 160;

/// A command, and for an append the batch that it points at. Clones share both.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload(Arc<Content>);

#[derive(Debug, Eq, PartialEq)]
struct Content {
    command: Command,
    batch: Option<Bytes>,
}

impl Payload {
    /// What a journal entry holds. `batch` is the stamped batch of an append; `None` where it was trimmed away.
    pub fn new(command: Command, batch: Option<Bytes>) -> Self {
        Self(Arc::new(Content { command, batch }))
    }

    /// The command.
    pub fn command(&self) -> &Command {
        &self.0.command
    }

    /// The stamped batch of an append that was not trimmed away.
    pub fn batch(&self) -> Option<&Bytes> {
        self.0.batch.as_ref()
    }
}

impl Weigh for Payload {
    fn bytes(&self) -> usize {
        let name = match self.command() {
            Command::CreateTopic { name, .. } | Command::CommitCursor { name, .. } => name.len(),
            _ => 0,
        };
        COMMAND_BYTES + name + self.batch().map_or(0, Bytes::len)
    }
}
