//! Blocks of a topic's offsets: equal digests for equal records, damage told of, healed from another replica, and never
//! anything written over what is valid.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use bytes::Bytes;
use mesh_engine::batch::{BatchHeader, LeaderStamp, stamp};
use mesh_engine::{
    Append, BLOCK_OFFSETS, Command, Engine, HealError, Healed, Persist, ReadError, Solo,
};
use mesh_ring::ids::{Epoch, Offset, TopicKey};
use support::damage::{files, flip, scrub};
use support::journal::{Scribe, commit, persist};
use support::*;

const PER_BATCH: u64 = 100;

/// A topic of `batches` batches of a hundred records, some of which begin in one block and end in the next.
fn filled(bench: &Bench, batches: u64) -> (Solo, TopicKey) {
    let engine = bench.open();
    let topic = create(&engine, "t");
    for n in 0..batches {
        let append = Append {
            topic,
            batch: noise_batch(n, PER_BATCH as usize, 20),
            expected: Some(n * PER_BATCH),
        };
        engine.append(append).unwrap();
    }
    (engine, topic)
}

fn block(engine: &Engine, topic: TopicKey, number: u64) -> Vec<Bytes> {
    let (mut next, mut found) = (number * BLOCK_OFFSETS, Vec::new());
    loop {
        let batches = engine.read_block(topic, number, next, 5_000).unwrap();
        let Some(last) = batches.last() else {
            return found;
        };
        next = BatchHeader::decode(last).unwrap().next_offset();
        found.extend(batches);
    }
}

fn first(batch: &Bytes) -> Offset {
    BatchHeader::decode(batch).unwrap().leader.base_offset
}

#[test]
fn equal_blocks_have_equal_digests_and_only_full_ones_have_any() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 31);
    let copy = bench.open_at(&bench.crashed_copy("other"));
    let digests: Vec<_> = (0..3)
        .map(|number| engine.topic_block_digest(topic, number).unwrap())
        .collect();
    for (number, digest) in digests.iter().enumerate() {
        assert_eq!(copy.topic_block_digest(topic, number as u64), Ok(*digest));
    }
    assert_ne!(digests[0], digests[1]);
    assert!(matches!(
        engine.topic_block_digest(topic, 3),
        Err(ReadError::BeyondEnd { next: 3_100, .. })
    ));
    assert!(matches!(
        engine.topic_block_digest(topic, 9),
        Err(ReadError::BeyondEnd { .. })
    ));
    // Both blocks have the batch that lies in both.
    let (one, two) = (block(&engine, topic, 0), block(&engine, topic, 1));
    assert_eq!((one.len(), first(&one[0])), (11, 0));
    assert_eq!((two.len(), first(&two[0])), (11, 1_000));
    assert_eq!(one[10], two[0]);
    engine.trim(topic, 1_500).unwrap();
    assert!(matches!(
        engine.topic_block_digest(topic, 1),
        Err(ReadError::Trimmed { first: 1_500, .. })
    ));
    assert_eq!(engine.topic_block_digest(topic, 2), Ok(digests[2]));
    let healed = engine.heal_block(topic, two).unwrap();
    let (trimmed, present) = (5, 6);
    assert_eq!(
        healed,
        Healed {
            written: 0,
            present,
            trimmed
        }
    );
    engine.delete_topic(topic).unwrap();
    assert_eq!(
        engine.topic_block_digest(topic, 2),
        Err(ReadError::TopicDeleted)
    );
    assert!(matches!(
        engine.heal_block(topic, one),
        Err(HealError::Read(ReadError::TopicDeleted))
    ));
}

#[test]
fn flipped_bytes_are_told_of_and_healed_from_the_other_replica_wherever_they_are() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 31);
    let whole = bench.open_at(&bench.crashed_copy("whole"));
    let written = values(&whole, topic);
    engine.close().unwrap();
    drop(engine);
    let blobs = files(&bench.data(), "blob");
    assert_eq!(blobs.len(), 1);
    let bytes = std::fs::metadata(&blobs[0]).unwrap().len() as usize;
    let mut healed_at = 0;
    // The last one is in the batch that ends the log: nothing but the journal says that it was committed.
    for at in [bytes / 40, bytes / 2, bytes - bytes / 60] {
        let data = bench.crashed_copy(&format!("flip{at}"));
        flip(&data.join("db").join(blobs[0].file_name().unwrap()), at);
        let engine = bench.open_engine_at(&data);
        let damaged: Vec<u64> = (0..4)
            .filter(|number| {
                matches!(
                    engine.topic_block_digest(topic, *number),
                    Err(ReadError::Damaged(_))
                )
            })
            .collect();
        assert!(
            (1..=2).contains(&damaged.len()),
            "flip at {at}: {damaged:?}"
        );
        for number in &damaged {
            let theirs = block(&whole, topic, *number);
            let count = theirs.len() as u64;
            let healed = engine.heal_block(topic, theirs.clone()).unwrap();
            assert_eq!(healed.written + healed.present, count);
            healed_at += healed.written;
            let again = engine.heal_block(topic, theirs).unwrap();
            assert_eq!((again.written, again.present), (0, count));
        }
        let crashed = bench.open_engine_at(&bench.crashed_copy_of(&data, &format!("after{at}")));
        for engine in [&engine, &crashed] {
            assert_eq!(values(engine, topic), written, "flip at {at}");
            for number in 0..3 {
                assert_eq!(
                    engine.topic_block_digest(topic, number),
                    whole.topic_block_digest(topic, number)
                );
            }
            assert_eq!(scrub(engine).damages, []);
        }
    }
    assert_eq!(healed_at, 3, "one batch for each flip");
}

#[test]
fn rows_that_are_gone_are_told_of_and_come_back() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 31);
    let whole = bench.open_at(&bench.crashed_copy("whole"));
    engine.close().unwrap();
    drop(engine);
    let path = bench.data().join("db");
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &path).unwrap();
    let db = rocksdb::DB::open_cf(&options, &path, &families).unwrap();
    for end in (1_099..=2_099).step_by(PER_BATCH as usize) {
        let log = db.cf_handle("log").unwrap();
        db.delete_cf(log, mesh_engine::keys::log_key(topic, end))
            .unwrap();
    }
    for family in &families {
        db.flush_cf(db.cf_handle(family).unwrap()).unwrap();
    }
    drop(db);
    let engine = bench.open_engine_at(&bench.data());
    assert_eq!(engine.topics_of(topic.partition, None, 9), Ok(vec![topic]));
    assert_eq!(
        engine.topics_of(topic.partition, Some(topic.id), 9),
        Ok(Vec::new())
    );
    // The batches before and behind lie in the blocks beside, too.
    let unreadable = |engine: &Engine, number| engine.unreadable_in(topic, number);
    for (number, offset) in [(0, 1_000), (1, 1_024), (2, 2_048)] {
        assert_eq!(unreadable(&engine, number), Ok(Some(offset)));
        assert!(matches!(
            engine.topic_block_digest(topic, number),
            Err(ReadError::Damaged(_))
        ));
    }
    assert_eq!(unreadable(&engine, 3), Ok(None));
    let theirs = block(&whole, topic, 1);
    let healed = engine.heal_block(topic, theirs).unwrap();
    assert_eq!((healed.written, healed.present), (11, 0));
    assert_eq!(values(&engine, topic), values(&whole, topic));
    for number in 0..4 {
        assert_eq!(unreadable(&engine, number), Ok(None));
    }
    assert_eq!(engine.describe(topic).unwrap().full_blocks(), 0..3);
    assert_eq!(engine.describe(topic).unwrap().blocks(), 0..4);
}

#[test]
fn the_end_that_cannot_be_read_is_named() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 31);
    engine.close().unwrap();
    drop(engine);
    let blobs = files(&bench.data(), "blob");
    let bytes = std::fs::metadata(&blobs[0]).unwrap().len() as usize;
    flip(&blobs[0], bytes - bytes / 60);
    let engine = bench.open_engine_at(&bench.data());
    let Err(ReadError::Damaged(damage)) = engine.describe(topic) else {
        panic!("the last batch can be read");
    };
    assert_eq!((damage.topic, damage.offset), (Some(topic), Some(3_099)));
}

#[test]
fn what_is_valid_is_never_written_over() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 3);
    let mine = block(&engine, topic, 0);
    let header = BatchHeader::decode(&mine[1]).unwrap();

    // Other records at the same offsets, and the same offsets in two batches.
    let mut other = noise_batch(99, PER_BATCH as usize, 20);
    stamp(&mut other, header.leader).unwrap();
    let half = |n: u64, base_position| {
        let mut batch = noise_batch(50 + n, PER_BATCH as usize / 2, 20);
        let leader = LeaderStamp {
            base_offset: PER_BATCH + n * PER_BATCH / 2,
            base_position,
            ..header.leader
        };
        stamp(&mut batch, leader).unwrap();
        Bytes::from(batch)
    };
    for theirs in [
        Bytes::from(other),
        half(0, header.leader.base_position),
        half(1, header.leader.base_position + 5_000),
    ] {
        let error = engine.heal_block(topic, vec![theirs]).unwrap_err();
        assert!(matches!(error, HealError::Conflict { .. }), "{error}");
    }
    assert_eq!(block(&engine, topic, 0), mine);
}

#[test]
fn what_is_damaged_on_its_way_or_is_not_committed_here_is_refused() {
    let bench = Bench::new();
    let (engine, topic) = filled(&bench, 3);
    let mine = block(&engine, topic, 0);
    let mut garbled = mine[1].to_vec();
    garbled[150] ^= 1;
    let gap = vec![mine[0].clone(), mine[2].clone()];
    for theirs in [vec![Bytes::from(garbled)], gap] {
        assert!(matches!(
            engine.heal_block(topic, theirs),
            Err(HealError::Invalid(_))
        ));
    }
    let last = BatchHeader::decode(&mine[2]).unwrap();
    let mut beyond = noise_batch(7, 1, 20);
    let leader = LeaderStamp {
        base_offset: last.next_offset(),
        base_position: last.next_position(),
        ..last.leader
    };
    stamp(&mut beyond, leader).unwrap();
    assert_eq!(
        engine.heal_block(topic, vec![beyond.into()]),
        Err(HealError::NotCommitted { offset: 300 })
    );
    assert_eq!(engine.describe(topic).unwrap().next, 300);
    assert_eq!(engine.heal_block(topic, Vec::new()), Ok(Healed::default()));
}

#[test]
fn what_a_replica_has_not_committed_is_no_part_of_a_block() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let mut scribe = Scribe::new(&engine, "r");
    let barrier = scribe.entry(Command::Barrier);
    let (create, mut end) = scribe.create("r");
    let seen = scribe.append(&mut end, &["seen"]);
    let unseen = scribe.append(&mut end, &["unseen"]);
    let (committed, batch) = (seen.index, unseen.batch.clone().unwrap());
    let (partition, epoch) = (scribe.partition, Epoch(1));
    let promise = Persist {
        promise: Some(epoch),
        ..Persist::entries(partition, vec![barrier, create, seen, unseen])
    };
    persist(&engine, promise);
    commit(&engine, partition, committed);
    let name = mesh_ring::name::TopicName::new("r").unwrap();
    let topic = engine.topic(&name).unwrap().unwrap().key;
    assert_eq!(block(&engine, topic, 0).len(), 1);
    assert_eq!(
        engine.heal_block(topic, vec![batch]),
        Err(HealError::NotCommitted { offset: 1 })
    );
}
