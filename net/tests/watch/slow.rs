//! A watch that is read slowly, over a bare connection.

use std::collections::BTreeMap;

use bytes::Bytes;
use mesh_net::wire::frame::{FrameReader, FrameWriter};
use mesh_net::wire::proto::{Request, WatchFrame, WatchOpen, request, watch_frame};

use crate::support::{Mesh, within};
use crate::{put, text};

/// Reads nothing for long: what changes meanwhile is far more than the node keeps for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watch_gets_the_latest_of_everything() {
    const KEYS: usize = 3_000;
    // Longer than what lies between the node and the reader, and than what the node remembers one by one.
    const NAME: usize = 1_000;
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let connection = mesh.connection().await;
    put(&client, "0", "there").await;
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    let open = WatchOpen {
        key: Bytes::new(),
        is_prefix: true,
        partitions: Vec::new(),
        map_version: 0,
    };
    let open = Request::new(request::Kind::Watch(open));
    writer.header(&open).await.unwrap();
    writer.finish();
    let mut reader = FrameReader::new(receive);
    let mut snapshots = 0;
    while snapshots == 0 {
        let (frame, _) = within(reader.frame::<WatchFrame>()).await.unwrap().unwrap();
        snapshots += usize::from(matches!(
            frame.kind,
            Some(watch_frame::Kind::SnapshotEnd(_))
        ));
    }
    let name = |number: usize| format!("{number}/{}", "k".repeat(NAME));
    let padding = "v".repeat(20_000);
    let writes = (0..2 * KEYS).map(|number| {
        let (client, name) = (&client, name(number % KEYS));
        let value = format!("{number}/{padding}");
        async move { put(client, &name, &value).await }
    });
    let mut writes: Vec<_> = writes.map(Box::pin).collect();
    // So many at a time, in order.
    for group in writes.chunks_mut(100) {
        let mut group: Vec<_> = group.iter_mut().collect();
        std::future::poll_fn(|cx| {
            group.retain_mut(|write| write.as_mut().poll(cx).is_pending());
            match group.is_empty() {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        })
        .await;
    }
    let mut latest: BTreeMap<usize, usize> = BTreeMap::new();
    let is_all = |latest: &BTreeMap<usize, usize>| {
        latest.len() == KEYS && latest.iter().all(|(key, value)| *value == key + KEYS)
    };
    while !is_all(&latest) {
        let (frame, mut body) = within(reader.frame::<WatchFrame>()).await.unwrap().unwrap();
        match frame.kind.unwrap() {
            watch_frame::Kind::SnapshotBegin(_) => snapshots += 1,
            watch_frame::Kind::States(states) => {
                for state in states.keys {
                    let key = body.split_to(state.key_length as usize);
                    drop(body.split_to(state.context_length as usize));
                    let value = body.split_to(state.value_length.unwrap() as usize);
                    let number = |bytes: &[u8]| {
                        let digits = bytes.split(|byte| *byte == b'/').next().unwrap();
                        text(digits).parse::<usize>()
                    };
                    if key.len() > NAME {
                        latest.insert(number(&key).unwrap(), number(&value).unwrap());
                    }
                }
            }
            watch_frame::Kind::SnapshotEnd(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(snapshots > 1, "it was not slow enough to need another one");
}
