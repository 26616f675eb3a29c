use super::*;
use mesh_ring::limits::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, HEADER_NAME_BYTES_MAX, RECORD_BYTES_MAX, RECORD_HEADERS_MAX,
};

#[test]
fn record_limits() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&sample()[0]).unwrap();
    let before = builder.encoded_bytes();
    let large = vec![0; RECORD_BYTES_MAX + 1];
    let name = "n".repeat(HEADER_NAME_BYTES_MAX + 1);
    let header = |name: &str, bytes: usize| (name.to_owned(), Bytes::from(vec![0; bytes]));
    let record = |key: Option<&'static [u8]>, value: &[u8], headers: Vec<(String, Bytes)>| Record {
        key: key.map(Bytes::from_static),
        value: Bytes::copy_from_slice(value),
        headers,
        timestamp_ms: 0,
    };
    for (record, error) in [
        (
            record(None, &large, vec![]),
            BatchError::RecordBytes { actual: 1_048_577 },
        ),
        (
            record(Some(b"k"), &large[1..], vec![]),
            BatchError::RecordBytes { actual: 1_048_577 },
        ),
        (
            record(None, b"v", vec![header("n", RECORD_BYTES_MAX)]),
            BatchError::RecordBytes { actual: 1_048_578 },
        ),
        (
            record(None, b"", vec![header("n", 0); RECORD_HEADERS_MAX + 1]),
            BatchError::RecordHeaders { actual: 65 },
        ),
        (
            record(None, b"", vec![header(&name, 0)]),
            BatchError::HeaderNameBytes { actual: 256 },
        ),
    ] {
        assert!(!error.is_full());
        assert_eq!(builder.push(&record), Err(error));
    }
    assert_eq!(
        (builder.len(), builder.encoded_bytes()),
        (1, before),
        "nothing is added on refusal"
    );

    let longest = header(&name[1..], 0);
    builder.push_parts(None, &large[1..], &[], 0).unwrap();
    builder
        .push_parts(None, b"", &vec![longest; RECORD_HEADERS_MAX], 0)
        .unwrap();
    validate(&builder.finish(None).unwrap()).unwrap();
}

#[test]
fn batch_limits() {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..BATCH_RECORDS_MAX {
        builder.push_parts(None, b"", &[], 0).unwrap();
    }
    let refused = builder.push_parts(None, b"", &[], 0).unwrap_err();
    assert_eq!(refused, BatchError::BatchRecords { actual: 65_537 });
    assert!(refused.is_full());
    validate(&builder.finish(None).unwrap()).unwrap();

    let value = vec![7; RECORD_BYTES_MAX];
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..3 {
        builder.push_parts(None, &value, &[], 0).unwrap();
    }
    let rest = BATCH_BYTES_MAX - builder.encoded_bytes() - 6;
    let refused = builder
        .push_parts(None, &value[..rest + 1], &[], 0)
        .unwrap_err();
    assert_eq!(
        refused,
        BatchError::BatchBytes {
            actual: BATCH_BYTES_MAX as u64 + 1
        }
    );
    assert!(refused.is_full());
    builder.push_parts(None, &value[..rest], &[], 0).unwrap();
    let batch = builder.finish(None).unwrap();
    assert_eq!(batch.len(), BATCH_BYTES_MAX);
    validate(&batch).unwrap();

    assert_eq!(
        BatchBuilder::new(Compression::None).finish(None),
        Err(BatchError::Empty)
    );
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(&sample()[0]).unwrap();
    assert!(
        builder
            .finish(Some(ProducerStamp {
                id: ProducerId([0; 16]),
                ..PRODUCER
            }))
            .is_err()
    );
}
