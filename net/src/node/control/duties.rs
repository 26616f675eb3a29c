//! What the group's leader decides by gossip and by the clock. The decisions are `ring::control::due`; here is what it
//! looks at, and who acts on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_ring::control::{ControlCommand, Observed, Patience, due};
use mesh_ring::ids::NodeId;
use mesh_ring::map::{Boot, ClusterMap, Member, NodeState};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};

use super::Shared;
use super::propose::PROPOSE_TIMEOUT;
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

/// How often everything is looked at again; at deaths and returns also whenever gossip, the map or the leader change. What
/// was refused, or seen too early, is tried again by this.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// It looks less often where that takes long: planning the largest cluster takes half a second.
const LOOK_SHARE: u32 = 20;

/// How long gossip and the map may differ before it is said, and how often it is said again. An election and a few
/// proposals take less.
const DIFFER_TOLD_AFTER: Duration = Duration::from_secs(5);

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

/// The nodes that have taken part, and about which gossip and the map differ.
fn news(map: &ClusterMap, observed: &BTreeMap<NodeId, Observed>) -> Vec<NodeId> {
    let differs = |member: &&Member| {
        let said = observed.get(&member.id);
        let shown = member.is_live() || member.state == NodeState::Down;
        shown && said.is_some_and(|said| said.alive != member.is_live())
    };
    let differing = map.nodes().iter().filter(differs);
    differing.map(|member| member.id).collect()
}

/// Since when gossip and the map have differed without a break, and when that was said last.
#[derive(Debug, Default)]
struct Difference {
    since: Option<Instant>,
    told: Option<Instant>,
}

impl Difference {
    /// For how long they have differed, where that is to be said now.
    fn due_to_tell(&mut self, now: Instant, differ: bool) -> Option<Duration> {
        if !differ {
            *self = Self::default();
            return None;
        }
        let since = *self.since.get_or_insert(now);
        if now < self.told.unwrap_or(since) + DIFFER_TOLD_AFTER {
            return None;
        }
        self.told = Some(now);
        Some(now - since)
    }
}

fn tell_difference(shared: &Shared, nodes: &[NodeId], lasted: Duration) {
    let names: Vec<String> = nodes.iter().map(|id| shared.name(*id)).collect();
    let leader = shared.leader().map(|id| shared.name(id));
    tracing::warn!(
        nodes = names.join(", "),
        seconds = lasted.as_secs(),
        leader = leader.as_deref().unwrap_or("nobody"),
        "gossip and the cluster map differ about who is alive, and the control plane does not put the map right: see whether a majority of its voters answers, and restart its leader if one does"
    );
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
    let mut leadership = shared.leadership();
    let mut next_look = Instant::now();
    let mut difference = Difference::default();
    loop {
        let now = Instant::now();
        let current = Arc::clone(&map.borrow_and_update());
        let said = Arc::clone(&gossip.borrow_and_update());
        leadership.mark_unchanged();
        lookout.look(now, &current, &said);
        let observed = lookout.observed(now);
        let news = news(&current, &observed);
        if let Some(lasted) = difference.due_to_tell(now, !news.is_empty()) {
            tell_difference(&shared, &news, lasted);
        }
        let mut wake = now + LOOK_INTERVAL;
        if shared.is_leader() {
            if now >= next_look || !news.is_empty() {
                let commands = blocking(move || due(&current, &observed, &patience)).await;
                next_look = now + LOOK_INTERVAL.max(LOOK_SHARE * now.elapsed());
                propose(&shared, commands.unwrap_or_default()).await;
            }
            wake = next_look;
        } else if !shared.is_suspect() && follows_a_dead_leader(&shared, &current, &said) {
            // The voters need not wait for their own timers.
            let _ = shared.raft.trigger().elect().await;
        }
        tokio::select! {
            Ok(()) = map.changed() => {}
            Ok(()) = gossip.changed() => {}
            changed = leadership.changed() => if changed.is_err() {
                // The group has ended, and so does this task.
                return;
            },
            () = sleep_until(wake.into()) => {}
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
    // It may wait behind proposals of others, each with a time of its own; what is due may be another thing by then.
    match timeout(PROPOSE_TIMEOUT, shared.propose_here(command)).await {
        Ok(Proposed::Answered(Answer::Done(outcome))) if outcome.refused.is_empty() => {}
        // The map has moved on since; the next look is at the new one.
        Ok(other) => tracing::info!(?other, "the decision did not take effect"),
        Err(_) => tracing::info!("the decision was not answered in time"),
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
    fn a_difference_is_told_when_it_has_lasted_and_again_while_it_lasts() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut difference = Difference::default();
        let mut told = |at: u32, differ| difference.due_to_tell(start + at * second, differ);
        assert_eq!([told(0, true), told(4, true)], [None, None]);
        assert_eq!(told(5, true), Some(5 * second));
        assert_eq!([told(6, true), told(9, true)], [None, None]);
        assert_eq!(told(10, true), Some(10 * second));
        assert_eq!([told(11, false), told(30, true)], [None, None]);
        assert_eq!(told(35, true), Some(5 * second), "a break begins it anew");
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
