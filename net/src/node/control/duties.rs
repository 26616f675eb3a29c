//! What the group's leader decides by gossip and by the clock. The decisions are `ring::control::due`; here is what it
//! looks at, and who acts on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_ring::control::{ControlCommand, Observed, Patience, due};
use mesh_ring::ids::NodeId;
use mesh_ring::map::{Boot, ClusterMap, NodeState};
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::Shared;
use super::raft::Answer;
use super::rpc::Proposed;
use crate::tasks::blocking;

/// What gossip says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It answers.
    Alive,
    /// It does not, and has not for long enough.
    Dead,
}

/// What gossip says of every node that it ever heard of.
pub type Gossip = Arc<BTreeMap<NodeId, Life>>;

/// How long a node that has just registered, or that gossip never heard of, is given before its silence counts.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the leader looks at more than deaths and returns, which it looks at whenever gossip or the map change.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// It looks less often where that takes long: planning the largest cluster takes half a second.
const LOOK_SHARE: u32 = 20;

/// Who has been alive or dead since when, by this node's clock.
#[derive(Debug)]
struct Lookout {
    me: NodeId,
    nodes: BTreeMap<NodeId, Sighting>,
}

#[derive(Clone, Copy, Debug)]
struct Sighting {
    life: Option<Life>,
    life_since: Instant,
    boot: Boot,
    boot_since: Instant,
}

impl Lookout {
    fn look(&mut self, now: Instant, map: &ClusterMap, gossip: &BTreeMap<NodeId, Life>) {
        self.nodes.retain(|id, _| map.node(*id).is_some());
        for member in map.nodes() {
            let life = gossip.get(&member.id).copied();
            let seen = self.nodes.entry(member.id).or_insert(Sighting {
                life,
                life_since: now,
                boot: member.boot,
                boot_since: now,
            });
            if seen.life != life {
                (seen.life, seen.life_since) = (life, now);
            }
            if seen.boot != member.boot || member.state == NodeState::Joining {
                (seen.boot, seen.boot_since) = (member.boot, now);
            }
        }
    }

    fn observed(&self, now: Instant) -> BTreeMap<NodeId, Observed> {
        let observed = |alive, since: Instant| {
            let for_ms = now.checked_duration_since(since)?.as_millis();
            let for_ms = u64::try_from(for_ms).unwrap_or(u64::MAX);
            Some(Observed { alive, for_ms })
        };
        let nodes = self.nodes.iter().filter_map(|(id, seen)| {
            let state = match seen.life {
                _ if *id == self.me => observed(true, seen.boot_since),
                Some(Life::Alive) => observed(true, seen.life_since),
                // Gossip may still speak of its life before this start.
                Some(Life::Dead) if seen.life_since > seen.boot_since => {
                    observed(false, seen.life_since)
                }
                Some(Life::Dead) | None => observed(false, seen.boot_since + FIRST_WORD_TIMEOUT),
            };
            Some((*id, state?))
        });
        nodes.collect()
    }
}

/// Whether gossip and the map differ about a node that has taken part.
fn has_news(map: &ClusterMap, observed: &BTreeMap<NodeId, Observed>) -> bool {
    map.nodes().iter().any(|member| {
        let said = observed.get(&member.id);
        let shown = member.is_live() || member.state == NodeState::Down;
        shown && said.is_some_and(|said| said.alive != member.is_live())
    })
}

/// Never ends by itself.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut gossip: watch::Receiver<Gossip>,
    dead_after: Duration,
) {
    let patience = Patience {
        dead_after_ms: u64::try_from(dead_after.as_millis()).unwrap_or(u64::MAX),
        ..Patience::default()
    };
    let mut lookout = Lookout {
        me: shared.me,
        nodes: BTreeMap::new(),
    };
    let mut map = shared.map.clone();
    let mut leadership = shared.raft.server_metrics();
    let mut next_look = Instant::now();
    loop {
        let now = Instant::now();
        let current = Arc::clone(&map.borrow_and_update());
        let said = Arc::clone(&gossip.borrow_and_update());
        leadership.mark_unchanged();
        lookout.look(now, &current, &said);
        let leads = shared.is_leader();
        if leads {
            let observed = lookout.observed(now);
            if now >= next_look || has_news(&current, &observed) {
                let commands = blocking(move || due(&current, &observed, &patience)).await;
                next_look = now + LOOK_INTERVAL.max(LOOK_SHARE * now.elapsed());
                propose(&shared, commands.unwrap_or_default()).await;
            }
        } else if !shared.is_suspect() && follows_a_dead_leader(&shared, &current, &said) {
            // The voters need not wait for their own timers.
            let _ = shared.raft.trigger().elect().await;
        }
        tokio::select! {
            Ok(()) = map.changed() => {}
            Ok(()) = gossip.changed() => {}
            Ok(()) = leadership.changed() => {}
            () = sleep_until(next_look.into()), if leads => {}
            // The group has ended, and so will this task.
            else => return,
        }
    }
}

async fn propose(shared: &Shared, mut commands: Vec<ControlCommand>) {
    let command = match commands.len() {
        0 => return,
        1 => commands.remove(0),
        _ => ControlCommand::Batch { commands },
    };
    tracing::info!(?command, "the control plane decides");
    match shared.propose_here(command).await {
        Proposed::Answered(Answer::Done(outcome)) if outcome.refused.is_empty() => {}
        // The map has moved on since; the next look is at the new one.
        other => tracing::info!(?other, "the decision did not take effect"),
    }
}

/// Whether this node is the one to campaign because gossip says that the leader is dead: the first live voter.
fn follows_a_dead_leader(
    shared: &Shared,
    map: &ClusterMap,
    gossip: &BTreeMap<NodeId, Life>,
) -> bool {
    let dead = |node: &NodeId| gossip.get(node) == Some(&Life::Dead);
    let Some(leader) = shared.leader().filter(|leader| dead(leader)) else {
        return false;
    };
    // Gossip may be wrong, and a campaign would end a leadership that works.
    let silent = shared
        .silence()
        .is_none_or(|silence| silence > 3 * shared.clock.heartbeat);
    if !silent {
        return false;
    }
    let first = map
        .voters()
        .iter()
        .find(|voter| **voter != leader && !dead(voter));
    first == Some(&shared.me)
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::ClusterId;
    use mesh_ring::map::Member;

    use super::*;

    const ME: NodeId = NodeId([1; 16]);
    const OTHER: NodeId = NodeId([2; 16]);

    fn map() -> ClusterMap {
        let members = [ME, OTHER].map(|id| Member::new(id, &id.to_string(), "h:1", ""));
        ClusterMap::founding(ClusterId([9; 16]), &members, 4, 3).unwrap()
    }

    fn lookout() -> Lookout {
        Lookout {
            me: ME,
            nodes: BTreeMap::new(),
        }
    }

    fn alive(lookout: &Lookout, now: Instant, node: NodeId) -> Option<(bool, u64)> {
        let observed = lookout.observed(now);
        observed.get(&node).map(|o| (o.alive, o.for_ms))
    }

    #[test]
    fn silence_counts_from_the_first_word_on_or_after_the_grace() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut lookout = lookout();
        lookout.look(start, &map(), &BTreeMap::new());
        assert_eq!(alive(&lookout, start, ME), Some((true, 0)));
        assert_eq!(alive(&lookout, start + 4 * second, OTHER), None);
        assert_eq!(
            alive(&lookout, start + 7 * second, OTHER),
            Some((false, 2000))
        );

        let heard = BTreeMap::from([(OTHER, Life::Alive)]);
        lookout.look(start + second, &map(), &heard);
        assert_eq!(
            alive(&lookout, start + 2 * second, OTHER),
            Some((true, 1000))
        );
        let lost = BTreeMap::from([(OTHER, Life::Dead)]);
        lookout.look(start + 2 * second, &map(), &lost);
        assert_eq!(
            alive(&lookout, start + 2 * second, OTHER),
            Some((false, 0)),
            "one that was heard needs no grace"
        );
    }

    #[test]
    fn a_node_that_has_just_registered_is_not_dead_of_old() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let dead = BTreeMap::from([(OTHER, Life::Dead)]);
        let mut lookout = lookout();
        lookout.look(start, &map(), &BTreeMap::new());
        lookout.look(start + second, &map(), &dead);
        assert_eq!(alive(&lookout, start + second, OTHER), Some((false, 0)));

        let mut registered = map();
        let register = ControlCommand::Register {
            node: OTHER,
            boot: Boot {
                count: 1,
                token: [7; 16],
            },
            previous: vec![],
            address: "h:1".into(),
            zone: String::new(),
        };
        mesh_ring::control::apply(&mut registered, &register).unwrap();
        lookout.look(start + 2 * second, &registered, &dead);
        assert_eq!(alive(&lookout, start + 3 * second, OTHER), None);
        assert_eq!(
            alive(&lookout, start + 8 * second, OTHER),
            Some((false, 1000)),
            "but of being silent ever since"
        );
    }

    #[test]
    fn a_node_that_leaves_the_map_is_forgotten() {
        let start = Instant::now();
        let mut lookout = lookout();
        lookout.look(start, &map(), &BTreeMap::new());
        let alone =
            ClusterMap::single(ClusterId([9; 16]), ME, "n1", 4, mesh_ring::ids::Epoch(1)).unwrap();
        lookout.look(start, &alone, &BTreeMap::new());
        assert_eq!(lookout.nodes.keys().collect::<Vec<_>>(), [&ME]);
    }
}
