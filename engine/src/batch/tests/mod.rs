mod hostile;
mod limits;

use super::*;
use bytes::Bytes;
use mesh_ring::ids::{Epoch, ProducerId};
use proptest::prelude::*;

const PRODUCER: ProducerStamp = ProducerStamp {
    id: ProducerId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
    epoch: 7,
    sequence: 9,
};
const LEADER: LeaderStamp = LeaderStamp {
    base_offset: 1000,
    base_position: 5000,
    epoch: Epoch(3),
    append_time_ms: 1_700_000_000_123,
};

/// Two records: one with a key, one earlier with a header and nothing else. The checksums were computed outside.
#[rustfmt::skip]
const STORED: [u8; 126] = [
    1,
    0,
    0, 0,
    2, 0, 0, 0,
    0x16, 0, 0, 0,
    0x16, 0, 0, 0,
    0, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0,
    0, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0,
    1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10,
    7, 0, 0, 0,
    9, 0, 0, 0,
    0, 0, 0, 0,
    0x22, 0x5c, 0x25, 0xd7,
    0xe8, 3, 0, 0, 0, 0, 0, 0,
    0x88, 0x13, 0, 0, 0, 0, 0, 0,
    3, 0, 0, 0, 0, 0, 0, 0,
    0x7b, 0x68, 0xe5, 0xcf, 0x8b, 1, 0, 0,
    0, 0, 0, 0,
    0xe3, 0x9f, 0xee, 0xa9,
    0, 4, b'k', b'e', b'y', 5, b'v', b'a', b'l', b'u', b'e', 0,
    3, 0, 0, 1, 2, b'h', b'n', 2, b'h', b'v',
];

fn sample() -> Vec<Record> {
    vec![
        Record {
            key: Some(Bytes::from_static(b"key")),
            value: Bytes::from_static(b"value"),
            headers: vec![],
            timestamp_ms: 1_700_000_000_000,
        },
        Record {
            key: None,
            value: Bytes::new(),
            headers: vec![("hn".to_owned(), Bytes::from_static(b"hv"))],
            timestamp_ms: 1_699_999_999_998,
        },
    ]
}

fn encode(
    records: &[Record],
    compression: Compression,
    producer: Option<ProducerStamp>,
) -> Vec<u8> {
    let mut builder = BatchBuilder::new(compression);
    for record in records {
        builder.push(record).unwrap();
    }
    builder.finish(producer).unwrap()
}

fn decode_all(batch: Vec<u8>) -> Result<Vec<(u64, Record)>, BatchError> {
    records(&Bytes::from(batch))?.collect()
}

#[test]
fn stored_batch_bytes() {
    let mut batch = encode(&sample(), Compression::None, Some(PRODUCER));
    assert_eq!(
        batch[64..104],
        [0; 40],
        "the leader part is zeros until it is stamped"
    );
    stamp(&mut batch, LEADER).unwrap();
    assert_eq!(batch, STORED);

    let header = verify_stored(&STORED).unwrap();
    assert_eq!((header.producer, header.leader), (Some(PRODUCER), LEADER));
    assert_eq!(
        (
            header.record_count,
            header.last_offset(),
            header.next_offset()
        ),
        (2, 1001, 1002)
    );
    assert_eq!((header.batch_bytes(), header.next_position()), (126, 5126));
    let [first, second] = sample().try_into().unwrap();
    assert_eq!(
        decode_all(STORED.to_vec()).unwrap(),
        [(1000, first), (1001, second)]
    );
}

#[test]
fn values_are_slices_of_the_batch() {
    let batch = Bytes::from_static(&STORED);
    let (_, record) = records(&batch).unwrap().next().unwrap().unwrap();
    assert!(batch.as_ptr_range().contains(&record.value.as_ptr()));
}

#[test]
fn every_flipped_bit_is_found() {
    for at in 0..STORED.len() {
        for bit in 0..8 {
            let mut batch = STORED;
            batch[at] ^= 1 << bit;
            assert!(verify_stored(&batch).is_err(), "byte {at} bit {bit}");
        }
    }
    for length in 0..STORED.len() {
        assert!(verify_stored(&STORED[..length]).is_err(), "cut to {length}");
        assert!(validate(&STORED[..length]).is_err(), "cut to {length}");
    }
    assert!(verify_stored(&[&STORED[..], &[0]].concat()).is_err());
}

#[test]
fn a_prefix_says_how_much_follows() {
    let header = BatchHeader::decode_prefix(&STORED[..BATCH_HEADER_BYTES]).unwrap();
    assert_eq!(header, BatchHeader::decode(&STORED).unwrap());
    assert_eq!(
        BatchHeader::decode_prefix(&STORED[..BATCH_HEADER_BYTES - 1]),
        Err(BatchError::Length {
            expected: 104,
            actual: 103
        })
    );
}

#[test]
fn another_producer_stamp_is_as_if_built_so() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let many = vec![sample()[0].clone(); 300];
        let later = ProducerStamp {
            sequence: 10,
            epoch: 8,
            ..PRODUCER
        };
        let mut batch = encode(&many, compression, Some(PRODUCER));
        set_producer(&mut batch, later).unwrap();
        assert_eq!(batch, encode(&many, compression, Some(later)));

        batch[110] ^= 1;
        set_producer(&mut batch, PRODUCER).unwrap();
        assert!(matches!(
            verify_producer(&batch),
            Err(BatchError::Checksum { part: "batch", .. })
        ));
    }
    let nobody = ProducerStamp {
        id: ProducerId([0; 16]),
        ..PRODUCER
    };
    assert!(set_producer(&mut STORED.clone(), nobody).is_err());
    assert!(set_producer(&mut [], PRODUCER).is_err());
}

#[test]
fn a_stamp_may_be_replaced_but_not_pass_the_end_of_offsets() {
    let mut batch = STORED;
    stamp(
        &mut batch,
        LeaderStamp {
            base_offset: u64::MAX - 2,
            ..LEADER
        },
    )
    .unwrap();
    assert_eq!(verify_stored(&batch).unwrap().next_offset(), u64::MAX);
    let before = batch;
    assert!(
        stamp(
            &mut batch,
            LeaderStamp {
                base_offset: u64::MAX - 1,
                ..LEADER
            }
        )
        .is_err()
    );
    assert!(
        stamp(
            &mut batch,
            LeaderStamp {
                base_position: u64::MAX - 125,
                ..LEADER
            }
        )
        .is_err()
    );
    assert_eq!(batch, before);
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    let batch = encode(&sample()[..1], Compression::Zstd, None);
    assert_eq!(validate(&batch).unwrap().compression, Compression::None);
    let batch = encode(&vec![sample()[0].clone(); 100], Compression::Zstd, None);
    assert_eq!(validate(&batch).unwrap().compression, Compression::Zstd);
}

fn any_record() -> impl Strategy<Value = Record> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let text = || prop_oneof![bytes(), "[ab ]{0,400}".prop_map(Bytes::from)];
    let timestamp = prop_oneof![any::<i64>(), 1_700_000_000_000..1_700_000_010_000i64];
    (
        prop::option::of(bytes()),
        text(),
        prop::collection::vec(("\\PC{0,12}", bytes()), 0..4),
        timestamp,
    )
        .prop_map(|(key, value, headers, timestamp_ms)| Record {
            key,
            value,
            headers,
            timestamp_ms,
        })
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(vec![Compression::None, Compression::Lz4, Compression::Zstd])
}

proptest! {
    #[test]
    fn round_trip(
        list in prop::collection::vec(any_record(), 1..40),
        compression in any_compression(),
        producer in prop::option::of(Just(PRODUCER)),
    ) {
        let mut batch = encode(&list, compression, producer);
        let sent = validate(&batch).unwrap();
        stamp(&mut batch, LEADER).unwrap();
        let header = verify_stored(&batch).unwrap();
        prop_assert_eq!(header, BatchHeader { leader: LEADER, ..sent });
        prop_assert_eq!(header.producer, producer);
        prop_assert_eq!(header.base_timestamp_ms, list[0].timestamp_ms);
        prop_assert_eq!(Some(header.max_timestamp_ms), list.iter().map(|r| r.timestamp_ms).max());
        let expected: Vec<_> = (1000..).zip(list).collect();
        prop_assert_eq!(decode_all(batch).unwrap(), expected);
    }
}
