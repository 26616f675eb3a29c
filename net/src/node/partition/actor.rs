//! The loop: requests, messages and completions in; the core's effects out, which `effects` carries out.

use std::sync::Arc;
use std::time::Duration;

use mesh_engine::{Engine, JournalEntry, ReadError};
use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, NodeId, PartitionId};
use mesh_ring::ledger::{Ledger, topics_max};
use mesh_ring::replica::{
    self, Config, Effect, Entry, Input, Lane, Limits, Message, Replica, Report, Role,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ask::payload_of;
use super::completions::Completions;
use super::pending::Pending;
use super::{Ask, MAILBOX_ASKS_MAX, Partition, Progress, Refusal, Status};
use crate::node::payload::Payload;
use crate::node::peers::Admitted;

/// Most requests and messages that are taken up before their effects are carried out: they share a write and a frame.
const ASKS_AT_ONCE: usize = 256;

/// Journal entries that are read at once when a partition is opened.
const COMMANDS_AT_ONCE: usize = 1_024;

/// How often a partition that waits for something looks at the time.
const TICK: Duration = Duration::from_millis(50);

/// How often a leader that cannot decide asks again for another one: the map may not have heard, or had nobody else.
const RESIGN_AGAIN: Duration = Duration::from_secs(1);

/// What the actor needs of the node.
pub(in crate::node) trait Doors: Send + Sync + 'static {
    /// Sends a message, or loses it.
    fn send(&self, to: NodeId, partition: PartitionId, message: Message<Payload>, lane: Lane);
    /// Reads the journal for a follower and answers by [`Ask::Read`].
    fn read(&self, partition: PartitionId, to: NodeId, epoch: Epoch, from: Index, bytes: usize);
    /// Tells the control plane, which may lose it.
    fn report(&self, partition: PartitionId, report: Report);
    /// The follower needs more than the journal has.
    fn rebuild(&self, partition: PartitionId, epoch: Epoch, node: NodeId);
    /// Something could not be decided for what could not be read.
    fn damaged(&self, error: &ReadError);
}

/// The owner of one partition on this node.
pub(in crate::node) struct Actor<D> {
    pub(super) id: PartitionId,
    pub(super) engine: Arc<Engine>,
    pub(super) doors: Arc<D>,
    pub(super) replica: Replica<Payload>,
    pub(super) ledger: Ledger,
    mailbox: mpsc::Receiver<Ask>,
    pub(super) status: watch::Sender<Status>,
    progress: Arc<Progress>,
    pub(super) completions: Arc<Completions>,
    pub(super) pending: Pending,
    /// Decided and not yet proposed, in the order of their indexes.
    pub(super) proposals: Vec<Payload>,
    pub(super) effects: Vec<Effect<Payload>>,
    /// Bytes from other replicas that are being made durable, by the ticket that waits for them.
    pub(super) admitted: std::collections::VecDeque<(u64, Admitted)>,
    /// The permit of the message that is being taken up.
    pub(super) admitting: Option<Admitted>,
    /// Last entry that the ledger knows.
    pub(super) known: Index,
    persisted: u64,
    pub(super) applied: Index,
    began: Instant,
    next_tick: Instant,
    ticked: bool,
    pub(super) failed: Option<String>,
    /// When it last asked for another leader because it had failed.
    pub(super) resigned: Option<Instant>,
}

impl<D: Doors> Actor<D> {
    /// Takes the partition up where the disk has it. Reads the journal's unchecked end; blocks.
    ///
    /// # Errors
    /// The journal cannot be read: the partition stays closed, and nothing of it is changed.
    pub(in crate::node) fn open(
        id: PartitionId,
        engine: Arc<Engine>,
        doors: Arc<D>,
    ) -> Result<(Actor<D>, Partition), ReadError> {
        let durable = engine.replica(id)?;
        let (known, commit) = (durable.last.index, durable.commit);
        let ledger = load_ledger(&engine, id, commit)?;
        let replica = Replica::new(engine.identity().node, &durable, Limits::default());
        let (mailbox, asks) = mpsc::channel(MAILBOX_ASKS_MAX);
        let (status, watched) = watch::channel(Status::default());
        let progress = Arc::new(Progress::default());
        let now = Instant::now();
        let actor = Actor {
            id,
            engine,
            doors,
            replica,
            ledger,
            mailbox: asks,
            status,
            progress: Arc::clone(&progress),
            completions: Arc::new(Completions::default()),
            pending: Pending::default(),
            proposals: Vec::new(),
            effects: Vec::new(),
            admitted: std::collections::VecDeque::new(),
            admitting: None,
            known,
            persisted: 0,
            applied: commit,
            began: now,
            next_tick: now,
            ticked: true,
            failed: None,
            resigned: None,
        };
        let partition = Partition {
            id,
            mailbox,
            status: watched,
            progress,
        };
        Ok((actor, partition))
    }

    /// Runs until the partition is let go or the node stops. What was accepted and is not committed is answered as
    /// unknown: it may be there or not.
    pub(in crate::node) async fn run(mut self, stop: CancellationToken) {
        let mut asks = Vec::with_capacity(ASKS_AT_ONCE);
        self.note();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.completions.rung() => {}
                taken = self.mailbox.recv_many(&mut asks, ASKS_AT_ONCE) => {
                    if taken == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(self.next_tick), if self.wants_tick() => {}
            }
            self.look_at_the_time();
            self.take_completions();
            for ask in asks.drain(..) {
                self.take(ask);
            }
            self.propose();
            self.carry_out();
            if self.mailbox.is_empty() {
                // Followers hear of commits with the next entries, or now where there are none.
                let now = self.now_ms();
                self.replica.flush(now, &mut self.effects);
                self.carry_out();
            }
            self.note();
            if let Some(cause) = self.completions.stopped() {
                tracing::debug!(partition = %self.id, cause, "a partition ends with its store");
                break;
            }
        }
        self.lose_waiting();
        self.turn_away().await;
        // So that the next start has nothing to replay.
        self.checkpoint();
    }

    /// Answers whoever asked and was not taken up.
    async fn turn_away(&mut self) {
        self.mailbox.close();
        while let Some(ask) = self.mailbox.recv().await {
            // Whoever waits for anything else learns by its being dropped.
            if let Ask::Append(append) = ask {
                (append.done)(Err(Refusal::NotLeading));
            }
        }
    }

    fn wants_tick(&self) -> bool {
        self.replica.wants_tick() || self.leads_in_vain()
    }

    fn leads_in_vain(&self) -> bool {
        self.failed.is_some() && matches!(self.replica.role(), Role::Leading(_))
    }

    /// Once a round, so that a mailbox that is never empty holds up no tick.
    fn look_at_the_time(&mut self) {
        let now = Instant::now();
        if now < self.next_tick || !self.wants_tick() {
            return;
        }
        self.next_tick = now + TICK;
        self.ticked = true;
        self.step(Input::Tick);
        let again = |at: Instant| now.duration_since(at) >= RESIGN_AGAIN;
        if self.leads_in_vain() && self.resigned.is_none_or(again) {
            self.resigned = Some(now);
            let report = Report::Resign {
                epoch: self.replica.epoch(),
                to: None,
                why: replica::ResignCause::NoMajority,
            };
            self.doors.report(self.id, report);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn step(&mut self, input: Input<Payload>) {
        let now = self.now_ms();
        self.replica.step(now, input, &mut self.effects);
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Append(append) => self.append(append),
            Ask::Change { change, done } => self.change(change, done),
            Ask::Configure(config) => self.configure(config),
            Ask::Received {
                from,
                message,
                admitted,
            } => {
                // What was decided before comes before what the message changes.
                self.propose();
                self.admitting = Some(admitted);
                self.step(Input::Received { from, message });
                self.carry_out();
                self.admitting = None;
            }
            Ask::Connected(node) => self.step(Input::Connected(node)),
            Ask::Disconnected(node) => self.step(Input::Disconnected(node)),
            Ask::GiveUp => self.lose_waiting(),
            Ask::Read { to, epoch, entries } => self.take_read(to, epoch, entries),
        }
    }

    fn configure(&mut self, config: Config) {
        self.propose();
        self.step(Input::Configure(config));
        self.carry_out();
        let (epoch, leader) = (self.replica.epoch(), self.replica.leader());
        self.status.send_if_modified(|status| {
            // An epoch may change and the role stay.
            let differs = (status.epoch, status.leader) != (epoch, leader);
            (status.epoch, status.leader) = (epoch, leader);
            differs
        });
    }

    fn take_read(
        &mut self,
        to: NodeId,
        epoch: Epoch,
        entries: Result<Vec<JournalEntry>, ReadError>,
    ) {
        let input = match entries {
            Ok(entries) => Input::Read {
                to,
                epoch,
                entries: entries.iter().map(entry_of).collect(),
            },
            Err(error) => {
                tracing::error!(partition = %self.id, %error, "cannot read the journal for a replica that is behind");
                Input::ReadFailed { to, epoch }
            }
        };
        self.step(input);
    }

    fn take_completions(&mut self) {
        let persisted = self.completions.persisted_upto();
        if persisted > self.persisted {
            self.persisted = persisted;
            while self
                .admitted
                .front()
                .is_some_and(|(ticket, _)| *ticket <= persisted)
            {
                self.admitted.pop_front();
            }
            self.step(Input::Persisted(persisted));
        }
        if let Some(first) = self.completions.take_checkpointed() {
            self.ledger.checkpoint_done();
            self.step(Input::Forgotten(first));
        }
        self.carry_out();
    }

    /// Proposes what was decided; and where a refusal waits for an entry and there is none, one that says nothing.
    fn propose(&mut self) {
        if let Some((index, command)) = self.ledger.confirm() {
            self.enter(index, Payload::new(command, None));
        }
        if self.proposals.is_empty() {
            return;
        }
        let payloads = std::mem::take(&mut self.proposals);
        let now = self.now_ms();
        let expected = self.replica.last().index.next();
        match self.replica.propose(now, payloads, &mut self.effects) {
            // The answers wait for these very indexes.
            Ok(first) => assert_eq!(first, expected, "the core numbered a proposal otherwise"),
            Err(refused) => {
                self.ledger.truncate(expected);
                self.known = Index(expected.0 - 1);
                tracing::debug!(partition = %self.id, leader = ?refused.leader, "lost leadership before proposing");
                self.lose_waiting();
            }
        }
    }

    /// Whoever waits learns that the outcome is open.
    pub(super) fn lose_waiting(&mut self) {
        self.pending.lose();
    }

    /// The partition cannot go on here; what the disk has stays as it is.
    pub(super) fn fail(&mut self, error: &ReadError) {
        if self.failed.is_none() {
            let cause = error.to_string();
            tracing::error!(partition = %self.id, cause, "a partition cannot go on");
            self.failed = Some(cause.clone());
            self.status
                .send_modify(|status| status.failed = Some(cause));
        }
    }

    fn note(&mut self) {
        self.progress
            .note(self.replica.last().index, self.replica.commit());
        // Looked at by people: as often as ticks come, and once when they end, is often enough.
        if self.ticked || !self.replica.wants_tick() {
            self.ticked = false;
            self.progress.note_lag(self.replica.lag());
        }
        let suspect = self.replica.is_suspect();
        if self.status.borrow().suspect != suspect {
            self.status.send_modify(|status| status.suspect = suspect);
        }
    }
}

fn entry_of(entry: &JournalEntry) -> Entry<Payload> {
    let payload = match entry.command {
        Command::Barrier => replica::Payload::Barrier,
        _ => replica::Payload::Command(payload_of(entry)),
    };
    Entry {
        epoch: entry.epoch,
        index: entry.index,
        payload,
    }
}

/// The ledger as the journal has it, up to its last entry.
fn load_ledger(engine: &Engine, id: PartitionId, commit: Index) -> Result<Ledger, ReadError> {
    let checkpointed = engine.checkpointed(id)?;
    let topics = topics_max(engine.identity().partitions);
    let mut ledger = Ledger::new(checkpointed).remembering(topics);
    let source = engine.source(id);
    let mut from = checkpointed.upto.next();
    loop {
        let commands = engine.commands(id, from, COMMANDS_AT_ONCE)?;
        let Some((last, _)) = commands.last() else {
            break;
        };
        from = last.next();
        for (index, command) in commands {
            ledger.follow(&source, index, &command)?;
        }
    }
    ledger.settle(commit);
    Ok(ledger)
}
