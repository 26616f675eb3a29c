//! A connection to a node, and whether anything is heard over it.
//!
//! QUIC takes ten seconds to call a connection lost, so that slow paths are not. While somebody waits for something on
//! one, a pulse therefore counts what arrives, asks a question that is answered at once where nothing does, and says how long
//! it has been quiet. What to make of it is for those who wait: with other nodes at hand they go there.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use quinn::{Connection, RecvStream};
use tokio::{
    select,
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::link::Link;
use crate::{
    identity::{Fingerprint, REVOKED_REASON, Revoked},
    pipeline::Calls,
    quic::CLOSE_REFUSED,
    wire::{
        frame::FrameWriter,
        proto::{self, Request, request},
    },
};

/// How often the pulse looks.
const BEAT: Duration = Duration::from_millis(100);
/// Without a word for so long, the node is asked something: where a request is under way, and where only news is awaited.
const ASK_AFTER: Duration = Duration::from_millis(200);
const ASK_IDLE_AFTER: Duration = Duration::from_millis(800);
/// An answer to that takes no longer than this where all is well.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
/// Without a word for so long, the node is taken for dead where there are others.
const SILENT_AFTER: Duration = Duration::from_millis(1_500);
/// A connection that nobody has needed for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// What is heard over a line while somebody waits.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Hearing {
    Well,
    /// The node should have said something.
    Quiet,
    Silent,
}

/// One connection to one node. Cheap to clone; the connection ends with the last clone.
#[derive(Clone, Debug)]
pub(super) struct Line(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Arc<str>,
    connection: Connection,
    calls: Calls,
    /// Those that wait for an answer, and those that wait for news.
    asking: AtomicUsize,
    listening: AtomicUsize,
    /// Tells the pulse that somebody waits, or that the line is gone.
    wanted: Arc<Notify>,
    hearing: watch::Sender<Hearing>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

/// Somebody waits for something on a line. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Waiting {
    line: Line,
    which: fn(&Inner) -> &AtomicUsize,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        (self.which)(&self.line.0).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Line {
    pub(super) fn new(address: Arc<str>, connection: Connection) -> Self {
        Self(Arc::new(Inner {
            address,
            connection,
            calls: Calls::new(),
            asking: AtomicUsize::new(0),
            listening: AtomicUsize::new(0),
            wanted: Arc::default(),
            hearing: watch::Sender::new(Hearing::Well),
        }))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// Small requests that share a stream.
    pub(super) fn calls(&self) -> &Calls {
        &self.0.calls
    }

    /// Where the node is.
    pub(super) fn address(&self) -> &Arc<str> {
        &self.0.address
    }

    /// How many datagrams have come over it.
    pub(super) fn datagrams(&self) -> u64 {
        self.0.connection.stats().udp_rx.datagrams
    }

    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.connection.close_reason().is_none()
    }

    /// An answer is awaited.
    pub(super) fn ask(&self) -> Waiting {
        self.wait(|line| &line.asking)
    }

    /// News are awaited, which may be long in coming.
    pub(super) fn listen(&self) -> Waiting {
        self.wait(|line| &line.listening)
    }

    fn wait(&self, which: fn(&Inner) -> &AtomicUsize) -> Waiting {
        which(&self.0).fetch_add(1, Ordering::Relaxed);
        self.0.wanted.notify_one();
        Waiting {
            line: self.clone(),
            which,
        }
    }

    /// Resolves once the node should have said something and has not. Cancel-safe.
    pub(super) async fn quiet(&self) {
        self.heard_no_better_than(Hearing::Quiet).await;
    }

    /// Resolves once the node is to be taken for dead. Cancel-safe.
    pub(super) async fn silent(&self) {
        self.heard_no_better_than(Hearing::Silent).await;
    }

    async fn heard_no_better_than(&self, limit: Hearing) {
        // The sender lives in self, so that waiting cannot fail.
        let _ = self
            .0
            .hearing
            .subscribe()
            .wait_for(|hearing| *hearing >= limit)
            .await;
    }

    /// What watches the line until it is gone: to be spawned with it.
    pub(super) fn pulse(
        &self,
        link: Weak<Link>,
        revoked: Revoked,
        fingerprint: Fingerprint,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (line, wanted) = (Arc::downgrade(&self.0), self.0.wanted.clone());
        async move {
            select! {
                () = beat(&line, &wanted, &link) => {}
                () = revoked.until_revoked(fingerprint) => {
                    if let Some(line) = line.upgrade() {
                        line.connection.close(CLOSE_REFUSED, REVOKED_REASON);
                    }
                }
            }
        }
    }
}

/// Beats while somebody waits, until the line is gone.
async fn beat(line: &Weak<Inner>, wanted: &Notify, link: &Weak<Link>) {
    let mut heard = 0;
    // Counted in beats: while this process itself stood still, nothing could be heard.
    let mut silence = Duration::ZERO;
    let mut question: Option<RecvStream> = None;
    loop {
        let Some(ask_after) = patience(line) else {
            (silence, question) = (Duration::ZERO, None);
            let is_idle = timeout(IDLE_MAX, wanted.notified()).await.is_err();
            if is_idle && let (Some(link), Some(line)) = (link.upgrade(), line.upgrade()) {
                link.forget(&Line(line));
            }
            if line.upgrade().is_none() {
                return;
            }
            continue;
        };
        sleep(BEAT).await;
        let Some(line) = line.upgrade() else { return };
        if line.connection.close_reason().is_some() {
            return;
        }
        let datagrams = line.connection.stats().udp_rx.datagrams;
        if datagrams != heard {
            (heard, silence, question) = (datagrams, Duration::ZERO, None);
            line.set(Hearing::Well);
            continue;
        }
        silence += BEAT;
        if silence >= ask_after && question.is_none() {
            question = timeout(BEAT, ask(&line.connection)).await.ok().flatten();
        }
        line.set(if silence >= SILENT_AFTER {
            Hearing::Silent
        } else if silence >= ask_after + ANSWER_WITHIN {
            Hearing::Quiet
        } else {
            Hearing::Well
        });
    }
}

/// How long those who wait bear without a word. `None`: nobody waits.
fn patience(line: &Weak<Inner>) -> Option<Duration> {
    let line = line.upgrade()?;
    if line.asking.load(Ordering::Relaxed) > 0 {
        Some(ASK_AFTER)
    } else if line.listening.load(Ordering::Relaxed) > 0 {
        Some(ASK_IDLE_AFTER)
    } else {
        None
    }
}

impl Inner {
    fn set(&self, hearing: Hearing) {
        self.hearing
            .send_if_modified(|was| std::mem::replace(was, hearing) != hearing);
    }
}

/// Asks for a map newer than any, which is answered in a few bytes.
async fn ask(connection: &Connection) -> Option<RecvStream> {
    let (send, receive) = connection.open_bi().await.ok()?;
    let mut writer = FrameWriter::new(send);
    let asked = request::Kind::Map(proto::GetMap {
        known: u64::MAX,
        exact: false,
    });
    writer.header(&Request::new(asked)).await.ok()?;
    writer.finish();
    Some(receive)
}
