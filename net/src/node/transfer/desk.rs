//! Copies that this node gives away. Each is read as of one moment, by one thread, and kept for a while after it was last
//! asked for, so that a taker that was cut off, or has crashed, goes on where it was.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mesh_engine::{Chunk, ExportHeader, Holding, ReadError};
use mesh_ring::ids::{Index, NodeId, PartitionId};
use mesh_ring::tombstone::Stamp;
use tokio::sync::oneshot;

use crate::node::Shared;
use crate::tasks::blocking;

/// How long a copy is kept that nobody asks for. It holds back disk space that was given up since.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How often a copy that is kept looks whether the node stops.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The copies that are kept.
#[derive(Debug, Default)]
pub(super) struct Desks(Mutex<BTreeMap<(PartitionId, NodeId), Desk>>);

/// One copy, and the way to the thread that reads it.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    pub(super) header: Arc<ExportHeader>,
    /// Taken before the copy was.
    pub(super) stamp: Stamp,
    /// The last entry of what the taker held, where the copy goes on from that.
    pub(super) continues: Option<Index>,
    questions: SyncSender<Question>,
}

/// The cursor behind which a chunk is wanted.
struct Question {
    after: Vec<u8>,
    answer: oneshot::Sender<Result<Chunk, ReadError>>,
}

impl Desks {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(PartitionId, NodeId), Desk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The copy that the taker has begun, if it is kept still, and none of it is older than the taker may take.
    pub(super) fn kept(
        &self,
        id: PartitionId,
        taker: NodeId,
        copy: &[u8],
        oldest: Stamp,
    ) -> Option<Desk> {
        let desk = self.lock().get(&(id, taker)).cloned();
        let is_new = |stamp: Stamp| stamp.oldest(oldest) == oldest;
        desk.filter(|desk| desk.header.id == copy && is_new(desk.stamp))
    }

    /// Keeps the copy no longer.
    pub(super) fn forget(&self, id: PartitionId, taker: NodeId, copy: [u8; 16]) {
        let mut desks = self.lock();
        if desks
            .get(&(id, taker))
            .is_some_and(|desk| desk.header.id == copy)
        {
            desks.remove(&(id, taker));
        }
    }
}

impl Desk {
    /// Takes a copy of the partition as it is now, in place of the taker's earlier one; without what the taker holds.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn open(
        shared: &Arc<Shared>,
        id: PartitionId,
        taker: NodeId,
        holding: Option<Holding>,
    ) -> Result<Desk, ReadError> {
        let stamp = shared.stamp(id);
        let (questions, asked) = sync_channel(1);
        let (opened, header) = oneshot::channel();
        let keeping = Arc::clone(shared);
        let held = holding.as_ref().map(|holding| holding.commit);
        let keeper = blocking(move || keep(&keeping, (id, taker), holding, opened, &asked));
        shared.tasks.spawn("export", async move {
            keeper.await;
        });
        let gone = || ReadError::Store("the copy was given up".into());
        let header = Arc::new(header.await.map_err(|_| gone())??);
        let desk = Desk {
            continues: held.filter(|_| header.continues.is_some()),
            header,
            stamp,
            questions,
        };
        shared
            .transfers
            .desks
            .lock()
            .insert((id, taker), desk.clone());
        Ok(desk)
    }

    /// The chunk behind `after`.
    ///
    /// # Errors
    /// It cannot be read, or the copy is no longer kept.
    pub(super) async fn chunk(&self, after: Vec<u8>) -> Result<Chunk, ReadError> {
        let (answer, chunk) = oneshot::channel();
        let gone = || ReadError::Store("the copy is no longer kept".into());
        self.questions
            .try_send(Question { after, answer })
            .map_err(|_| gone())?;
        chunk.await.map_err(|_| gone())?
    }
}

/// Reads for as long as anyone asks.
fn keep(
    shared: &Arc<Shared>,
    (id, taker): (PartitionId, NodeId),
    holding: Option<Holding>,
    opened: oneshot::Sender<Result<ExportHeader, ReadError>>,
    questions: &Receiver<Question>,
) {
    let export = match shared.engine.export_behind(id, holding.as_ref()) {
        Ok(export) => export,
        Err(error) => {
            // Whoever wanted it may be gone already.
            let _ = opened.send(Err(error));
            return;
        }
    };
    let copy = export.header().id;
    if opened.send(Ok(export.header().clone())).is_err() {
        return;
    }
    let mut asked = Instant::now();
    loop {
        match questions.recv_timeout(LOOK_EVERY) {
            Ok(Question { after, answer }) => {
                let _ = answer.send(export.chunk(&after));
                asked = Instant::now();
            }
            Err(RecvTimeoutError::Timeout)
                if asked.elapsed() < KEPT_FOR && !shared.tasks.is_stopping() => {}
            Err(_) => break,
        }
    }
    shared.transfers.desks.forget(id, taker, copy);
}
