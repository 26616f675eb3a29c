//! Who is a member of the group: every node of the map, as a voter or as one who only follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_ring::control::ControlCommand;
use mesh_ring::map::{ClusterMap, NodeState};
use mesh_ring::placement::choose_voters;
use openraft::{ChangeMembers, EmptyNode};
use tokio::time::{sleep, timeout};

use super::Shared;
use super::raft::{RaftId, raft_ids};

/// How long one change of the membership may take: it needs majorities of the old and of the new voters.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two looks at a change that waits for a member to catch up, or that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Entries that a voter-to-be may be behind.
const CLOSE_ENTRIES: u64 = 16;

/// The next change that brings the group closer to the map.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// These nodes follow from now on.
    Add(BTreeSet<RaftId>),
    /// These vote from now on, and no others.
    Vote(BTreeSet<RaftId>),
    /// These are no members any more.
    Drop(BTreeSet<RaftId>),
    /// The map is told who votes.
    Tell(BTreeSet<RaftId>),
    /// A voter-to-be is not close enough yet.
    Wait,
}

fn next_step(
    map: &ClusterMap,
    members: &openraft::Membership<RaftId, EmptyNode>,
    is_close: impl Fn(RaftId) -> bool,
) -> Option<Step> {
    let listed = map.nodes().iter();
    let wanted = raft_ids(
        listed
            .filter(|member| member.state != NodeState::Removed)
            .map(|member| member.id),
    );
    let known: BTreeSet<RaftId> = members.nodes().map(|(id, _)| *id).collect();
    let voters: BTreeSet<RaftId> = members.voter_ids().collect();
    // A change that another leader began is finished first.
    if let [_, .., target] = members.get_joint_config().as_slice() {
        return Some(Step::Vote(target.clone()));
    }
    let missing: BTreeSet<_> = wanted.difference(&known).copied().collect();
    if !missing.is_empty() {
        return Some(Step::Add(missing));
    }
    let chosen = raft_ids(choose_voters(map));
    if !chosen.is_empty() && chosen != voters {
        let ready = chosen.difference(&voters).all(|id| is_close(*id));
        return Some(if ready {
            Step::Vote(chosen)
        } else {
            Step::Wait
        });
    }
    let gone: BTreeSet<_> = known.difference(&wanted).copied().collect();
    let gone: BTreeSet<_> = gone.difference(&voters).copied().collect();
    if !gone.is_empty() {
        return Some(Step::Drop(gone));
    }
    let told = raft_ids(map.voters().iter().copied());
    (told != voters).then_some(Step::Tell(voters))
}

/// Keeps the membership in line with the map wherever this node leads. Never ends by itself.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut leadership = shared.leadership();
    let mut map = shared.map.clone();
    loop {
        leadership.mark_unchanged();
        map.mark_unchanged();
        if shared.is_leader() {
            match shared.step().await {
                Ok(true) => {}
                Ok(false) => {
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(detail) => {
                    tracing::info!(detail, "the control group's membership did not change");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
        }
        tokio::select! {
            Ok(()) = leadership.changed() => {}
            Ok(()) = map.changed() => {}
            // The group has ended, and so will this task.
            else => return,
        }
    }
}

impl Shared {
    /// One step, and whether there is nothing left to do until something changes.
    async fn step(&self) -> Result<bool, String> {
        self.found_map().await;
        let Some(map) = self.machine.map() else {
            return Err("there is no map yet".into());
        };
        let membership = self.membership();
        let step = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let last = metrics.last_log_index.unwrap_or(0);
            let is_close = |id: RaftId| {
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&id));
                let matched = matched.copied().flatten();
                id.0 == self.me || matched.is_some_and(|log| log.index + CLOSE_ENTRIES >= last)
            };
            next_step(&map, membership.membership(), is_close)
        };
        let Some(step) = step else { return Ok(true) };
        if step != Step::Wait {
            tracing::info!(?step, "the control group changes");
        }
        match step {
            Step::Wait => return Ok(false),
            Step::Add(ids) => self.change(ChangeMembers::AddNodes(nodes(ids))).await?,
            Step::Vote(ids) => self.change(ChangeMembers::ReplaceAllVoters(ids)).await?,
            Step::Drop(ids) => self.change(ChangeMembers::RemoveNodes(ids)).await?,
            Step::Tell(ids) => {
                let voters = ids.into_iter().map(|id| id.0).collect();
                let told = self
                    .propose_here(ControlCommand::SetVoters { voters })
                    .await;
                tracing::debug!(?told, "the map was told who votes");
            }
        }
        Ok(false)
    }

    async fn change(&self, change: ChangeMembers<RaftId, EmptyNode>) -> Result<(), String> {
        match timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, true)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no majority agreed in time".into()),
        }
    }
}

fn nodes(ids: BTreeSet<RaftId>) -> BTreeMap<RaftId, EmptyNode> {
    ids.into_iter().map(|id| (id, EmptyNode {})).collect()
}

#[cfg(test)]
mod tests {
    use mesh_ring::control::apply;
    use mesh_ring::ids::{ClusterId, NodeId};
    use mesh_ring::map::Member;
    use openraft::Membership;

    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId([n; 16])
    }

    fn ids(numbers: &[u8]) -> BTreeSet<RaftId> {
        raft_ids(numbers.iter().map(|n| id(*n)))
    }

    fn map(founders: u8) -> ClusterMap {
        let members: Vec<_> = (1..=founders)
            .map(|n| Member::new(id(n), &format!("n{n}"), "h:1", ""))
            .collect();
        ClusterMap::founding(ClusterId([9; 16]), &members, 4, 3).unwrap()
    }

    fn members(voters: &[&[u8]], all: &[u8]) -> Membership<RaftId, EmptyNode> {
        let voters = voters.iter().map(|set| ids(set)).collect();
        Membership::new(voters, nodes(ids(all)))
    }

    fn step(map: &ClusterMap, members: &Membership<RaftId, EmptyNode>) -> Option<Step> {
        next_step(map, members, |_| true)
    }

    #[test]
    fn a_group_that_is_as_the_map_says_stays() {
        let map = map(3);
        assert_eq!(map.voters().len(), 3);
        assert_eq!(step(&map, &members(&[&[1, 2, 3]], &[1, 2, 3])), None);
    }

    #[test]
    fn every_node_follows_before_it_votes_and_votes_when_it_is_close() {
        let map = map(3);
        let alone = members(&[&[1]], &[1]);
        assert_eq!(step(&map, &alone), Some(Step::Add(ids(&[2, 3]))));
        let following = members(&[&[1]], &[1, 2, 3]);
        let far = next_step(&map, &following, |id| id.0 != self::id(3));
        assert_eq!(far, Some(Step::Wait));
        assert_eq!(step(&map, &following), Some(Step::Vote(ids(&[1, 2, 3]))));
    }

    #[test]
    fn what_another_leader_began_is_finished_first() {
        let joint = members(&[&[1], &[2, 3, 4]], &[1, 2, 3, 4]);
        assert_eq!(step(&map(3), &joint), Some(Step::Vote(ids(&[2, 3, 4]))));
    }

    #[test]
    fn a_removed_node_goes_once_it_does_not_vote() {
        let mut map = map(4);
        let gone = *map.voters().last().unwrap();
        for command in [
            ControlCommand::NodeDown { node: gone },
            ControlCommand::Remove { node: gone },
        ] {
            apply(&mut map, &command).unwrap();
        }
        let all: Vec<u8> = (1..=4).collect();
        let left: Vec<u8> = all.iter().copied().filter(|n| id(*n) != gone).collect();
        let told: Vec<u8> = all
            .iter()
            .copied()
            .filter(|n| map.voters().contains(&id(*n)) || id(*n) == gone)
            .collect();
        let before = members(&[&told], &all);
        assert_eq!(step(&map, &before), Some(Step::Vote(ids(&left))));
        let after = members(&[&left], &all);
        assert_eq!(step(&map, &after), Some(Step::Drop(raft_ids([gone]))));
        let dropped = members(&[&left], &left);
        let told = step(&map, &dropped);
        assert!(matches!(&told, None | Some(Step::Tell(_))), "{told:?}");
    }

    #[test]
    fn the_map_is_told_who_votes() {
        let mut map = map(3);
        let voters = vec![id(1)];
        apply(&mut map, &ControlCommand::SetVoters { voters }).unwrap();
        let group = members(&[&[1, 2, 3]], &[1, 2, 3]);
        assert_eq!(step(&map, &group), Some(Step::Tell(ids(&[1, 2, 3]))));
    }
}
