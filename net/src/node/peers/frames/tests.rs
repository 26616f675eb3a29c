//! Messages come back as they were, and arbitrary frames harm nobody.

use bytes::{Bytes, BytesMut};
use mesh_engine::batch::{BatchBuilder, BatchHeader, Compression, LeaderStamp, stamp};
use mesh_ring::{
    command::Command,
    ids::{ProducerId, TopicId},
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::wire::frame::encode_head;

fn position() -> impl Strategy<Value = replica::Position> {
    (0_u64..9, 0_u64..1000).prop_map(|(epoch, index)| replica::Position {
        epoch: Epoch(epoch),
        index: Index(index),
    })
}

/// What an entry holds, as far as its epoch does not matter.
#[derive(Clone, Debug)]
enum Held {
    Payload(replica::Payload<Payload>),
    /// An append, and about how many bytes it appends where they were not trimmed away.
    Append(u64, Option<usize>),
}

impl Held {
    fn in_epoch(self, epoch: Epoch) -> replica::Payload<Payload> {
        match self {
            Held::Payload(payload) => payload,
            Held::Append(first, None) => command(append_command(first), None),
            Held::Append(first, Some(bytes)) => {
                let (append, batch) = appended(epoch, first, bytes);
                command(append, Some(batch))
            }
        }
    }
}

fn command(command: Command, batch: Option<Bytes>) -> replica::Payload<Payload> {
    replica::Payload::Command(Payload::new(command, batch))
}

/// A command that has no batch, or one with a batch or without.
fn held() -> impl Strategy<Value = Held> {
    let cursor = (any::<u64>(), "[a-z]{1,255}").prop_map(|(topic, name)| {
        let topic = TopicId(topic);
        Held::Payload(command(
            Command::CommitCursor {
                topic,
                name,
                next: 3,
            },
            None,
        ))
    });
    let expire = any::<(u64, [u8; 16])>().prop_map(|(topic, id)| {
        let (topic, producer) = (TopicId(topic), ProducerId(id));
        Held::Payload(command(Command::ExpireProducer { topic, producer }, None))
    });
    let bytes = prop::option::of(0_usize..300);
    let append = (0..u64::MAX / 2, bytes).prop_map(|(first, bytes)| Held::Append(first, bytes));
    let barrier = Just(Held::Payload(replica::Payload::Barrier));
    prop_oneof![barrier, cursor, expire, append]
}

fn append_command(offset: u64) -> Command {
    Command::Append {
        topic: TopicId(1),
        first: offset,
        last: offset,
        position: offset / 2,
        time_ms: 5,
        producer: None,
    }
}

/// A batch with a value of so many bytes, and the command that appends it.
fn appended(epoch: Epoch, first: u64, bytes: usize) -> (Command, Bytes) {
    let mut builder = BatchBuilder::new(Compression::None);
    // No record is larger.
    let values = vec![7; bytes];
    for value in values.chunks(1 << 19).chain([&[][..]]) {
        let added = builder.push_parts(None, value, &[], 3);
        added.unwrap();
    }
    let mut batch = builder.finish(None).unwrap();
    let leader = LeaderStamp {
        base_offset: first,
        base_position: first / 2,
        epoch,
        append_time_ms: 5,
    };
    stamp(&mut batch, leader).unwrap();
    let header = BatchHeader::decode(&batch).unwrap();
    let command = Command::Append {
        topic: TopicId(1),
        first,
        last: header.last_offset(),
        position: header.next_position(),
        time_ms: 5,
        producer: None,
    };
    (command, batch.into())
}

/// Consecutive entries after a position, whose epochs do not go back.
fn entries() -> impl Strategy<Value = (replica::Position, Vec<Entry<Payload>>)> {
    let entries = prop::collection::vec((held(), 0_u64..3), 0..20);
    (position(), entries).prop_map(|(prev, payloads)| {
        let (mut epoch, mut index) = (prev.epoch.0, prev.index.0);
        let entries = payloads
            .into_iter()
            .map(|(held, later)| {
                (epoch, index) = (epoch + later, index + 1);
                Entry {
                    epoch: Epoch(epoch),
                    index: Index(index),
                    payload: held.in_epoch(Epoch(epoch)),
                }
            })
            .collect();
        (prev, entries)
    })
}

fn message() -> impl Strategy<Value = Message<Payload>> {
    let appended = (entries(), any::<(u32, u64, bool, bool)>()).prop_map(
        |((prev, entries), (boot, commit, activated, answer))| Message::Append {
            epoch: Epoch(1000),
            boot,
            prev,
            entries,
            commit: Index(commit),
            activated,
            answer,
        },
    );
    let fetched = (entries(), any::<u32>()).prop_map(|((prev, entries), boot)| Message::Fetched {
        epoch: Epoch(1000),
        boot,
        prev,
        entries,
    });
    let numbers = any::<(u64, u32, u64, u64, bool)>();
    let others = (numbers, position(), position(), 0..6).prop_map(
        |((epoch, boot, index, commit, suspect), a, b, kind)| {
            let epoch = Epoch(epoch);
            match kind {
                0 => Message::Seal { epoch },
                1 => Message::Sealed {
                    epoch,
                    boot,
                    suspect,
                    first: Index(index),
                    last: a,
                    commit: Index(commit),
                },
                2 => Message::Fetch { epoch, after: a },
                3 => Message::Diverged {
                    epoch,
                    boot,
                    after: a,
                    hint: b,
                },
                4 => Message::Acked {
                    epoch,
                    boot,
                    index: Index(index),
                    received: Index(index / 2),
                    commit: Index(commit),
                    suspect,
                },
                _ => Message::Rejected {
                    epoch,
                    boot,
                    prev: a,
                    promised: Epoch(index),
                    hint: b,
                },
            }
        },
    );
    prop_oneof![appended, fetched, others]
}

/// Through the bytes of a frame.
fn through_bytes((header, body): Frame) -> (ReplicaFrame, Bytes) {
    let header = ReplicaFrame::decode(header.encode_to_vec().as_slice()).unwrap();
    let mut joined = BytesMut::new();
    body.iter()
        .for_each(|piece| joined.extend_from_slice(piece));
    (header, joined.freeze())
}

proptest! {
    #[test]
    fn messages_come_back(partition: u16, message in message()) {
        let partition = PartitionId(partition);
        let mut frames = encode(partition, message.clone());
        prop_assert_eq!(frames.len(), 1);
        let (header, body) = through_bytes(frames.remove(0));
        prop_assert_eq!(decode(header, body).unwrap(), (partition, message));
    }

    #[test]
    fn arbitrary_frames_never_panic(header: Vec<u8>, body: Vec<u8>) {
        if let Ok(header) = ReplicaFrame::decode(header.as_slice()) {
            let _ = decode(header, body.into());
        }
    }

    /// Closer to the real thing: a right message with some bytes changed.
    #[test]
    fn changed_frames_never_panic(message in message(), changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..5), cut: prop::sample::Index) {
        let (header, body) = through_bytes(encode(PartitionId(1), message).remove(0));
        let mut header = header.encode_to_vec();
        for (at, to) in changes {
            let at = at.index(header.len());
            header[at] = to;
        }
        if let Ok(header) = ReplicaFrame::decode(header.as_slice()) {
            let _ = decode(header.clone(), body.clone());
            let _ = decode(header, body.slice(..cut.index(body.len() + 1)));
        }
    }

    /// Whatever the sizes, every frame is within the limits, nothing is lost and the pieces follow each other.
    #[test]
    fn every_piece_fits_a_frame(sizes in prop::collection::vec(prop_oneof![0_usize..200, 0..(4_usize << 20)], 1..12), many in 0_usize..3000) {
        let prev = replica::Position { epoch: Epoch(3), index: Index(7) };
        let sizes = sizes.into_iter().chain(std::iter::repeat_n(5, many));
        let entries: Vec<_> = sizes.zip(8..).map(|(size, index)| Entry {
            epoch: Epoch(3),
            index: Index(index),
            // With its header it is no larger than a batch may be.
            payload: Held::Append(index, Some(size.min((4 << 20) - 256))).in_epoch(Epoch(3)),
        }).collect();
        let message = Message::Append { epoch: Epoch(3), boot: 1, prev, entries: entries.clone(), commit: Index(7), activated: true, answer: false };
        let mut got: Vec<Entry<Payload>> = Vec::new();
        for frame in encode(PartitionId(1), message) {
            let (header, body) = through_bytes(frame);
            prop_assert!(encode_head(&header, body.len()).is_ok());
            let (_, message) = decode(header, body).unwrap();
            let Message::Append { prev: after, entries, .. } = message else { panic!() };
            prop_assert_eq!(after, got.last().map_or(prev, Entry::position));
            got.extend(entries);
        }
        prop_assert!(got == entries);
        let fetched = Message::Fetched { epoch: Epoch(3), boot: 1, prev, entries: entries.clone() };
        let frames = encode(PartitionId(1), fetched);
        prop_assert_eq!(frames.len(), 1);
        let (_, message) = decode(frames[0].0.clone(), through_bytes(frames[0].clone()).1).unwrap();
        let Message::Fetched { entries: some, .. } = message else { panic!() };
        prop_assert!(!some.is_empty() && entries.starts_with(&some));
    }
}

const PARTITION: PartitionId = PartitionId(6);

/// Behind this entry, what the tests send follows.
const PREV: replica::Position = replica::Position {
    epoch: Epoch(3),
    index: Index(7),
};

fn append(epoch: u64, payloads: Vec<(u64, replica::Payload<Payload>)>) -> Message<Payload> {
    let entry = |((epoch, payload), index)| Entry {
        epoch: Epoch(epoch),
        index: Index(index),
        payload,
    };
    Message::Append {
        epoch: Epoch(epoch),
        boot: 1,
        prev: PREV,
        entries: payloads.into_iter().zip(8..).map(entry).collect(),
        commit: Index(7),
        activated: true,
        answer: false,
    }
}

fn framed(message: Message<Payload>) -> (ReplicaFrame, Bytes) {
    through_bytes(encode(PARTITION, message).remove(0))
}

fn tried(message: Message<Payload>) -> Result<Message<Payload>, FrameFault> {
    let (header, body) = framed(message);
    decode(header, body).map(|(_, message)| message)
}

/// The fault of the entry behind the first, which is right.
fn fault(result: Result<Message<Payload>, FrameFault>) -> EntryFault {
    match result {
        Err(FrameFault::Entry {
            partition: PARTITION,
            index: Index(9),
            fault,
        }) => fault,
        other => panic!("{other:?}"),
    }
}

fn good(epoch: u64) -> (u64, replica::Payload<Payload>) {
    (epoch, Held::Append(40, Some(100)).in_epoch(Epoch(epoch)))
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert!(tried(append(3, vec![good(3), good(3)])).is_ok());
    let earlier = fault(tried(append(4, vec![good(4), good(3)])));
    assert!(matches!(earlier, EntryFault::Order(Epoch(3))));
    let later = fault(tried(append(4, vec![good(4), good(5)])));
    assert!(matches!(later, EntryFault::Order(Epoch(5))));
    let delete = Command::DeleteTopic { topic: TopicId(1) };
    let batch = Some(Bytes::from_static(b"batch"));
    let beside = fault(tried(append(3, vec![good(3), (3, command(delete, batch))])));
    assert!(matches!(beside, EntryFault::Batch));
    let (header, body) = framed(append(3, vec![good(3)]));
    let short = decode(header.clone(), body.slice(1..));
    assert!(matches!(short, Err(FrameFault::Body { .. })));
    let far = ReplicaFrame {
        partition: 70_000,
        ..header
    };
    assert!(matches!(decode(far, body), Err(FrameFault::Range { .. })));
    assert!(matches!(
        decode(ReplicaFrame::default(), Bytes::new()),
        Err(FrameFault::Kind)
    ));
}

#[test]
fn whatever_byte_of_a_batch_is_flipped_it_is_refused() {
    let (header, body) = framed(append(3, vec![good(3), good(3)]));
    for at in body.len() / 2..body.len() {
        let mut flipped = body.to_vec();
        flipped[at] ^= 1 << (at % 8);
        let fault = fault(decode(header.clone(), flipped.into()).map(|(_, message)| message));
        assert!(
            matches!(fault, EntryFault::Damaged(_)),
            "byte {at}: {fault}"
        );
    }
    assert!(decode(header, body).is_ok());
}

#[test]
fn a_batch_of_which_the_command_does_not_speak_is_refused() {
    let (right, batch) = appended(Epoch(3), 40, 100);
    let Command::Append {
        topic,
        first,
        last,
        position,
        time_ms,
        producer,
    } = right.clone()
    else {
        unreachable!()
    };
    let append_of = |first, last, position, time_ms, producer| Command::Append {
        topic,
        first,
        last,
        position,
        time_ms,
        producer,
    };
    let stamp = mesh_ring::command::ProducerStamp {
        id: ProducerId([1; 16]),
        epoch: 1,
        sequence: 1,
    };
    for other in [
        append_of(first + 1, last, position, time_ms, producer),
        append_of(first, last + 1, position, time_ms, producer),
        append_of(first, last, position + 1, time_ms, producer),
        append_of(first, last, position, time_ms + 1, producer),
        append_of(first, last, position, time_ms, Some(stamp)),
    ] {
        let entry = (3, command(other.clone(), Some(batch.clone())));
        let fault = fault(tried(append(3, vec![good(3), entry])));
        assert!(
            matches!(fault, EntryFault::Damaged(_)),
            "{other:?}: {fault}"
        );
    }
    // Of another epoch.
    let entry = (4, command(right, Some(batch)));
    let other = fault(tried(append(4, vec![good(3), entry])));
    assert!(matches!(other, EntryFault::Damaged(_)), "{other}");
}

#[test]
fn a_batch_may_only_be_missing_where_the_sender_says_that_it_was_trimmed() {
    let trimmed = (3, command(append_command(7), None));
    let message = append(3, vec![good(3), trimmed]);
    let (mut header, body) = framed(message.clone());
    assert_eq!(decode(header.clone(), body.clone()).unwrap().1, message);
    let set = |header: &mut ReplicaFrame, entry: usize, trimmed| {
        let Some(Kind::Append(append)) = &mut header.message else {
            unreachable!()
        };
        append.entries[entry].trimmed = trimmed;
    };
    set(&mut header, 1, false);
    let missing = fault(decode(header, body).map(|(_, message)| message));
    assert!(matches!(missing, EntryFault::Missing));

    // What is there was not trimmed away, and what is no append cannot be.
    for other in [good(3), (3, replica::Payload::Barrier)] {
        let (mut header, body) = framed(append(3, vec![good(3), other]));
        set(&mut header, 1, true);
        let said = fault(decode(header, body).map(|(_, message)| message));
        assert!(matches!(said, EntryFault::Trimmed), "{said}");
    }
}
