//! How patient gossip is.

use core::time::Duration;
use std::num::{NonZeroU8, NonZeroUsize};

use foca::{Config, PeriodicParams};

use super::DATAGRAM_BYTES_MAX;

/// Nodes that are asked to ask another one, and that news is told to at a time.
const FANOUT: NonZeroUsize = NonZeroUsize::new(3).unwrap();
/// How often each node tells a piece of news.
const TELLINGS: NonZeroU8 = NonZeroU8::new(10).unwrap();

/// How patient gossip is. All in milliseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tuning {
    /// Time from one question to the next.
    pub probe_interval_ms: u64,
    /// Time for a direct answer, before others are asked to ask; less than the interval.
    pub probe_timeout_ms: u64,
    /// Time in which a suspected node may object.
    pub suspect_ms: u64,
    /// Time between tellings of news.
    pub gossip_ms: u64,
    /// Time between calls of nodes that should be there and are not.
    pub call_ms: u64,
    /// Lateness from which this node takes itself for having stood still.
    pub late_ms: u64,
}

impl Default for Tuning {
    /// For one data centre, and machines that may stand still for a quarter of a second: a death is found within
    /// 700 ms.
    fn default() -> Self {
        Self {
            probe_interval_ms: 75,
            probe_timeout_ms: 30,
            suspect_ms: 275,
            gossip_ms: 50,
            call_ms: 500,
            late_ms: 50,
        }
    }
}

impl Tuning {
    /// The nearest tuning that works: nothing is 0, and the timeout is at most half the interval.
    pub(super) fn sound(self) -> Self {
        let probe_interval_ms = self.probe_interval_ms.max(2);
        Self {
            probe_interval_ms,
            probe_timeout_ms: self.probe_timeout_ms.clamp(1, probe_interval_ms / 2),
            suspect_ms: self.suspect_ms.max(1),
            gossip_ms: self.gossip_ms.max(1),
            call_ms: self.call_ms.max(1),
            late_ms: self.late_ms,
        }
    }

    pub(super) fn config(self) -> Config {
        let period = |ms| {
            Some(PeriodicParams {
                frequency: Duration::from_millis(ms),
                num_members: FANOUT,
            })
        };
        Config {
            probe_period: Duration::from_millis(self.probe_interval_ms),
            probe_rtt: Duration::from_millis(self.probe_timeout_ms),
            num_indirect_probes: FANOUT,
            max_transmissions: TELLINGS,
            suspect_to_down_after: Duration::from_millis(self.suspect_ms),
            // A dead start of a node is remembered until a later one replaces it: one for each node.
            remove_down_after: None,
            max_packet_size: NonZeroUsize::MIN.saturating_add(DATAGRAM_BYTES_MAX - 1),
            notify_down_members: true,
            // Contacts are called from here, also when nobody is alive.
            periodic_announce: None,
            periodic_announce_to_down_members: None,
            periodic_gossip: period(self.gossip_ms),
        }
    }
}
