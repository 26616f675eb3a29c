//! Bindings through any node, with as many copies as are asked for, or a plain no.

use mesh_net::client::{ClientError, WriteOptions};

use crate::{cluster::Cluster, support::within};

fn copies(write: u32) -> WriteOptions {
    WriteOptions {
        write: Some(write),
        ..WriteOptions::default()
    }
}

fn is_too_few(error: &ClientError, need: u32, have: u32) -> bool {
    let said = format!("not enough replicas (need {need}, have {have})");
    matches!(error, ClientError::Unavailable(message) if message.contains(&said))
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_are_written_and_read_through_any_node() {
    let mut cluster = Cluster::start(3).await;
    for writer in 0..3 {
        let key = format!("key-{writer}");
        let client = cluster.client(&[writer]).await;
        let ack = within(client.put(key.as_bytes(), "v".into(), copies(3)))
            .await
            .unwrap();
        let mut acknowledged = ack.acknowledged.clone();
        acknowledged.sort();
        assert_eq!(acknowledged, ["n1", "n2", "n3"]);
        for reader in 0..3 {
            let client = cluster.client(&[reader]).await;
            for read in [None, Some(1), Some(3)] {
                let got = within(client.get(key.as_bytes(), read))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(&got.values[0].value[..], b"v");
            }
        }
    }
    let client = cluster.client(&[1, 0, 2]).await;
    let refused = within(client.put(b"k", "v".into(), copies(4)))
        .await
        .unwrap_err();
    assert!(is_too_few(&refused, 4, 3), "{refused:?}");

    cluster.kill(2).await;
    let ack = within(client.put(b"k", "two".into(), Default::default()))
        .await
        .unwrap();
    assert_eq!(ack.acknowledged.len(), 2, "{ack:?}");
    cluster
        .eventually("three are known to be too many", async || {
            let refused = within(client.put(b"k", "three".into(), copies(3))).await;
            is_too_few(&refused.unwrap_err(), 3, 2)
        })
        .await;
    within(client.delete(b"key-0", Default::default()))
        .await
        .unwrap();
    for node in [0, 1] {
        let client = cluster.client(&[node]).await;
        assert_eq!(within(client.get(b"key-0", None)).await.unwrap(), None);
    }

    cluster.kill(1).await;
    let client = cluster.client(&[0]).await;
    cluster
        .eventually("two are known to be too many", async || {
            let refused = within(client.put(b"k", "lost".into(), Default::default())).await;
            is_too_few(&refused.unwrap_err(), 2, 1)
        })
        .await;
    let refused = within(client.get(b"k", None)).await.unwrap_err();
    assert!(is_too_few(&refused, 2, 1), "{refused:?}");
    within(client.put(b"k", "one".into(), copies(1)))
        .await
        .unwrap();
    let got = within(client.get(b"k", Some(1))).await.unwrap().unwrap();
    assert_eq!(&got.values[0].value[..], b"one");

    cluster.restart(1).await;
    cluster
        .eventually("two are enough again", async || {
            within(client.put(b"k", "again".into(), Default::default()))
                .await
                .is_ok()
        })
        .await;
    let client = cluster.client(&[1]).await;
    let got = within(client.get(b"k", None)).await.unwrap().unwrap();
    assert_eq!(&got.values[0].value[..], b"again");
}
