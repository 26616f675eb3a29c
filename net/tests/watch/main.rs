//! Watches through the client: what is there, every change of it, and nothing twice, whatever becomes of the nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

#[path = "../support/cluster/mod.rs"]
mod cluster;
mod one_node;
mod ring;
mod slow;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use bytes::Bytes;
use mesh_net::client::{
    Client, ClientError, Watch, WatchEvent, WatchKind, WatchTarget, WriteOptions,
};
use support::within;

/// How long a cluster may take to come to rest: copies that move need longer than elections.
const AT_REST_WITHIN: Duration = support::PATIENCE.saturating_mul(2);

fn key(name: &str) -> WatchTarget {
    WatchTarget::Key(Bytes::copy_from_slice(name.as_bytes()))
}

fn prefix(name: &str) -> WatchTarget {
    WatchTarget::Prefix(Bytes::copy_from_slice(name.as_bytes()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn next(watch: &mut Watch) -> WatchEvent {
    within(watch.next()).await.unwrap()
}

/// The kind, key and value of the next event that is no move.
async fn told(watch: &mut Watch) -> (WatchKind, String, Option<String>) {
    loop {
        let event = next(watch).await;
        if event.kind != WatchKind::Moved {
            return (event.kind, text(&event.key), event.value.map(|v| text(&v)));
        }
    }
}

fn is(kind: WatchKind, key: &str, value: &str) -> (WatchKind, String, Option<String>) {
    (kind, key.to_owned(), Some(value.to_owned()))
}

fn is_gone(key: &str) -> (WatchKind, String, Option<String>) {
    (WatchKind::Deleted, key.to_owned(), None)
}

async fn put(client: &Client, key: &str, value: &str) {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let put = client.put(key.as_bytes(), value, WriteOptions::default());
    within(put).await.unwrap();
}

/// The same, as often as it takes while nodes come and go.
async fn put_somehow(client: &Client, key: &str, value: &str) {
    let putting = async {
        loop {
            let bytes = Bytes::copy_from_slice(value.as_bytes());
            match client
                .put(key.as_bytes(), bytes, WriteOptions::default())
                .await
            {
                Ok(_) => return,
                Err(ClientError::Unavailable(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    within(putting).await;
}

async fn delete(client: &Client, key: &str) {
    let delete = client.delete(key.as_bytes(), WriteOptions::default());
    within(delete).await.unwrap();
}
