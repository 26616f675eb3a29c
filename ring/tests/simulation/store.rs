//! One partition as a node's disk holds it: what the engine keeps, in the shape of maps.

use std::collections::BTreeMap;
use std::convert::Infallible;

use mesh_ring::command::Command;
use mesh_ring::ids::{Epoch, Index, Offset, ProducerId, TopicId};
use mesh_ring::ledger::{Checkpoint, Checkpointed, Source, Tail, Window};
use mesh_ring::replica::{Durable, Entry, Left, Payload, Position, Weigh};

use crate::model::State;

/// A command, and of an append what its batch holds: a number that no other batch has.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Cmd {
    pub(crate) command: Command,
    /// `None` where the sender had trimmed the batch away.
    pub(crate) value: Option<u64>,
}

impl Weigh for Cmd {
    fn bytes(&self) -> usize {
        match &self.command {
            Command::Append { first, last, .. } => 80 + (last - first) as usize * 40,
            _ => 60,
        }
    }
}

pub(crate) fn command_of(payload: &Payload<Cmd>) -> &Command {
    match payload {
        Payload::Barrier => &Command::Barrier,
        Payload::Command(cmd) => &cmd.command,
    }
}

fn value_of(payload: &Payload<Cmd>) -> Option<u64> {
    match payload {
        Payload::Barrier => None,
        Payload::Command(cmd) => cmd.value,
    }
}

/// Whether applying the entry changes more than what is visible.
pub(crate) fn writes_when_applied(payload: &Payload<Cmd>) -> bool {
    match payload {
        Payload::Barrier => false,
        Payload::Command(cmd) => {
            let is_append = matches!(cmd.command, Command::Append { .. });
            !is_append || cmd.value.is_none()
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Topic {
    pub(crate) name: String,
    pub(crate) first: Offset,
    position: u64,
    time_ms: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Batch {
    pub(crate) index: Index,
    pub(crate) first: Offset,
    pub(crate) last: Offset,
    pub(crate) value: u64,
    position: u64,
    time_ms: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) promised: Epoch,
    pub(crate) suspect: bool,
    /// Where the journal ended that went, while another one is on its way.
    gone: Option<Position>,
    pub(crate) before: Position,
    pub(crate) entries: BTreeMap<Index, Entry<Cmd>>,
    /// Everything up to here is committed and applied.
    pub(crate) applied: Index,
    pub(crate) topics: BTreeMap<TopicId, Topic>,
    /// By the last offset.
    pub(crate) log: BTreeMap<(TopicId, Offset), Batch>,
    pub(crate) cursors: BTreeMap<(TopicId, String), Offset>,
    pub(crate) windows: BTreeMap<(TopicId, ProducerId), Window>,
    pub(crate) checkpointed: Checkpointed,
}

impl Store {
    pub(crate) fn last(&self) -> Position {
        let last = self.entries.values().next_back();
        last.map_or(self.before, Entry::position)
    }

    pub(crate) fn durable(&self, boot: u32) -> Durable {
        let mut epochs: Vec<(Epoch, Index)> = Vec::new();
        for entry in self.entries.values() {
            let known = epochs.last().map_or(self.before.epoch, |(epoch, _)| *epoch);
            if entry.epoch > known {
                epochs.push((entry.epoch, entry.index));
            }
        }
        Durable {
            boot,
            promised: self.promised,
            suspect: self.suspect,
            first: self.before.index.next(),
            before: self.before,
            last: self.last(),
            epochs,
            commit: self.applied,
        }
    }

    /// Whether the entry is here, or was before the journal was shortened.
    pub(crate) fn holds(&self, at: Position) -> bool {
        at.index <= self.before.index
            || self.entries.get(&at.index).map(Entry::position) == Some(at)
    }

    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.applied, "what is applied is never truncated");
        for (_, entry) in self.entries.split_off(&from) {
            if let Command::Append { topic, last, .. } = command_of(&entry.payload) {
                self.log.remove(&(*topic, *last));
            }
        }
    }

    pub(crate) fn add(&mut self, entry: Entry<Cmd>) {
        assert_eq!(entry.index, self.last().index.next(), "entries are dense");
        if let Payload::Command(cmd) = &entry.payload
            && let (
                Command::Append {
                    topic,
                    first,
                    last,
                    position,
                    time_ms,
                    ..
                },
                Some(value),
            ) = (&cmd.command, cmd.value)
        {
            let begin = begin_of(*position, *first, *last);
            let batch = Batch {
                index: entry.index,
                first: *first,
                last: *last,
                value,
                position: begin,
                time_ms: *time_ms,
            };
            self.log.insert((*topic, *last), batch);
        }
        self.entries.insert(entry.index, entry);
    }

    /// Applies what is committed.
    pub(crate) fn apply(&mut self, upto: Index) {
        while self.applied < upto {
            self.applied = self.applied.next();
            let Some(entry) = self.entries.get(&self.applied) else {
                panic!("entry {} is applied, and is not here", self.applied);
            };
            let (command, value) = (command_of(&entry.payload).clone(), value_of(&entry.payload));
            self.apply_one(command, value);
        }
    }

    fn apply_one(&mut self, command: Command, value: Option<u64>) {
        match command {
            Command::CreateTopic { name, .. } => {
                let topic = Topic {
                    name,
                    first: 0,
                    position: 0,
                    time_ms: 0,
                };
                self.topics.insert(TopicId(self.applied.0), topic);
            }
            Command::DeleteTopic { topic } => {
                self.topics.remove(&topic);
                self.log.retain(|(of, _), _| *of != topic);
                self.cursors.retain(|(of, _), _| *of != topic);
                self.windows.retain(|(of, _), _| *of != topic);
            }
            Command::Trim {
                topic,
                first,
                position,
                time_ms,
            } => self.begin_at(topic, first, position, time_ms),
            Command::Append {
                topic,
                last,
                position,
                time_ms,
                ..
            } if value.is_none() => self.begin_at(topic, last + 1, position, time_ms),
            Command::CommitCursor { topic, name, next } => {
                self.cursors.insert((topic, name), next);
            }
            _ => {}
        }
    }

    fn begin_at(&mut self, topic: TopicId, first: Offset, position: u64, time_ms: u64) {
        let Some(of) = self.topics.get_mut(&topic) else {
            panic!("topic {topic} is trimmed, and is not here");
        };
        // What its payloads were trimmed with comes later in the journal.
        if first >= of.first {
            (of.first, of.position) = (first, position);
            of.time_ms = of.time_ms.max(time_ms);
            self.log
                .retain(|(id, last), _| *id != topic || *last >= first);
        }
    }

    /// Writes a checkpoint, and lets go of old entries but `kept`.
    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint, kept: u64) {
        self.applied = self.applied.max(checkpoint.upto);
        for topic in &checkpoint.deleted {
            self.windows.retain(|(of, _), _| of != topic);
        }
        for saved in &checkpoint.windows {
            let key = (saved.topic, saved.producer);
            match &saved.window {
                Some(window) => self.windows.insert(key, window.clone()),
                None => self.windows.remove(&key),
            };
        }
        self.checkpointed = Checkpointed {
            upto: checkpoint.upto,
            forgotten_before_ms: checkpoint.forgotten_before_ms,
        };
        let first = Index(self.last().index.0.saturating_sub(kept));
        self.forget_before(first.min(checkpoint.upto).next());
    }

    fn forget_before(&mut self, first: Index) {
        if first > self.before.index.next() {
            let kept = self.entries.split_off(&first);
            if let Some((_, entry)) = self.entries.last_key_value() {
                self.before = entry.position();
            }
            self.entries = kept;
        }
    }

    /// The entry as another node may have it: with its batch, as far as that is still here.
    pub(crate) fn read(&self, index: Index) -> Option<Entry<Cmd>> {
        let mut entry = self.entries.get(&index)?.clone();
        if let Payload::Command(cmd) = &mut entry.payload
            && let Command::Append { topic, last, .. } = &cmd.command
        {
            let batch = self.log.get(&(*topic, *last));
            cmd.value = batch.filter(|batch| batch.index == index).map(|b| b.value);
        }
        Some(entry)
    }

    /// The committed state, for a replica that is too far behind: the journal from the last checkpoint on.
    pub(crate) fn export(&self) -> Store {
        let mut export = self.clone();
        let upto = export.applied.next();
        export.entries.split_off(&upto);
        export.log.retain(|_, batch| batch.index < upto);
        export.forget_before(export.checkpointed.upto.next());
        export
    }

    /// Lets the journal go.
    pub(crate) fn empty(&mut self) {
        *self = Store {
            promised: self.promised,
            suspect: self.suspect,
            gone: self.gone.or(Some(self.last())),
            ..Store::default()
        };
    }

    /// What a witness knows of the journal that went.
    pub(crate) fn left(&self) -> Option<Left> {
        Some(Left {
            promised: self.promised,
            suspect: self.suspect,
            last: self.gone?,
        })
    }

    /// Takes over another node's committed state. Where that reaches as far as the journal that went, it holds all of it
    /// that can be committed; otherwise what was acknowledged here is missing.
    pub(crate) fn import(&mut self, export: Store) {
        let lacks = self.gone.is_some_and(|gone| export.last() < gone);
        *self = Store {
            promised: self.promised,
            suspect: self.suspect || lacks,
            gone: None,
            ..export
        };
    }

    /// The topic's batches from `from` on that readers may see.
    pub(crate) fn visible(&self, topic: TopicId, from: Offset, upto: Index) -> Vec<&Batch> {
        let batches = self.log.range((topic, from)..=(topic, Offset::MAX));
        let batches = batches.map(|(_, batch)| batch);
        batches.take_while(|batch| batch.index <= upto).collect()
    }
}

impl Store {
    /// What is here is what follows from everything that was committed.
    pub(crate) fn check_state(&self, truth: &State, committed: u64, who: &str) {
        assert_eq!(self.last().index.0, committed, "{who}: the journal's end");
        let topics: Vec<_> = self.topics.keys().collect();
        assert_eq!(
            topics,
            truth.topics.keys().collect::<Vec<_>>(),
            "{who}: topics"
        );
        for (topic, of) in &truth.topics {
            assert_eq!(self.topics[topic].name, of.name, "{who}: {topic}");
            let Ok(tail) = self.tail(*topic);
            assert_eq!(tail, Some(of.tail), "{who}: {topic}");
            let kept = of
                .batches
                .iter()
                .filter(|(_, last, _)| *last >= of.tail.first);
            let here = self.visible(*topic, 0, Index(u64::MAX));
            let here = here
                .iter()
                .map(|batch| (batch.first, batch.last, batch.position));
            assert!(here.eq(kept.copied()), "{who}: batches of {topic}");
            let cursors = self.cursors.iter().filter(|((of, _), _)| of == topic);
            let cursors = cursors.map(|((_, name), next)| (name, next));
            assert!(cursors.eq(of.cursors.iter()), "{who}: cursors of {topic}");
        }
        assert_eq!(self.windows, truth.windows, "{who}: windows");
        let forgotten = self.checkpointed.forgotten_before_ms;
        assert_eq!(forgotten, truth.forgotten_before_ms, "{who}: producers");
    }
}

/// Where a batch begins, as its size follows from its number of records.
fn begin_of(position: u64, first: Offset, last: Offset) -> u64 {
    position - batch_bytes(last - first + 1)
}

/// The stored size of a batch.
pub(crate) fn batch_bytes(records: u64) -> u64 {
    50 + 10 * records
}

impl Source for Store {
    type Error = Infallible;

    fn tail(&self, topic: TopicId) -> Result<Option<Tail>, Infallible> {
        let Some(of) = self.topics.get(&topic) else {
            return Ok(None);
        };
        let mut tail = Tail {
            first: of.first,
            first_position: of.position,
            next: of.first,
            position: of.position,
            time_ms: of.time_ms,
        };
        let batches = self.log.range((topic, 0)..=(topic, Offset::MAX));
        if let Some((_, batch)) = batches.last() {
            tail.next = batch.last + 1;
            tail.position = batch.position + batch_bytes(batch.last - batch.first + 1);
            tail.time_ms = batch.time_ms;
        }
        Ok(Some(tail))
    }

    fn topic(&self, name: &str) -> Result<Option<TopicId>, Infallible> {
        let mut topics = self.topics.iter();
        Ok(topics.find(|(_, of)| of.name == name).map(|(id, _)| *id))
    }

    fn name(&self, topic: TopicId) -> Result<Option<String>, Infallible> {
        Ok(self.topics.get(&topic).map(|of| of.name.clone()))
    }

    fn window(&self, topic: TopicId, producer: ProducerId) -> Result<Option<Window>, Infallible> {
        Ok(self.windows.get(&(topic, producer)).cloned())
    }

    fn position_of(&self, topic: TopicId, offset: Offset) -> Result<Option<u64>, Infallible> {
        let next = self
            .log
            .range((topic, offset)..=(topic, Offset::MAX))
            .next();
        let holds = |batch: &&Batch| batch.first <= offset;
        Ok(next
            .map(|(_, batch)| batch)
            .filter(holds)
            .map(|b| b.position))
    }
}
