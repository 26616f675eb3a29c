//! Records that are made and read.

use bytes::Bytes;
use mesh_net::client::{Client, Record, Start, TailOptions, TailRecord};

use super::within;

pub(crate) fn record(value: impl Into<Bytes>) -> Record {
    Record {
        value: value.into(),
        ..Record::default()
    }
}

pub(crate) fn from_start(follow: bool) -> TailOptions {
    TailOptions {
        start: Start::First,
        follow,
        until: None,
    }
}

/// Everything that a topic holds now.
pub(crate) async fn read_all(client: &Client, topic: &str) -> Vec<TailRecord> {
    let mut tail = client.tail(topic, from_start(false));
    let mut all = Vec::new();
    while let Some(batch) = within(tail.next()).await.unwrap() {
        all.extend(batch.records);
    }
    for (offset, record) in all.iter().enumerate() {
        assert_eq!(
            record.offset,
            all[0].offset + offset as u64,
            "offsets are dense"
        );
    }
    all
}

pub(crate) fn texts(records: &[TailRecord]) -> Vec<String> {
    records
        .iter()
        .map(|r| String::from_utf8_lossy(&r.record.value).into_owned())
        .collect()
}
