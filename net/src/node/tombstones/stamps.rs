//! Stamps of states on the wire, and what is said of a state that is not taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::tombstone::{Refusal, Stamp};

use super::fences::NotTaken;
use crate::node::requests::Caller;
use crate::node::{Shared, reply};
use crate::wire::proto::{Error, ErrorCode, StateStamp};

impl From<Stamp> for StateStamp {
    fn from(stamp: Stamp) -> StateStamp {
        StateStamp {
            map_version: stamp.map_version,
            fence: stamp.fence,
        }
    }
}

/// The stamp of a state that has come.
///
/// # Errors
/// It has none.
pub(in crate::node) fn stamp_of(stamp: Option<StateStamp>) -> Result<Stamp, Error> {
    let stamp = stamp.ok_or_else(|| reply::malformed("a state without a stamp"))?;
    Ok(Stamp {
        map_version: stamp.map_version,
        fence: stamp.fence,
    })
}

/// Which node sends a request that only nodes may send.
///
/// # Errors
/// None that this node knows.
pub(in crate::node) fn sender(shared: &Shared, caller: &Caller) -> Result<NodeId, Error> {
    let named = || {
        let map = shared.map();
        map.named(&caller.peer.name).map(|member| member.id)
    };
    let sender = caller.node.or_else(named);
    sender.ok_or_else(|| reply::malformed("the asking node is not in the map"))
}

/// Who sends a state, and its stamp. Where that is of a newer map than this node goes by, the sender is asked for the map
/// first.
///
/// # Errors
/// It has no stamp, or no node that is known sends it.
pub(in crate::node) async fn origin(
    shared: &Shared,
    caller: &Caller,
    stamp: Option<StateStamp>,
) -> Result<(NodeId, Stamp), Error> {
    let (from, stamp) = (sender(shared, caller)?, stamp_of(stamp)?);
    // Without it the state is refused, with the reason.
    shared.reach_map(from, stamp).await;
    Ok((from, stamp))
}

/// Why another node did not take a state, and what to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::node) enum Stale {
    /// Raise the own fence to this one, read the state anew, send that.
    Fenced(u64),
    /// Read it anew, by a newer map.
    OldMap,
    /// Send the same when the other node has heard of the map, for which it has asked this one in vain.
    NewMap,
}

impl Stale {
    /// `None`: the state was refused for another reason.
    pub(in crate::node) fn of(error: &Error) -> Option<Stale> {
        match error.code() {
            ErrorCode::StateFenced => error.fence.map(Stale::Fenced),
            ErrorCode::StateOldMap => Some(Stale::OldMap),
            ErrorCode::StateNewMap => Some(Stale::NewMap),
            _ => None,
        }
    }
}

impl Shared {
    /// Hands a state of another node to the store, by `submit`, if it may be taken: every state that comes from another node,
    /// also as an answer, before anything of it is written.
    ///
    /// # Errors
    /// Nothing was written: see [`Stale`], or the other node was removed.
    pub(in crate::node) fn admit<T>(
        &self,
        id: PartitionId,
        from: NodeId,
        stamp: Stamp,
        submit: impl FnOnce() -> T,
    ) -> Result<T, Error> {
        let map_version = || {
            let map = self.map();
            (!map.is_removed(from)).then(|| map.version())
        };
        let taken = self.fences.admit(id, stamp, map_version, submit);
        taken.map_err(|cause| refused(id, cause))
    }
}

impl Shared {
    /// Whether a stamp is of a newer map than this node goes by.
    pub(in crate::node) fn lacks_map_of(&self, stamp: Option<&StateStamp>) -> bool {
        stamp.is_some_and(|stamp| stamp.map_version > self.map().version())
    }

    /// Sees to it that this node goes by a map as new as the stamp of a state from another node, where that gives it in time.
    /// To be waited for before anything is decided about the state.
    pub(in crate::node) async fn reach_map(&self, from: NodeId, stamp: Stamp) {
        if stamp.map_version > self.map().version() {
            self.control.reach(stamp.map_version, from).await;
        }
    }

    /// The same beside what is under way, which does not hang on it: at most one such question at a time.
    pub(in crate::node) fn reach_map_soon(self: &Arc<Self>, from: NodeId, stamp: Stamp) {
        let is_asking = &self.bindings.asks_for_map;
        if stamp.map_version <= self.map().version() || is_asking.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn("newer map", async move {
            tokio::select! {
                () = shared.reach_map(from, stamp) => {}
                () = shared.tasks.stopping() => {}
            }
            let is_asking = &shared.bindings.asks_for_map;
            is_asking.store(false, Ordering::Relaxed);
        });
    }

    /// Whether a part of a copy may be taken that is on its way to this node, by the fence at which it was first asked for. That
    /// is enough, however high the fence has risen since: no round passes a node to which a copy is on its way.
    ///
    /// # Errors
    /// As for [`Shared::admit`].
    pub(in crate::node) fn admit_copy(
        &self,
        id: PartitionId,
        from: NodeId,
        stamp: Stamp,
        fence: u64,
    ) -> Result<(), Error> {
        let map = self.map();
        if map.is_removed(from) {
            return Err(refused(id, NotTaken::Removed));
        }
        let knowledge = self.fences.knowledge(map.version(), fence);
        let admitted = knowledge.admit(stamp);
        admitted.map_err(|cause| refused(id, NotTaken::Stale(cause)))
    }
}

fn refused(id: PartitionId, cause: NotTaken) -> Error {
    let refusal = match cause {
        NotTaken::Removed => {
            return reply::error(
                ErrorCode::NodeRefused,
                format!("a state of partition {id} from a node that was removed"),
            );
        }
        NotTaken::Stale(refusal) => refusal,
    };
    let (code, fence) = match refusal {
        Refusal::Fenced { fence, .. } => (ErrorCode::StateFenced, Some(fence)),
        Refusal::OldMap { .. } => (ErrorCode::StateOldMap, None),
        Refusal::NewMap { .. } => (ErrorCode::StateNewMap, None),
    };
    Error {
        fence,
        ..reply::error(code, format!("partition {id}: {refusal}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_tells_its_sender_what_to_do() {
        let told = |refusal| Stale::of(&refused(PartitionId(1), NotTaken::Stale(refusal)));
        let fenced = Refusal::Fenced { sent: 2, fence: 5 };
        assert_eq!(told(fenced), Some(Stale::Fenced(5)));
        let old = Refusal::OldMap { sent: 2, since: 5 };
        assert_eq!(told(old), Some(Stale::OldMap));
        let new = Refusal::NewMap { sent: 5, known: 2 };
        assert_eq!(told(new), Some(Stale::NewMap));
        assert_eq!(Stale::of(&refused(PartitionId(1), NotTaken::Removed)), None);
    }

    #[test]
    fn a_stamp_travels_whole() {
        let stamp = Stamp {
            map_version: 3,
            fence: 9,
        };
        assert_eq!(stamp_of(Some(stamp.into())), Ok(stamp));
        assert!(stamp_of(None).is_err());
    }
}
