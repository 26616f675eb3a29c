//! One request to the homes of a key: whom to ask, when it has succeeded, and when it no longer can.
//!
//! State machines without time: their owner sends what they ask for, says what came of it, and says when an answer is
//! late and when the deadline has passed. A request succeeds with as many distinct nodes as were asked for, never fewer.

mod mint;
mod read;
mod write;

use thiserror::Error;

use crate::ids::NodeId;
use crate::preference::Preference;

pub use mint::{Generation, actor, node_of};
pub use read::{Answer, Read, ReadEffect, ReadOutcome, Repair};
pub use write::{Outcome, Role, Write, WriteEffect};

/// Why a request is refused before anybody was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum Refused {
    /// No number of live nodes would be enough, or none at all was asked for.
    #[error(
        "{need} nodes were asked for, and {max} can answer for this key; ask for 1 to {max}, or add nodes"
    )]
    Impossible {
        /// How many nodes the request needs.
        need: usize,
        /// How many can ever answer: the replicas of the partition, or fewer.
        max: usize,
    },
    /// This node neither has a copy of the partition nor may stand in for one that has.
    #[error(
        "this node holds nothing of the key's partition; send the request to one of its replicas"
    )]
    NotResponsible,
}

/// What is known of a node that was asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    /// No answer yet.
    Waiting,
    /// No answer yet, and no longer waited for.
    Late,
    /// It did what it was asked to do.
    Answered,
    /// It refused, or cannot be reached.
    Failed,
}

fn check(preference: &Preference, need: usize) -> Result<(), Refused> {
    let max = preference.homes.len();
    if (1..=max).contains(&need) {
        Ok(())
    } else {
        Err(Refused::Impossible { need, max })
    }
}

/// The stand-ins that live, in their order, `own` before all others.
fn stand_ins(preference: &Preference, own: NodeId, live: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let nodes = preference.stand_ins.iter().copied();
    let mut nodes: Vec<NodeId> = nodes.filter(|node| *node == own || live(*node)).collect();
    nodes.sort_by_key(|node| *node != own);
    nodes
}
