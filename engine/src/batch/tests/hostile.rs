use super::*;
use mesh_ring::limits::{BATCH_BYTES_MAX, RECORD_BYTES_MAX};

/// A batch with this body, whose header and checksum are right for it.
fn forged(body: &[u8], count: u32, uncompressed: u32, attributes: u8) -> Vec<u8> {
    let mut batch = encode(&sample(), Compression::None, None);
    batch.truncate(BATCH_HEADER_BYTES);
    batch[1] = attributes;
    batch[4..8].copy_from_slice(&count.to_le_bytes());
    batch[8..12].copy_from_slice(&(body.len() as u32).to_le_bytes());
    batch[12..16].copy_from_slice(&uncompressed.to_le_bytes());
    batch.extend_from_slice(body);
    seal(&mut batch);
    batch
}

fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&batch[..60]), &batch[BATCH_HEADER_BYTES..]);
    batch[60..64].copy_from_slice(&crc.to_le_bytes());
}

/// Every rule that a lying producer might break under a right checksum.
#[test]
fn lies_are_refused() {
    let record = [0, 0, 0, 0];
    let body = |parts: &[&[u8]]| parts.concat();
    validate(&forged(&record, 1, 4, 0)).unwrap();
    let malformed = |batch: Vec<u8>| {
        let refused = validate(&batch).unwrap_err();
        assert!(
            decode_all(batch).is_err() || matches!(refused, BatchError::Malformed(_)),
            "{refused}"
        );
        refused
    };
    assert_eq!(malformed(forged(&record, 0, 4, 0)), BatchError::Empty);
    assert_eq!(
        malformed(forged(&record, 65_537, 4, 0)),
        BatchError::BatchRecords { actual: 65_537 }
    );
    assert_eq!(
        malformed(forged(&record, 1, 4, 3)),
        BatchError::Attributes(3)
    );
    assert_eq!(
        malformed(forged(&record, 1, 4, 8)),
        BatchError::Attributes(8)
    );
    for batch in [
        forged(&record, 2, 4, 0),
        forged(&record, 1, 5, 0),
        forged(&body(&[&record, &record]), 1, 8, 0),
        forged(&body(&[&record, &[0, 0, 5, 0]]), 2, 8, 0),
        forged(&body(&[&record, &[0, 9, 0, 0]]), 2, 8, 0),
        forged(&body(&[&record, &[0, 0, 0, 1]]), 2, 8, 0),
        forged(&body(&[&record, &[0, 0, 0, 1, 1, 0xff, 0]]), 2, 11, 0),
        forged(&body(&[&record, &[2, 0, 0, 0]]), 2, 8, 0),
        forged(&[2, 0, 0, 0], 1, 4, 0),
        forged(&body(&[&record, &[0xff; 11]]), 2, 15, 0),
    ] {
        assert!(matches!(malformed(batch), BatchError::Malformed(_)));
    }
    let many = body(&[&[0, 0, 0, 65], &[0; 130]]);
    assert_eq!(
        malformed(forged(&many, 1, 134, 0)),
        BatchError::RecordHeaders { actual: 65 }
    );
    let long = body(&[&[0, 0, 0, 1, 0x80, 2], &[b'n'; 256], &[0]]);
    assert_eq!(
        malformed(forged(&long, 1, 263, 0)),
        BatchError::HeaderNameBytes { actual: 256 }
    );
    let large = body(&[
        &[0, 0, 0x81, 0x80, 0x40],
        &vec![0; RECORD_BYTES_MAX + 1],
        &[0],
    ]);
    let bytes = large.len() as u32;
    assert_eq!(
        malformed(forged(&large, 1, bytes, 0)),
        BatchError::RecordBytes { actual: 1_048_577 }
    );

    for at in [2, 3, 56, 59] {
        let mut batch = STORED;
        batch[at] = 1;
        seal(&mut batch);
        assert!(
            matches!(validate(&batch), Err(BatchError::Malformed(_))),
            "reserved byte {at}"
        );
    }
    let mut batch = STORED;
    batch[32..48].fill(0);
    seal(&mut batch);
    assert!(
        matches!(validate(&batch), Err(BatchError::Malformed(_))),
        "a sequence without a producer"
    );
    batch = STORED;
    batch[0] = 2;
    assert_eq!(validate(&batch), Err(BatchError::Version(2)));
}

#[test]
fn compression_bombs_are_refused() {
    let bomb = vec![0; 64 << 20];
    for (attributes, compressed) in [
        (1, lz4_flex::block::compress(&bomb)),
        (2, zstd::bulk::compress(&bomb, 1).unwrap()),
        (2, zstd::stream::encode_all(&bomb[..], 1).unwrap()),
    ] {
        for stated in [
            4,
            compressed.len() as u32,
            (BATCH_BYTES_MAX - BATCH_HEADER_BYTES) as u32,
        ] {
            let batch = forged(&compressed, 1, stated, attributes);
            assert!(
                matches!(validate(&batch), Err(BatchError::Malformed(_))),
                "{attributes} {stated}"
            );
            assert!(decode_all(batch).is_err());
        }
        let batch = forged(&compressed, 1, u32::MAX, attributes);
        assert_eq!(
            validate(&batch),
            Err(BatchError::BatchBytes {
                actual: 104 + u64::from(u32::MAX)
            })
        );
    }
    for stated in [5, 3000] {
        let short = lz4_flex::block::compress(&[0; 1000]);
        assert!(matches!(
            validate(&forged(&short, 1, stated, 1)),
            Err(BatchError::Malformed(_))
        ));
    }
}

/// Calls everything that reads bytes; what is accepted must also be readable.
fn read_in_every_way(bytes: Vec<u8>) {
    let _ = BatchHeader::decode_prefix(&bytes);
    let _ = verify_producer(&bytes);
    let _ = verify_stored(&bytes);
    let valid = validate(&bytes);
    let mut changed = bytes.clone();
    let _ = set_producer(&mut changed, PRODUCER);
    let _ = stamp(&mut changed, LEADER);
    let read = decode_all(bytes);
    if let Ok(header) = valid {
        assert_eq!(read.unwrap().len(), header.record_count as usize);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_in_every_way(bytes);
    }

    #[test]
    fn arbitrary_bodies_under_a_right_checksum_never_panic(
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0..6u8], 0..200),
        count in 0..12u32,
        uncompressed in prop_oneof![0..5000u32, any::<u32>()],
        attributes in 0..3u8,
    ) {
        let uncompressed = if attributes == 0 { body.len() as u32 } else { uncompressed };
        read_in_every_way(forged(&body, count, uncompressed, attributes));
    }

    #[test]
    fn changed_batches_never_panic(
        list in prop::collection::vec(any_record(), 1..8),
        compression in any_compression(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut batch = encode(&list, compression, Some(PRODUCER));
        for (at, byte) in changes {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        seal(&mut batch);
        read_in_every_way(batch);
    }
}
