//! One connection to a peer: dialled when it is wanted, kept, and dialled again when it is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_ring::{
    ids::{NodeId, PartitionId},
    replica::{Lane, Message},
};
use quinn::Connection;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Contact, Inner, NotSent, PeerEvent, Shared,
    dial::{self, DIAL_TIMEOUT, Established},
    frames, lanes,
    outbox::Outbox,
};
use crate::{
    identity::REVOKED_REASON,
    node::payload::Payload,
    pipeline::Calls,
    quic::{CLOSE_DONE, CLOSE_REFUSED},
    wire::proto::Channel,
};

/// The pause after a failed attempt, doubled each time up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection that held so long was a good one.
const STEADY_AFTER: Duration = Duration::from_secs(1);
/// An attempt that is younger than this is not begun anew because the peer was heard of.
const NUDGE_AFTER: Duration = Duration::from_millis(100);
/// The longest that an attempt is given. One that was given up is followed by one that is given twice as long: where both
/// sides are slow because very many nodes start at once, whoever stays as impatient never gets through.
const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(8);

/// Bytes and messages that wait for the lane of short answers.
const PROMPT_BYTES_MAX: usize = 4 << 20;
const PROMPT_MESSAGES_MAX: usize = 32_768;
/// The same for what is live: more than the windows of many partitions together. Their batches are shared with the leader's
/// memory, and not copied.
const LIVE_BYTES_MAX: usize = 64 << 20;
const LIVE_MESSAGES_MAX: usize = 65_536;
/// The same for catch-up, of which few pieces are under way at a time.
const CATCH_UP_BYTES_MAX: usize = 16 << 20;
const CATCH_UP_MESSAGES_MAX: usize = 16_384;

/// A message to send, and whose partition's it is.
pub(super) type Outgoing = (PartitionId, Message<Payload>);

/// One peer: where it is, what waits for it, and the two connections to it.
#[derive(Debug)]
pub(super) struct Neighbour {
    node: NodeId,
    contact: watch::Sender<Contact>,
    control: Link,
    bulk: Link,
    pub(super) prompt: Outbox<Outgoing>,
    pub(super) live: Outbox<Outgoing>,
    pub(super) catch_up: Outbox<Outgoing>,
    gone: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Link {
    state: watch::Sender<State>,
    wanted: AtomicBool,
    nudged: Notify,
    /// The peer is taken for dead, and the connection was closed for that.
    given_up: AtomicBool,
}

/// How a connection is doing.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Being dialled for the first time, or for the first time since it was lost.
    Dialling,
    Up(Connection, Arc<Calls>),
    /// The last attempt failed. Others follow.
    Down(String),
}

impl Link {
    fn new() -> Self {
        Self {
            state: watch::Sender::new(State::Dialling),
            wanted: AtomicBool::new(false),
            nudged: Notify::new(),
            given_up: AtomicBool::new(false),
        }
    }

    /// The connection, where there is one that lives.
    pub(super) fn living(&self) -> Option<Connection> {
        match &*self.state.borrow() {
            State::Up(connection, _) if connection.close_reason().is_none() => {
                Some(connection.clone())
            }
            _ => None,
        }
    }

    /// The pipeline of the connection, where there is one that lives.
    pub(super) fn calls(&self) -> Option<Arc<Calls>> {
        match &*self.state.borrow() {
            State::Up(_, calls) => Some(Arc::clone(calls)),
            _ => None,
        }
    }

    /// The connection, waited for while it is being dialled, or why there is none. Cancel-safe.
    pub(super) async fn settled(&self) -> Result<Connection, String> {
        let mut states = self.state.subscribe();
        let state = states
            .wait_for(|state| !matches!(state, State::Dialling))
            .await;
        match state.as_deref() {
            Ok(State::Up(connection, _)) => Ok(connection.clone()),
            Ok(State::Down(cause)) => Err(cause.clone()),
            Ok(State::Dialling) | Err(_) => Err("the node is stopping".into()),
        }
    }
}

impl Neighbour {
    pub(super) fn new(contact: Contact, gone: CancellationToken) -> Self {
        Self {
            node: contact.node,
            contact: watch::Sender::new(contact),
            control: Link::new(),
            bulk: Link::new(),
            prompt: Outbox::new(PROMPT_BYTES_MAX, PROMPT_MESSAGES_MAX),
            live: Outbox::new(LIVE_BYTES_MAX, LIVE_MESSAGES_MAX),
            catch_up: Outbox::new(CATCH_UP_BYTES_MAX, CATCH_UP_MESSAGES_MAX),
            gone,
        }
    }

    pub(super) fn link(&self, channel: Channel) -> &Link {
        match channel {
            Channel::Control => &self.control,
            Channel::Bulk => &self.bulk,
        }
    }

    /// The name that its certificate must bear, where it is known.
    pub(super) fn name(&self) -> String {
        self.contact.borrow().name.clone()
    }

    /// Notes where it is now. What is connected stays so; the next attempt goes there.
    pub(super) fn moved(&self, contact: Contact) {
        let moved = self.contact.send_if_modified(|known| {
            let differs = *known != contact;
            *known = contact;
            differs
        });
        if moved {
            self.nudge();
        }
    }

    /// Ends the pause between attempts.
    pub(super) fn nudge(&self) {
        for link in [&self.control, &self.bulk] {
            if link.living().is_none() {
                link.nudged.notify_one();
            }
        }
    }

    /// Closes both connections, and makes whoever waits for one fail until it is there again.
    pub(super) fn give_up(&self) {
        for link in [&self.control, &self.bulk] {
            if let Some(connection) = link.living() {
                link.given_up.store(true, Ordering::Relaxed);
                connection.close(CLOSE_DONE, b"taken for dead");
            }
        }
    }

    /// Closes both connections for good.
    pub(super) fn leave(&self) {
        self.gone.cancel();
    }

    pub(super) fn push(
        &self,
        partition: PartitionId,
        message: Message<Payload>,
        lane: Lane,
    ) -> Result<(), NotSent> {
        let carries = matches!(message, Message::Append { .. } | Message::Fetched { .. });
        let outbox = match lane {
            _ if !carries => &self.prompt,
            Lane::Live => &self.live,
            Lane::CatchUp => &self.catch_up,
        };
        let bytes = frames::weight(&message);
        outbox.push((partition, message), bytes)
    }

    pub(super) fn takes_messages(&self) -> bool {
        self.prompt.is_open() && self.live.is_open()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.prompt.dropped() + self.live.dropped() + self.catch_up.dropped()
    }

    fn outboxes(&self, channel: Channel) -> Vec<&Outbox<Outgoing>> {
        match channel {
            Channel::Control => vec![&self.prompt],
            Channel::Bulk => vec![&self.live, &self.catch_up],
        }
    }
}

/// Starts to dial where that has not been done yet.
pub(super) fn want(inner: &Inner, neighbour: &Arc<Neighbour>, channel: Channel) {
    if neighbour.link(channel).wanted.swap(true, Ordering::Relaxed) {
        return;
    }
    let keeping = keep(Arc::clone(&inner.shared), Arc::clone(neighbour), channel);
    inner.tasks.spawn("peer", keeping);
}

async fn keep(shared: Arc<Shared>, peer: Arc<Neighbour>, channel: Channel) {
    let link = peer.link(channel);
    let mut pause = Pause::new();
    let mut patience = DIAL_TIMEOUT;
    let mut told = false;
    loop {
        let dialled = tokio::select! {
            () = peer.gone.cancelled() => break,
            dialled = attempt(&shared, &peer, channel, patience) => dialled,
        };
        match dialled {
            Ok(established) => {
                patience = DIAL_TIMEOUT;
                let began = Instant::now();
                serve(&shared, &peer, channel, &established).await;
                tell_lost(&shared, &peer).await;
                told = true;
                if began.elapsed() >= STEADY_AFTER {
                    pause = Pause::new();
                }
            }
            Err(error) => {
                patience = (patience * 2).min(DIAL_TIMEOUT_MAX);
                down(&peer, channel, error.to_string());
                if !std::mem::replace(&mut told, true) {
                    tell_lost(&shared, &peer).await;
                }
            }
        }
        tokio::select! {
            () = peer.gone.cancelled() => break,
            () = link.nudged.notified() => pause = Pause::new(),
            () = pause.wait() => {}
        }
    }
    down(
        &peer,
        channel,
        "the node has left, or this one is stopping".into(),
    );
}

/// Dials until that succeeds or fails. Begins anew where the peer is heard of while it takes long: it may have come up just
/// now, and the packets to it are sent again more and more seldom. Each time it waits twice as long for that.
async fn attempt(
    shared: &Shared,
    peer: &Neighbour,
    channel: Channel,
    patience: Duration,
) -> Result<Established, dial::DialError> {
    let mut nudge_after = NUDGE_AFTER;
    loop {
        let contact = peer.contact.borrow().clone();
        let expected = dial::Expected {
            node: Some(contact.node),
            name: &contact.name,
        };
        let dialling = dial::dial(shared, &contact.address, &expected, channel, patience);
        let nudged = async {
            sleep(nudge_after).await;
            peer.link(channel).nudged.notified().await;
        };
        tokio::select! {
            dialled = dialling => return dialled,
            () = nudged => nudge_after *= 2,
        }
    }
}

fn down(peer: &Neighbour, channel: Channel, cause: String) {
    for outbox in peer.outboxes(channel) {
        outbox.shut();
    }
    peer.link(channel).state.send_if_modified(|state| {
        if matches!(state, State::Down(before) if *before == cause) {
            return false;
        }
        tracing::info!(node = %peer.node, ?channel, cause, "not connected");
        *state = State::Down(cause);
        true
    });
}

/// Uses a connection until it is lost.
async fn serve(
    shared: &Shared,
    peer: &Arc<Neighbour>,
    channel: Channel,
    established: &Established,
) {
    let Established {
        connection, holder, ..
    } = established;
    let link = peer.link(channel);
    for outbox in peer.outboxes(channel) {
        outbox.open();
    }
    let calls = Arc::new(Calls::new());
    let carrying = calls.carry(connection.clone());
    link.state
        .send_replace(State::Up(connection.clone(), calls));
    tracing::debug!(node = %peer.node, name = holder.name, ?channel, "connected");
    let using = async {
        // Whoever listens may have ended before this node's connections.
        let _ = shared.events.send(PeerEvent::Connected(peer.node)).await;
        // The pipeline ends with the connection, or before it where the peer is stopping: then requests go another way.
        let carrying = async {
            carrying.await;
            std::future::pending().await
        };
        tokio::select! {
            error = lanes::run(peer, channel, connection) => error,
            never = carrying => never,
        }
    };
    let revoked = shared.config.identity.revoked();
    let cause = tokio::select! {
        () = peer.gone.cancelled() => {
            connection.close(CLOSE_DONE, b"");
            "the node has left, or this one is stopping".into()
        }
        () = revoked.until_revoked(holder.fingerprint) => {
            connection.close(CLOSE_REFUSED, REVOKED_REASON);
            "its certificate is revoked".into()
        }
        reason = connection.closed() => reason.to_string(),
        error = using => {
            connection.close(CLOSE_DONE, b"");
            error.to_string()
        }
    };
    if link.given_up.swap(false, Ordering::Relaxed) {
        down(peer, channel, "the node is taken for dead".into());
    } else {
        for outbox in peer.outboxes(channel) {
            outbox.shut();
        }
        link.state.send_replace(State::Dialling);
    }
    tracing::info!(node = %peer.node, name = holder.name, ?channel, cause, "disconnected");
}

async fn tell_lost(shared: &Shared, peer: &Neighbour) {
    // Where the node stops, nobody may be listening any more; but as long as there is room, it is said.
    tokio::select! {
        biased;
        _ = shared.events.send(PeerEvent::Disconnected(peer.node)) => {}
        () = peer.gone.cancelled() => {}
    }
}

/// A pause that grows, of a random length, so that nodes that lost each other do not all come back at once.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(PAUSE_MIN)
    }

    async fn wait(&mut self) {
        let most = self.0;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        // Without randomness the pause is at its longest.
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        sleep(most / 2 + most.mul_f64(share / 2.0)).await;
    }
}
