//! The decisions of the control plane: how each command changes the cluster map.
//!
//! [`apply`] is a function of the map and the command, and nothing else: every node that applies the same commands in
//! the same order has the same map. It is total: a command that cannot be carried out is refused with a
//! [`ControlError`], and then the map is as it was.
//!
//! | command | what it does | refused when |
//! |---|---|---|
//! | `Admit` | the node is listed as joining; it holds nothing | its id was ever removed, its name is taken, the cluster is full |
//! | `Register` | joining or down nodes are up; every partition that it leads gets a new epoch, for a restarted leader has forgotten what it proposed; address and zone are those of the start | the registered start is not among those that it presents: an old copy |
//! | `Activated` | the epoch's replica set is the activated one | the epoch is not current, or the node does not lead |
//! | `CaughtUp` | the learner counts as filled for this epoch | the epoch is not current, or it is no learner |
//! | `Resign` | another live replica leads, or the same one if it names itself, in a new epoch | the epoch is not current, or no such replica is alive |
//! | `Salvaged` | the version and the epochs of all partitions leap far beyond all that may have been given out and forgotten | the node is not listed |
//! | `NodeDown` | the node is down | it never registered, or was removed |
//! | `NodeUp` | a node that was down is up, or draining again if it was being drained | it never registered, or was removed |
//! | `Drain` | what it holds moves away, then it is drained | it is the last node that stays |
//! | `Replace` | like `Drain` for a node that is down; ended by its return | it is not down, or too few nodes are left |
//! | `Room` | a node that is full leads nothing that another can lead | it was removed |
//! | `Remove` | its id is gone for good, what it held is made anew elsewhere | it runs and holds something; it is the last; a partition would have no majority |
//! | `Plan` | every partition gets the replicas of [`crate::placement`] as target | never |
//! | `Balance` | leaders return to the first of their replicas, at most so many | never |
//! | `SetVoters`, `Configure`, `Revoke` | noted | out of range |
//! | `Batch` | the commands in turn, refusals kept apart | too large, or nested |
//!
//! After every command, the map settles: a partition whose leader is down or leaves is led by a live replica that
//! stays, if there is one, in a new epoch; what a leaving node holds gets another target; moves begin, as many per
//! node as the settings allow; and a move whose live nodes have all caught up becomes the replica set, in a new epoch.
//! A replica set changes only while the current epoch is activated, so that a partition has at most two sets whose
//! majorities matter, and only to a set of which a majority is alive.

mod command;
mod due;
mod error;
mod leaders;
mod members;
mod moves;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::map::{ClusterMap, REPLICATION_MAX, REVOKED_MAX, Revoked};

pub use command::ControlCommand;
pub use due::{Observed, Patience, due};
pub use error::{BATCH_COMMANDS_MAX, ControlError, NODE_TEXT_BYTES_MAX};

/// What a command that was not refused has done.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The map's version afterwards.
    pub version: u64,
    /// Whether anything changed.
    pub changed: bool,
    /// The commands of a batch that were refused, by their position.
    pub refused: Vec<(usize, ControlError)>,
}

/// Applies a command to the map. The version rises by one if anything changes.
///
/// # Errors
/// [`ControlError`]: the command was refused, and the map is as it was.
pub fn apply(map: &mut ClusterMap, command: &ControlCommand) -> Result<Outcome, ControlError> {
    let mut refused = Vec::new();
    let changed = match command {
        ControlCommand::Batch { commands } => {
            let nested = |command| matches!(command, &ControlCommand::Batch { .. });
            if commands.len() > BATCH_COMMANDS_MAX || commands.iter().any(nested) {
                return Err(ControlError::Batch);
            }
            let mut changed = false;
            for (at, command) in commands.iter().enumerate() {
                match change(map, command) {
                    Ok(new) => changed |= new,
                    Err(error) => refused.push((at, error)),
                }
            }
            changed
        }
        command => change(map, command)?,
    };
    if changed {
        moves::settle(map);
        map.version += 1;
        debug_assert_eq!(map.check(), Ok(()));
    }
    Ok(Outcome {
        version: map.version,
        changed,
        refused,
    })
}

/// What the command itself changes; whether anything did. Refused, it has changed nothing.
fn change(map: &mut ClusterMap, command: &ControlCommand) -> Result<bool, ControlError> {
    use ControlCommand as C;
    match command {
        C::Admit {
            node,
            name,
            address,
            zone,
        } => members::admit(map, *node, name, address, zone),
        C::Register {
            node,
            boot,
            previous,
            address,
            zone,
        } => members::register(map, *node, *boot, previous, address, zone),
        C::Activated {
            partition,
            epoch,
            leader,
        } => leaders::activated(map, *partition, *epoch, *leader),
        C::CaughtUp {
            partition,
            epoch,
            node,
        } => moves::caught_up(map, *partition, *epoch, *node),
        C::Resign {
            partition,
            epoch,
            to,
        } => leaders::resign(map, *partition, *epoch, *to),
        C::Salvaged { node } => leaders::salvaged(map, *node),
        C::NodeDown { node } => members::down(map, *node),
        C::NodeUp { node } => members::up(map, *node),
        C::Drain { node } => members::drain(map, *node),
        C::Replace { node } => members::replace(map, *node),
        C::Room { node, full } => members::room(map, *node, *full),
        C::Remove { node } => members::remove(map, *node),
        C::Plan => Ok(moves::retarget(map)),
        C::Balance { most } => Ok(leaders::balance(map, *most)),
        C::SetVoters { voters } => set_voters(map, voters),
        C::Configure { settings } => {
            let replication = (1..=REPLICATION_MAX).contains(&settings.replication);
            if !replication || settings.fills_per_node == 0 {
                return Err(ControlError::Settings);
            }
            Ok(std::mem::replace(&mut map.settings, *settings) != *settings)
        }
        C::Revoke { fingerprint, name } => revoke(map, *fingerprint, name),
        C::Batch { .. } => Err(ControlError::Batch),
    }
}

fn set_voters(map: &mut ClusterMap, voters: &[NodeId]) -> Result<bool, ControlError> {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    let count = voters.len();
    voters.dedup();
    let known = |node: &NodeId| map.node(*node).is_some();
    if !(1..=7).contains(&count) || voters.len() < count || !voters.iter().all(known) {
        return Err(ControlError::Voters);
    }
    let changed = map.voters != voters;
    map.voters = voters;
    Ok(changed)
}

fn revoke(map: &mut ClusterMap, fingerprint: [u8; 32], name: &str) -> Result<bool, ControlError> {
    let known = |revoked: &Revoked| revoked.fingerprint == fingerprint;
    if map.revoked.iter().any(known) {
        return Ok(false);
    }
    if map.revoked.len() >= REVOKED_MAX {
        return Err(ControlError::TooManyRevoked);
    }
    if name.len() > NODE_TEXT_BYTES_MAX {
        return Err(ControlError::NodeText {
            what: "name of the certificate".to_owned(),
            bytes: name.len(),
            least: 0,
        });
    }
    map.revoked.push(Revoked {
        fingerprint,
        name: name.to_owned(),
    });
    Ok(true)
}
