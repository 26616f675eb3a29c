//! Who is let in while many knock: what a flood of handshakes can cost the node is bounded here.
//!
//! A handshake costs memory and a signature before its peer has shown anything, so that only so many may be under way.
//! While they are few, everyone is let in at once. Beyond half, a peer must first prove that it receives what is sent to
//! its address, for which the node keeps nothing; so forged addresses leave the other half free.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most handshakes under way at a time.
const HANDSHAKES_MAX: usize = 256;
/// With more than so many connections that are not established, addresses are to be proved.
const UNPROVED_MAX: usize = HANDSHAKES_MAX / 2;
/// Most connections, the handshakes under way included.
const CONNECTIONS_MAX: usize = 4096;
/// With so many connections that are not established nobody is let in. Nearly all have ended then, and are kept by QUIC
/// for some round trips, in which it answers what still comes.
const UNESTABLISHED_MAX: usize = 1024;

/// Counts connections from their first packet to their end.
#[derive(Debug)]
pub(super) struct Gate {
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// What becomes of one who knocks.
#[derive(Debug)]
pub(super) enum Answer {
    /// The handshake may begin.
    Welcome(Pass),
    /// It is to prove its address and come again.
    Prove,
    /// It may try later; why.
    Refuse(&'static str),
}

/// The place of one connection among those that may be. Dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Pass {
    handshake: Option<OwnedSemaphorePermit>,
    _connection: OwnedSemaphorePermit,
}

impl Pass {
    /// The handshake has ended well: another may begin.
    pub(super) fn established(&mut self) {
        self.handshake = None;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }
}

impl Gate {
    /// Decides on one who knocks. `open` connections exist in QUIC, those included that have ended and linger; `proved`:
    /// the peer receives what is sent to its address.
    pub(super) fn knock(&self, open: usize, proved: bool) -> Answer {
        let unestablished = open
            .saturating_sub(self.established())
            .max(self.handshakes());
        if unestablished >= UNESTABLISHED_MAX {
            return Answer::Refuse("too many connections are ending");
        }
        let Ok(connection) = Arc::clone(&self.connections).try_acquire_owned() else {
            return Answer::Refuse("there are too many connections");
        };
        let Ok(handshake) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            return Answer::Refuse("too many handshakes are under way");
        };
        if !proved && unestablished >= UNPROVED_MAX {
            return Answer::Prove;
        }
        Answer::Welcome(Pass {
            handshake: Some(handshake),
            _connection: connection,
        })
    }

    /// Connections whose handshake has ended well.
    pub(super) fn established(&self) -> usize {
        // In this order: a handshake that begins in between makes it one too few, never one too many.
        let connections = CONNECTIONS_MAX - self.connections.available_permits();
        connections.saturating_sub(self.handshakes())
    }

    fn handshakes(&self) -> usize {
        HANDSHAKES_MAX - self.handshakes.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn welcome(gate: &Gate, open: usize, proved: bool) -> Pass {
        match gate.knock(open, proved) {
            Answer::Welcome(pass) => pass,
            other => panic!("{other:?}"),
        }
    }

    fn is_refused(gate: &Gate, open: usize, proved: bool) -> bool {
        matches!(gate.knock(open, proved), Answer::Refuse(_))
    }

    #[test]
    fn half_of_the_handshakes_are_for_proved_addresses() {
        let gate = Gate::default();
        let mut passes: Vec<_> = (0..UNPROVED_MAX)
            .map(|open| welcome(&gate, open, false))
            .collect();
        assert!(matches!(gate.knock(passes.len(), false), Answer::Prove));
        while passes.len() < HANDSHAKES_MAX {
            passes.push(welcome(&gate, passes.len(), true));
        }
        assert!(is_refused(&gate, passes.len(), true));
        assert_eq!(gate.established(), 0);
        passes.pop();
        welcome(&gate, passes.len(), true);
    }

    #[test]
    fn established_connections_have_a_limit_of_their_own() {
        let gate = Gate::default();
        let mut passes = Vec::new();
        while passes.len() < CONNECTIONS_MAX {
            let mut pass = welcome(&gate, passes.len(), false);
            pass.established();
            passes.push(pass);
        }
        assert_eq!(gate.established(), CONNECTIONS_MAX);
        assert!(is_refused(&gate, passes.len(), true));
        passes.pop();
        assert_eq!(gate.established(), CONNECTIONS_MAX - 1);
        welcome(&gate, passes.len(), false);
    }

    #[test]
    fn those_that_have_ended_count_as_long_as_they_linger() {
        let gate = Gate::default();
        drop(welcome(&gate, 0, false));
        assert!(matches!(gate.knock(UNPROVED_MAX, false), Answer::Prove));
        welcome(&gate, UNPROVED_MAX, true);
        assert!(is_refused(&gate, UNESTABLISHED_MAX, true));
    }
}
