//! Appends to an engine that is alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use mesh_engine::batch::{BatchBuilder, Compression};
use mesh_engine::{
    Append, BindingWrite, Identity, Options, RESERVE_BYTES_MIN, Solo, TopicConfig, prepare,
};
use mesh_ring::ids::{ClusterId, NodeId, TopicKey};
use mesh_ring::name::TopicName;

use crate::Result;
use crate::counts::measured;
use crate::payload::Payload;
use crate::place::Place;

pub(super) const RECORD_BYTES: usize = 1024;
/// Records of a batch, and of a group of single ones.
pub(super) const TOGETHER: usize = 256;
/// When all of this happens, unix milliseconds.
const NOW_MS: u64 = 1_700_000_000_000;

/// An engine in a folder that goes with it.
pub(super) struct Stage {
    pub(super) engine: Solo,
    pub(super) payload: Payload,
    place: Place,
}

impl Stage {
    /// An empty engine.
    pub(super) fn new(value_bytes: usize) -> Result<Stage> {
        let place = Place::new()?;
        let dir = place.path().join("store");
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            node: NodeId([2; 16]),
            name: "n1".into(),
            partitions: 16,
        };
        prepare(&dir, &identity)?;
        Ok(Stage {
            engine: open(&dir)?,
            payload: Payload::new(value_bytes),
            place,
        })
    }

    /// The same after everything was written out to files.
    pub(super) fn reopened(self) -> Result<Stage> {
        let Stage {
            engine,
            payload,
            place,
        } = self;
        engine.close()?;
        drop(engine);
        Ok(Stage {
            engine: open(&place.path().join("store"))?,
            payload,
            place,
        })
    }

    pub(super) fn topic(&self, number: usize) -> Result<TopicKey> {
        let name = TopicName::new(&format!("count-{number:04}"))?;
        Ok(self.engine.create_topic(&name, TopicConfig::default())?.key)
    }

    /// A batch of these records.
    pub(super) fn batch(&self, first: u64, records: usize) -> Result<Vec<u8>> {
        let room = records * (self.payload.bytes() + 16);
        let mut batch = BatchBuilder::with_capacity(Compression::None, room);
        for number in first..first + records as u64 {
            batch.push_parts(None, self.payload.value(number), &[], NOW_MS as i64)?;
        }
        Ok(batch.finish(None)?)
    }

    pub(super) fn append(&self, topic: TopicKey, first: u64, records: usize) -> Result<()> {
        let batch = self.batch(first, records)?;
        self.engine.append(append(topic, batch))?;
        Ok(())
    }

    /// Has the writer take what `submit` submits as one group of [`TOGETHER`], and waits for it. `submit` is given what to
    /// call for each operation when it is done.
    pub(super) fn grouped(
        &self,
        hold: &BindingWrite,
        submit: impl FnOnce(&Arc<Group>) -> Result<()>,
    ) -> Result<()> {
        let (held, is_held) = sync_channel(1);
        let (go_on, may_go_on): (SyncSender<()>, Receiver<()>) = sync_channel(1);
        // Answers are given on the writer's thread: as long as this one is, nothing else is taken.
        self.engine.submit_write(hold.clone(), move |result| {
            let _ = held.send(result.map(drop).map_err(|error| error.to_string()));
            let _ = may_go_on.recv();
        });
        is_held.recv()??;
        let (finished, is_finished) = sync_channel(1);
        let group = Arc::new(Group {
            waiting: AtomicUsize::new(TOGETHER),
            failed: AtomicBool::new(false),
            finished,
        });
        submit(&group)?;
        go_on.send(())?;
        is_finished.recv()?;
        if group.failed.load(Ordering::Relaxed) {
            return Err("an operation of a group was refused".into());
        }
        Ok(())
    }
}

/// Operations of a group that are under way. Whoever waits is woken once: how often a thread wakes up before the last
/// answer would be chance.
pub(super) struct Group {
    waiting: AtomicUsize,
    failed: AtomicBool,
    finished: SyncSender<()>,
}

impl Group {
    /// One of them has ended like this.
    pub(super) fn done(&self, went_well: bool) {
        if !went_well {
            self.failed.store(true, Ordering::Relaxed);
        }
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            // There is room, and nobody is left to tell if the other side has gone.
            let _ = self.finished.send(());
        }
    }
}

/// A binding whose write holds the writer up.
pub(super) fn hold() -> Result<BindingWrite> {
    Ok(BindingWrite {
        key: mesh_ring::name::BindingKey::new(b"hold")?,
        value: None,
        context: None,
        expires_ms: None,
    })
}

fn open(dir: &Path) -> Result<Solo> {
    let options = Options {
        // A disk that is nearly full changes nothing here.
        reserve_bytes: RESERVE_BYTES_MIN,
        write_buffer_bytes: 256 << 20,
        cache_bytes: 64 << 20,
        marker_after: Duration::from_secs(3600),
        clock: Arc::new(|| NOW_MS),
        steady: Arc::new(|| NOW_MS),
        ..Options::default()
    };
    Ok(Solo::open(dir, options)?)
}

fn append(topic: TopicKey, batch: Vec<u8>) -> Append {
    Append {
        topic,
        batch,
        expected: None,
    }
}

pub(super) fn batch() -> Result<u64> {
    const BATCHES: u64 = 24;
    const WARM: u64 = 8;
    let stage = Stage::new(RECORD_BYTES)?;
    let topic = stage.topic(0)?;
    let append = |number: u64| stage.append(topic, number * TOGETHER as u64, TOGETHER);
    (0..WARM).try_for_each(append)?;
    measured(&mut || (WARM..WARM + BATCHES).try_for_each(append))?;
    Ok(BATCHES)
}

pub(super) fn single() -> Result<u64> {
    const RECORDS: u64 = 400;
    const WARM: u64 = 50;
    let stage = Stage::new(RECORD_BYTES)?;
    let topic = stage.topic(0)?;
    let append = |number: u64| stage.append(topic, number, 1);
    (0..WARM).try_for_each(append)?;
    measured(&mut || (WARM..WARM + RECORDS).try_for_each(append))?;
    Ok(RECORDS)
}

pub(super) fn group() -> Result<u64> {
    let stage = Stage::new(RECORD_BYTES)?;
    let topic = stage.topic(0)?;
    in_groups(&stage, &[topic])
}

pub(super) fn topics() -> Result<u64> {
    let stage = Stage::new(RECORD_BYTES)?;
    let topics: Vec<_> = (0..TOGETHER)
        .map(|number| stage.topic(number))
        .collect::<Result<_>>()?;
    in_groups(&stage, &topics)
}

fn in_groups(stage: &Stage, topics: &[TopicKey]) -> Result<u64> {
    const GROUPS: u64 = 8;
    const WARM: u64 = 2;
    let hold = hold()?;
    let append = |group: u64| append_group(stage, topics, &hold, group * TOGETHER as u64);
    (0..WARM).try_for_each(append)?;
    measured(&mut || (WARM..WARM + GROUPS).try_for_each(append))?;
    Ok(GROUPS * TOGETHER as u64)
}

/// Appends single records, the next one to the next topic, as one group.
pub(super) fn append_group(
    stage: &Stage,
    topics: &[TopicKey],
    hold: &BindingWrite,
    first: u64,
) -> Result<()> {
    stage.grouped(hold, |group| {
        for (number, topic) in (first..).zip(topics.iter().cycle()).take(TOGETHER) {
            let group = Arc::clone(group);
            let append = append(*topic, stage.batch(number, 1)?);
            stage
                .engine
                .submit_append(append, move |result| group.done(result.is_ok()));
        }
        Ok(())
    })
}
