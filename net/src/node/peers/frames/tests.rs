//! Messages come back as they were, and arbitrary frames harm nobody.

use bytes::{Bytes, BytesMut};
use mesh_ring::ids::{ProducerId, TopicId};
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

/// A command that has no batch, or one with a batch or without.
fn payload() -> impl Strategy<Value = replica::Payload<Payload>> {
    let cursor = (any::<u64>(), "[a-z]{1,255}").prop_map(|(topic, name)| {
        let command = Command::CommitCursor {
            topic: TopicId(topic),
            name,
            next: 3,
        };
        replica::Payload::Command(Payload::new(command, None))
    });
    let expire = any::<(u64, [u8; 16])>().prop_map(|(topic, id)| {
        let command = Command::ExpireProducer {
            topic: TopicId(topic),
            producer: ProducerId(id),
        };
        replica::Payload::Command(Payload::new(command, None))
    });
    let batch = prop::option::of(prop::collection::vec(any::<u8>(), 0..300));
    let append = (any::<u64>(), batch).prop_map(|(offset, batch)| {
        let command = append_command(offset);
        replica::Payload::Command(Payload::new(command, batch.map(Bytes::from)))
    });
    prop_oneof![Just(replica::Payload::Barrier), cursor, expire, append]
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

/// Consecutive entries after a position, whose epochs do not go back.
fn entries() -> impl Strategy<Value = (replica::Position, Vec<Entry<Payload>>)> {
    let entries = prop::collection::vec((payload(), 0_u64..3), 0..20);
    (position(), entries).prop_map(|(prev, payloads)| {
        let (mut epoch, mut index) = (prev.epoch.0, prev.index.0);
        let entries = payloads
            .into_iter()
            .map(|(payload, later)| {
                (epoch, index) = (epoch + later, index + 1);
                Entry {
                    epoch: Epoch(epoch),
                    index: Index(index),
                    payload,
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
        let block = Bytes::from(vec![1; 4 << 20]);
        let entries: Vec<_> = sizes.zip(8..).map(|(size, index)| Entry {
            epoch: Epoch(3),
            index: Index(index),
            payload: replica::Payload::Command(Payload::new(append_command(index), Some(block.slice(..size)))),
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

#[test]
fn what_does_not_fit_together_is_refused() {
    let prev = replica::Position {
        epoch: Epoch(3),
        index: Index(7),
    };
    let append = |epoch, entries| Message::Append {
        epoch: Epoch(epoch),
        boot: 1,
        prev,
        entries,
        commit: Index(7),
        activated: true,
        answer: false,
    };
    let entry = |epoch, command, batch: Option<&'static [u8]>| Entry {
        epoch: Epoch(epoch),
        index: Index(8),
        payload: replica::Payload::Command(Payload::new(command, batch.map(Bytes::from_static))),
    };
    let tried = |message| {
        let (header, body) = through_bytes(encode(PartitionId(1), message).remove(0));
        decode(header, body)
    };
    let fine = entry(3, append_command(1), Some(b"batch"));
    assert!(tried(append(3, vec![fine.clone()])).is_ok());
    let earlier = entry(2, append_command(1), None);
    assert!(matches!(
        tried(append(3, vec![earlier])),
        Err(FrameFault::Order { .. })
    ));
    assert!(matches!(
        tried(append(2, vec![fine.clone()])),
        Err(FrameFault::Order { .. })
    ));
    let delete = Command::DeleteTopic { topic: TopicId(1) };
    let batch = entry(3, delete, Some(b"batch"));
    assert!(matches!(
        tried(append(3, vec![batch])),
        Err(FrameFault::Batch)
    ));
    let (header, body) = through_bytes(encode(PartitionId(1), append(3, vec![fine])).remove(0));
    let short = decode(header.clone(), body.slice(1..));
    assert!(matches!(short, Err(FrameFault::Body { bytes: 4, said: 5 })));
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
