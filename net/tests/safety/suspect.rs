//! A disk that did not come back whole: its node opens it, says so, and counts for nothing until it has been caught up.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_net::identity::Authority;

use crate::cluster::{Cluster, assert_reads, publish};
use crate::support::node_folder::{make_node, node_identity, start_node, write_node_file};
use crate::support::within;

/// The newest write-ahead log file.
fn newest_log(data: &Path) -> PathBuf {
    let logs = fs::read_dir(data.join("db"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max()
        .unwrap()
}

/// Flips a bit in what was acknowledged.
fn damage(data: &Path, at: u64) {
    let log = newest_log(data);
    let mut bytes = fs::read(&log).unwrap();
    let at = usize::try_from(at).unwrap();
    assert!(at < bytes.len(), "the log ends at {}", bytes.len());
    bytes[at] ^= 1;
    fs::write(&log, bytes).unwrap();
}

/// How much of the log is written: zeros follow.
fn log_bytes(data: &Path) -> u64 {
    let log = fs::read(newest_log(data)).unwrap();
    let last = log.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last as u64 + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_makes_a_suspect_that_is_caught_up() {
    let mut cluster = Cluster::start(3).await;
    let (led, followed) = (cluster.topic_led_by(0).await, cluster.topic_led_by(1).await);
    let client = cluster.client(&[1, 2]).await;
    publish(&client, &led, 0..5).await;
    publish(&client, &followed, 0..5).await;
    cluster.all_caught_up().await;
    let (whole, log) = (log_bytes(&cluster.data(0)), newest_log(&cluster.data(0)));
    publish(&client, &led, 5..10).await;
    publish(&client, &followed, 5..10).await;
    cluster.all_caught_up().await;
    // A copy as a machine that dies leaves it: an orderly end would write the log's contents elsewhere.
    let crashed = cluster.copy_disk(0, "crashed");
    cluster.kill(0).await;
    cluster.put_disk(0, &crashed);
    assert_eq!(log.file_name(), newest_log(&cluster.data(0)).file_name());
    damage(&cluster.data(0), whole + 40);

    // With one of the others away, nothing that only it and the damaged disk had may be lost.
    cluster.restart(0).await;
    let status = cluster.status(0).await;
    let said = status
        .warnings
        .iter()
        .any(|warning| warning.contains("did not come back whole"));
    assert!(said, "{:?}", status.warnings);
    cluster.all_caught_up().await;
    let status = cluster.status(0).await;
    assert!(status.partitions.iter().all(|copy| !copy.suspect));
    publish(&client, &led, 10..12).await;
    for (topic, count) in [(&led, 12), (&followed, 10)] {
        assert_reads(&client, topic, count).await;
        cluster.assert_replicas_alike(topic, count).await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_and_one_that_lacks_it_do_not_vote_away_what_was_acknowledged() {
    let mut cluster = Cluster::start(3).await;
    let topic = cluster.topic_led_by(1).await;
    let client = cluster.client(&[0, 1]).await;
    publish(&client, &topic, 0..5).await;
    cluster.all_caught_up().await;
    // Only the first two have what follows.
    cluster.kill(2).await;
    cluster.all_lead().await;
    let whole = log_bytes(&cluster.data(0));
    publish(&client, &topic, 5..10).await;
    let crashed = cluster.copy_disk(0, "crashed");
    cluster.kill(0).await;
    cluster.kill(1).await;
    cluster.put_disk(0, &crashed);
    damage(&cluster.data(0), whole + 40);

    // A majority of the nodes is there, and none of it may lead: one is suspect, the other lacks records.
    cluster.restart(0).await;
    cluster.restart(2).await;
    let said = cluster.status(0).await.warnings;
    assert!(
        said.iter()
            .any(|warning| warning.contains("did not come back whole")),
        "{said:?}"
    );
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let id = crate::cluster::partition_id(&topic);
    for node in [0, 2] {
        let status = cluster.status(node).await;
        let mut copies = status.partitions.iter();
        let leads = copies.any(|copy| copy.partition == id && copy.leads);
        assert!(!leads, "n{} leads without what was acknowledged", node + 1);
    }
    // The third brings it.
    cluster.restart(1).await;
    cluster.all_caught_up().await;
    assert_reads(&client, &topic, 10).await;
    cluster.assert_replicas_alike(&topic, 10).await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_refuses_a_damaged_log_and_names_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca")).unwrap();
    let (folder, identity) = (dir.path().join("n1"), node_identity(1, 4));
    make_node(&folder, &authority, &identity, None);
    write_node_file(&folder, "127.0.0.1:0", "");
    let data = folder.join("data");
    let solo = mesh_engine::Solo::open(&data, mesh_engine::Options::default()).unwrap();
    let whole = log_bytes(&data);
    for n in 0..20 {
        let name = mesh_ring::name::TopicName::new(&format!("t{n}")).unwrap();
        solo.create_topic(&name, mesh_engine::TopicConfig::default())
            .unwrap();
    }
    let crashed = dir.path().join("crashed");
    crate::cluster::copy_dir(&data, &crashed);
    solo.close().unwrap();
    drop(solo);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&crashed, &data).unwrap();
    damage(&data, whole + 40);
    let refused = within(start_node(&folder)).await;
    let cause = refused.unwrap_err().to_string();
    assert!(cause.contains("meshctl salvage --accept-loss"), "{cause}");
}
