//! How the voters go on when so many of their disks did not come back whole that the others are no majority.
//!
//! A suspect voter may have forgotten entries that it had acknowledged, and votes that it had given, so it gives none. But
//! when *all* voters have answered, nobody who votes knows more than all of them together: the one whose log ends last is
//! elected, by the suspects too, in a term far beyond all that they may have voted in. A voter that is alone has answered by
//! being there. Members without a vote are asked before, because what the voters have lost, one of them may have
//! ([`super::standby`]); whoever does not answer within a while is not waited for.
//!
//! Nor does a suspect follow a leader of before, who may not know that he is one no more.
//!
//! What that leader does first is to say so in the log ([`ControlCommand::Salvaged`]): what was decided last may be
//! forgotten, and no epoch may be given out twice. A voter that does not answer is waited for, as long as it takes: with
//! the suspects it may be the only one that knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_ring::control::ControlCommand;
use mesh_ring::ids::NodeId;
use openraft::raft::VoteRequest;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::log::TERMS_LEAP;
use super::network::ask;
use super::raft::{Answer, Change, LogId, RaftId, Vote};
use super::rpc::{Proposed, Request, Standing};
use super::{Beginning, QUORUM_SILENCE, Shared};
use crate::tasks::TaskSet;

/// Between two looks at whether somebody leads.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Between two rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// How long a member may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// For how long members without a vote are waited for.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(3);

/// How long what was found out holds: a candidate needs some time to be heard.
const SETTLED_FOR: Duration = Duration::from_secs(2);

/// Between two sentences in the log that say for whom this node waits.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// What a voter has found out since it lacks a leader.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    settled: Option<Settled>,
    vouched: Option<Vouched>,
    /// Beyond every term that this suspect may have forgotten: one in which it was asked to vote when all had answered.
    beyond: Option<u64>,
    /// Since when members without a vote are waited for.
    asked_members: Option<Instant>,
    told: Option<Instant>,
}

/// All voters have answered, and no majority of them is above doubt.
#[derive(Clone, Copy, Debug)]
struct Settled {
    /// The last entry that any of them has.
    last: Option<LogId>,
    /// The highest term that any of them knows of.
    term: u64,
    at: Instant,
}

/// A majority of the voters is above doubt, and knows of no term beyond this one: nobody leads in a later one.
#[derive(Clone, Copy, Debug)]
struct Vouched {
    term: u64,
    at: Instant,
}

/// Looks after a leader where there is none. Never ends by itself.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut leadership = shared.leadership();
    loop {
        leadership.mark_unchanged();
        let pause = if shared.is_leader() {
            shared.lead_on().await
        } else if shared.lacks_leader() {
            shared.assemble().await;
            ROUND_PAUSE
        } else if shared.is_suspect() {
            ROUND_PAUSE
        } else {
            LOOK_INTERVAL
        };
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() {
                // The group has ended, and so does this task.
                return;
            },
            () = sleep(pause) => {}
        }
    }
}

impl Shared {
    fn assembly(&self) -> MutexGuard<'_, Assembly> {
        self.assembly.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody who votes is in doubt any more, as far as this node goes.
    pub(super) fn forget_assembly(&self) {
        *self.assembly() = Assembly::default();
    }

    fn lacks_leader(&self) -> bool {
        let silence = self.silence();
        let silence = silence.unwrap_or_else(|| self.started.elapsed());
        // A suspect cannot wait for its own election timer.
        silence > QUORUM_SILENCE || self.is_suspect() && silence > 3 * self.clock.heartbeat
    }

    /// What this node knows of the log.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            term: self.log.term(),
            last: self.log.last(),
            applied: self.machine.known(),
            suspect: self.is_suspect(),
        }
    }

    /// Whether this node may vote for whoever asks: a suspect does so only when all voters have answered, for one who knows
    /// as much as any of them, and in a term that shows that it has heard them as well.
    pub(super) fn may_vote(&self, request: &VoteRequest<RaftId>) -> bool {
        if !self.is_suspect() {
            return true;
        }
        let term = request.vote.leader_id().term;
        let mut assembly = self.assembly();
        let may = assembly.settled.is_some_and(|settled| {
            term >= settled.term + TERMS_LEAP && request.last_log_id >= settled.last
        });
        if may {
            assembly.beyond.get_or_insert(term);
        }
        may
    }

    /// Whether this node may take what the leader of a term sends. A suspect may have forgotten that it followed a later one,
    /// and with it a leader of before could decide what is decided already: it follows only who leads for all that a
    /// majority of voters above doubt knows, or whom it has helped to elect when all had answered.
    pub(super) fn may_follow(&self, term: u64) -> bool {
        if !self.is_suspect() {
            return true;
        }
        let assembly = self.assembly();
        let vouched = assembly.vouched;
        let by_majority = vouched
            .is_some_and(|vouched| vouched.at.elapsed() < SETTLED_FOR && term >= vouched.term);
        by_majority || assembly.beyond.is_some_and(|beyond| term >= beyond)
    }

    /// The sets of which each elects by majority: one, or two while they change.
    fn voter_sets(&self) -> Vec<BTreeSet<NodeId>> {
        let membership = self.membership();
        let sets = membership.membership().get_joint_config();
        let sets: Vec<BTreeSet<NodeId>> = sets
            .iter()
            .map(|set| set.iter().map(|id| id.0).collect())
            .collect();
        match &self.beginning {
            // Not even who founds it is left.
            Beginning::Founding(map) if sets.iter().all(BTreeSet::is_empty) => {
                vec![map.voters().iter().copied().collect()]
            }
            _ => sets,
        }
    }

    /// Asks all voters how far they are, and campaigns if it falls to this one.
    async fn assemble(&self) {
        let sets = self.voter_sets();
        let votes = sets.iter().any(|set| set.contains(&self.me));
        // One that may have forgotten that it votes asks whom it may follow.
        if !votes && !self.is_suspect() {
            return;
        }
        let voters: BTreeSet<NodeId> = sets.iter().flatten().copied().collect();
        let mut standings = self.ask_standings(&voters).await;
        standings.insert(self.me, self.standing());
        let vouched = |set: &BTreeSet<NodeId>| {
            let whole = |id: &&NodeId| standings.get(*id).is_some_and(|said| !said.suspect);
            set.iter().filter(whole).count() * 2 > set.len()
        };
        if sets.iter().all(vouched) {
            // They elect one as ever.
            let whole = standings.values().filter(|said| !said.suspect);
            let term = whole.map(|said| said.term).max().unwrap_or_default();
            let at = Instant::now();
            let mut assembly = self.assembly();
            *assembly = Assembly {
                vouched: Some(Vouched { term, at }),
                beyond: assembly.beyond,
                ..Assembly::default()
            };
            return;
        }
        if standings.len() < voters.len() {
            return self.tell_who_is_missing(&voters, &standings);
        }
        if !votes {
            return;
        }
        let last = standings.values().map(|said| said.last).max().flatten();
        let term = standings.values().map(|said| said.term).max();
        let settled = self.settle(last, term.unwrap_or_default());
        let first = standings.iter().find(|(_, said)| said.last == last);
        let mine = first.is_some_and(|(id, _)| *id == self.me);
        if mine && self.has_asked_members(&voters).await {
            self.campaign(settled, &sets).await;
        }
    }

    fn settle(&self, last: Option<LogId>, term: u64) -> Settled {
        let mut assembly = self.assembly();
        let known = assembly.settled;
        let known = known.filter(|known| known.at.elapsed() < SETTLED_FOR && known.last == last);
        // A campaign raises the term, and is still of those who were heard before.
        *assembly.settled.insert(known.unwrap_or_else(|| Settled {
            last,
            term,
            at: Instant::now(),
        }))
    }

    /// Whether no member without a vote knows more than this voter, as far as they have answered in time. One that does
    /// is listened to first.
    async fn has_asked_members(&self, voters: &BTreeSet<NodeId>) -> bool {
        let since = *self
            .assembly()
            .asked_members
            .get_or_insert_with(Instant::now);
        let members = self.members();
        let others = members.difference(voters).copied().collect();
        let standings = self.ask_standings(&others).await;
        let patient = since.elapsed() < MEMBERS_PATIENCE;
        let knowing = standings.iter().max_by_key(|(_, said)| said.applied);
        if let Some((id, said)) = knowing
            && said.applied > self.log.last()
        {
            let Err(detail) = self.learn_from(*id).await else {
                // Who votes may be another question now.
                return false;
            };
            tracing::warn!(
                detail,
                "a member knows more of the cluster map, and cannot tell"
            );
            return !patient;
        }
        standings.len() == others.len() || !patient
    }

    /// Asks these nodes, all at once, and returns what those say that answer in time.
    async fn ask_standings(&self, nodes: &BTreeSet<NodeId>) -> BTreeMap<NodeId, Standing> {
        let asking = TaskSet::default();
        let (sender, mut answers) = mpsc::channel(nodes.len().max(1));
        for id in nodes.iter().copied().filter(|id| *id != self.me) {
            let (carrier, sender) = (Arc::clone(&self.carrier), sender.clone());
            asking.spawn("control-standing", async move {
                let answer = timeout(ANSWER_TIMEOUT, ask(&*carrier, id, Request::Standing)).await;
                if let Ok(Ok(standing)) = answer {
                    // Whoever asked may have gone.
                    let _ = sender.send((id, standing)).await;
                }
            });
        }
        drop(sender);
        let mut standings = BTreeMap::new();
        while let Some((id, standing)) = answers.recv().await {
            standings.insert(id, standing);
        }
        standings
    }

    async fn campaign(&self, settled: Settled, sets: &[BTreeSet<NodeId>]) {
        tracing::warn!(
            last = ?settled.last,
            "the disks of too many voters did not come back whole: all of them have answered, and this one, whose log ends last, asks to lead on from there"
        );
        if self.log.last().is_none()
            && let Err(detail) = self.begin_anew(settled.term, sets).await
        {
            return tracing::warn!(detail, "the control plane does not begin anew");
        }
        let term = self.log.term().max(settled.term) + TERMS_LEAP;
        let raised = VoteRequest::new(Vote::new(term, RaftId(self.me)), self.log.last());
        let raised = self.raft.vote(raised).await;
        if !raised.is_ok_and(|answer| answer.vote_granted) {
            return;
        }
        // It only fails where the group has ended.
        let _ = self.raft.trigger().elect().await;
        let mut leadership = self.leadership();
        let elected = leadership.wait_for(|now| now.current_leader == Some(RaftId(self.me)));
        // Without a majority there is another round.
        let _ = timeout(2 * self.clock.election_max, elected).await;
    }

    /// What a leader does about having been elected so, if it was. Returns when to look again.
    async fn lead_on(&self) -> Duration {
        // It is said of a map: where even that was lost, it is founded first.
        let founded = self.found_map().await;
        let said = match founded {
            Proposed::Answered(_) => self.salvage().await,
            other => other,
        };
        if !matches!(said, Proposed::Answered(_)) {
            return ROUND_PAUSE;
        }
        if self.is_suspect() {
            self.trust_again().await;
        }
        self.forget_assembly();
        LOOK_INTERVAL
    }

    /// The entry that says that what was decided last may be forgotten goes ahead of every command. Does nothing where
    /// that is not so, or was said.
    pub(super) async fn salvage(&self) -> Proposed {
        // Said twice, epochs would leap twice.
        let _turn = self.salvaging.lock().await;
        let term = self.term_led();
        if !term.is_some_and(|term| self.log.lacks_salvage(term)) {
            return Proposed::Answered(Answer::Nothing);
        }
        let node = self.me;
        self.write(Change::Command(ControlCommand::Salvaged { node }))
            .await
    }

    fn tell_who_is_missing(
        &self,
        voters: &BTreeSet<NodeId>,
        standings: &BTreeMap<NodeId, Standing>,
    ) {
        let mut assembly = self.assembly();
        if assembly.told.is_some_and(|at| at.elapsed() < TOLD_INTERVAL) {
            return;
        }
        assembly.told = Some(Instant::now());
        drop(assembly);
        let names = |ids: &mut dyn Iterator<Item = &NodeId>| {
            let names: Vec<String> = ids.map(|id| self.name(*id)).collect();
            names.join(", ")
        };
        let missing = names(&mut voters.iter().filter(|id| !standings.contains_key(id)));
        let mut suspects = standings.iter().filter(|(_, said)| said.suspect);
        let suspects = names(&mut suspects.by_ref().map(|(id, _)| id));
        tracing::warn!(
            "the cluster map cannot change: {suspects} came back without some of what had been acknowledged, and {missing}, which may know it, does not answer: start {missing}"
        );
    }
}
