//! Bindings that one replica cannot read: reads succeed by the others, and have it healed.

use std::{fs, path::Path, path::PathBuf};

use mesh_engine::ReadError;
use mesh_net::client::WriteOptions;
use mesh_net::wire::proto::{ErrorCode, Put, reply, request};
use mesh_ring::name::BindingKey;

use crate::{
    cluster::Cluster,
    rot::disk,
    support::{ask, within},
    value,
};

fn key(n: u64) -> BindingKey {
    BindingKey::new(format!("binding-{n:012}").as_bytes()).unwrap()
}

/// Flips a byte in the largest table of a node that is stopped.
fn damage(data: &Path) {
    let files = fs::read_dir(data.join("db")).unwrap();
    let tables = files
        .map(|file| file.unwrap().path())
        .filter(|file| file.extension().is_some_and(|found| found == "sst"));
    let bytes = |table: &PathBuf| fs::metadata(table).unwrap().len();
    let largest = tables.max_by_key(bytes).unwrap();
    let mut content = fs::read(&largest).unwrap();
    let at = content.len() / 3;
    content[at] ^= 0x04;
    fs::write(largest, content).unwrap();
}

const KEYS: u64 = 600;

fn options(copies: u32) -> WriteOptions {
    WriteOptions {
        write: Some(copies),
        ..WriteOptions::default()
    }
}

/// Three nodes with all keys on each, of which the first one cannot read some; and those.
async fn damaged() -> (Cluster, Vec<u64>) {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client(&[0, 1, 2]).await;
    for n in 0..KEYS {
        // Long enough that several tables' blocks are theirs.
        let value = value(n).repeat(4);
        within(client.put(key(n).as_bytes(), value.into(), options(3)))
            .await
            .unwrap();
    }
    client.close().await;
    cluster.stop(0).await;
    damage(&cluster.data(0));
    let engine = disk(&cluster.data(0));
    let unreadable = |n: &u64| matches!(engine.binding(&key(*n)), Err(ReadError::Damaged(_)));
    let lost: Vec<u64> = (0..KEYS).filter(unreadable).collect();
    assert!((1..KEYS).contains(&(lost.len() as u64)), "{lost:?}");
    engine.close().unwrap();
    drop(engine);
    cluster.restart(0).await;
    cluster.all_lead().await;
    (cluster, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_meets_damage_is_taken_once_that_is_healed() {
    let (cluster, lost) = damaged().await;
    // A client would go to a node that leads; this one coordinates because it is asked, and has to know what the key was.
    let connection = cluster.connection(0).await;
    let mut refused = 0;
    for n in &lost {
        cluster
            .eventually("the write is taken", async || {
                let delete = request::Kind::Put(Put {
                    key: key(*n).as_bytes().to_vec().into(),
                    delete: true,
                    ..Put::default()
                });
                match ask(&connection, delete).await {
                    reply::Kind::Written(_) => true,
                    reply::Kind::Error(error) => {
                        assert_eq!(error.code(), ErrorCode::Unavailable, "{}", error.message);
                        refused += 1;
                        false
                    }
                    other => panic!("{other:?}"),
                }
            })
            .await;
    }
    assert!(refused > 0, "no write has met damage");
    let client = cluster.client(&[0]).await;
    for n in &lost {
        let got = within(client.get(key(*n).as_bytes(), Some(2))).await;
        assert_eq!(got.unwrap(), None);
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_meets_damage_succeeds_by_others_and_has_it_healed() {
    let (cluster, lost) = damaged().await;
    let client = cluster.client(&[0]).await;
    let read = async |n: u64, from: u32| {
        let got = within(client.get(key(n).as_bytes(), Some(from))).await?;
        Ok::<_, mesh_net::client::ClientError>(got.unwrap().values[0].value.clone())
    };
    cluster
        .eventually("what could not be read is replaced", async || {
            // A replica that is not known to be back is not asked.
            for n in &lost {
                assert_eq!(read(*n, 2).await.unwrap(), value(*n).repeat(4));
            }
            let status = cluster.status(0).await.repair;
            assert_eq!(status.sent, 0);
            status.damaged >= lost.len() as u64
        })
        .await;
    // Now this replica can answer, too.
    for n in &lost {
        assert_eq!(read(*n, 3).await.unwrap(), value(*n).repeat(4));
    }
    client.close().await;
}
