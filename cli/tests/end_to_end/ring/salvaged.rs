//! Logs that are damaged where nobody else has what they held: the loss is accepted, and then everything goes on.

use std::fs;
use std::path::Path;

use super::scene::others;
use crate::cluster::Cluster;
use crate::mesh::until;

const RECORDS: usize = 40;

fn record(number: usize) -> String {
    format!("the record with number {number:04}")
}

fn records(count: usize) -> Vec<String> {
    (0..count).map(record).collect()
}

fn publish_all(cluster: &Cluster, topic: &str) {
    for value in records(RECORDS) {
        cluster.ok(&["publish", topic, &value]);
    }
}

fn read(cluster: &Cluster, topic: &str) -> Vec<String> {
    let text = cluster.text(&["tail", topic]);
    text.lines().map(str::to_owned).collect()
}

/// Flips a bit of this record in the write-ahead log, wherever in the log it is.
fn damage(cluster: &Cluster, node: &str, value: &str) {
    let db = cluster.path(&format!("mesh/{node}/data/db"));
    let logs = fs::read_dir(&db)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut damaged = 0;
    for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")) {
        damaged += usize::from(flip(&log, value.as_bytes()));
    }
    assert_eq!(damaged, 1, "{value} in the logs of {node}");
}

fn flip(log: &Path, value: &[u8]) -> bool {
    let mut bytes = fs::read(log).unwrap();
    let place = bytes
        .windows(value.len())
        .position(|window| window == value);
    if let Some(place) = place {
        bytes[place] ^= 0x40;
        fs::write(log, bytes).unwrap();
    }
    place.is_some()
}

/// The node refuses to start and names the way out, which is taken.
fn accept_the_loss(cluster: &Cluster, node: &str) {
    let refused = cluster.serve_in_vain(node);
    refused.refused(1, &["damaged", "meshctl salvage --accept-loss"]);
    let folder = format!("mesh/{node}");
    let looked = cluster.run(&["salvage", &folder]);
    assert_eq!(looked.code, Some(1), "{looked:?}");
    let refused = cluster.serve_in_vain(node);
    refused.refused(1, &["damaged"]);
    cluster.ok(&["salvage", &folder, "--accept-loss"]);
}

/// What is there is the beginning of what was published, up to the damage at least.
#[track_caller]
fn is_prefix(read: &[String], least: usize) {
    assert!((least..RECORDS).contains(&read.len()), "{read:?}");
    assert_eq!(read, records(read.len()));
}

#[test]
fn a_single_node_goes_on_with_what_was_before_the_damage() {
    let mut cluster = Cluster::start(1);
    publish_all(&cluster, "t");
    cluster.ok(&["put", "key", "value"]);
    cluster.kill("n1");
    damage(&cluster, "n1", &record(25));
    accept_the_loss(&cluster, "n1");

    cluster.serve("n1");
    cluster.is_whole();
    let kept = read(&cluster, "t");
    is_prefix(&kept, 20);
    let warned = warnings(&cluster);
    assert!(warned.contains("did not come back whole"), "{warned}");
    cluster.ok(&["publish", "t", "after"]);
    cluster.ok(&["topic", "create", "other"]);
    cluster.ok(&["publish", "other", "first"]);
    cluster.ok(&["put", "key", "again"]);

    // Nothing is left of it: no restart has to be told again.
    cluster.kill("n1");
    cluster.serve("n1");
    cluster.is_whole();
    assert_eq!(
        read(&cluster, "t"),
        [&kept[..], &["after".to_owned()]].concat()
    );
    assert_eq!(cluster.text(&["tail", "other"]), "first");
    assert_eq!(cluster.text(&["get", "key"]), "again");
    let warned = warnings(&cluster);
    assert!(!warned.contains("did not come back whole"), "{warned}");
}

#[test]
fn of_two_nodes_the_one_that_stands_by_gives_back_what_the_other_lost() {
    let mut cluster = Cluster::start(2);
    for victim in ["n1", "n2"] {
        let topic = topic_led_by(&cluster, victim);
        publish_all(&cluster, &topic);
        nobody_lags(&cluster);
        cluster.kill(victim);
        damage(&cluster, victim, &record(25));
        accept_the_loss(&cluster, victim);
        cluster.serve(victim);
        cluster.is_whole();
        assert_eq!(
            read(&cluster, &topic),
            records(RECORDS),
            "{victim} lost nothing"
        );
        cluster.publish_soon(&topic, "after");
        nobody_lags(&cluster);
    }
}

#[test]
fn of_two_nodes_the_one_that_stood_by_and_was_away_is_rebuilt() {
    let mut cluster = Cluster::start(2);
    // The only voter: without the other one, it can go on alone.
    let voter = cluster.json(&["status"])["control_leader"].clone();
    let voter = voter.as_str().unwrap();
    let [standby] = others(&cluster, &[voter]).try_into().unwrap();
    let topic = topic_led_by(&cluster, voter);
    publish_all(&cluster, &topic);
    nobody_lags(&cluster);
    cluster.kill_all();
    damage(&cluster, voter, &record(25));
    accept_the_loss(&cluster, voter);
    cluster.serve(voter);
    cluster.publish_soon(&topic, "after");
    let kept = read(&cluster, &topic);
    let (last, kept) = kept.split_last().unwrap();
    assert_eq!(last, "after");
    is_prefix(kept, 20);
    for number in 0..RECORDS {
        cluster.publish_soon(&topic, &format!("instead {number}"));
    }

    cluster.serve(&standby);
    stands_by_again(&mut cluster, &standby);
    let read = read(&cluster, &topic);
    assert_eq!(read.len(), kept.len() + 1 + RECORDS);
    assert_eq!(&read[..kept.len()], kept);

    // It stands by again: what the voter loses now, it has.
    cluster.kill(voter);
    damage(&cluster, voter, "instead 20");
    accept_the_loss(&cluster, voter);
    cluster.serve(voter);
    cluster.is_whole();
    assert_eq!(self::read(&cluster, &topic), read);
}

/// Waits until a node that came back with records and changes of the map that nobody who votes knows has what the others
/// have. Where that concerns the map, it ends once.
#[track_caller]
fn stands_by_again(cluster: &mut Cluster, standby: &str) {
    let mut ended = 0;
    let rebuilt = until(|| {
        let log = fs::read_to_string(cluster.path(&format!("{standby}.log"))).unwrap();
        if log.matches("error: ").count() > ended {
            assert!(log.contains("start this node again"), "{log}");
            ended += 1;
            cluster.kill(standby);
            cluster.serve(standby);
        }
        lags(cluster).is_some_and(|lags| lags.iter().all(|lag| *lag == 0))
    });
    assert!(rebuilt && ended <= 1, "{standby} ended {ended} times");
    cluster.is_whole();
}

fn warnings(cluster: &Cluster) -> String {
    cluster.json(&["status"])["warnings"].to_string()
}

/// How far each node is behind, where all of them answer and every partition has a leader.
fn lags(cluster: &Cluster) -> Option<Vec<u64>> {
    let status = cluster.run(&["status", "--output", "json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
    let served = status["unavailable"] == 0 && status["under_replicated"] == 0;
    let nodes = status["nodes"].as_array()?;
    let answer = nodes.iter().all(|node| node["answers"] == true);
    let lags = nodes.iter().map(|node| node["lag"].as_u64());
    lags.collect::<Option<Vec<u64>>>()
        .filter(|_| served && answer)
}

/// Waits until those who stand by have everything.
#[track_caller]
fn nobody_lags(cluster: &Cluster) {
    let last = || lags(cluster);
    assert!(
        until(|| last().is_some_and(|lags| lags.iter().all(|lag| *lag == 0))),
        "{:?}",
        last()
    );
}

#[test]
fn of_two_nodes_the_one_that_was_frozen_meanwhile_is_rebuilt() {
    let mut cluster = Cluster::start(2);
    let voter = cluster.json(&["status"])["control_leader"].clone();
    let voter = voter.as_str().unwrap();
    let [standby] = others(&cluster, &[voter]).try_into().unwrap();
    let topic = topic_led_by(&cluster, voter);
    publish_all(&cluster, &topic);
    nobody_lags(&cluster);
    cluster.pause(&standby);
    cluster.kill(voter);
    damage(&cluster, voter, &record(25));
    accept_the_loss(&cluster, voter);
    cluster.serve(voter);
    cluster.publish_soon(&topic, "after");
    for number in 0..RECORDS {
        cluster.publish_soon(&topic, &format!("instead {number}"));
    }
    let written = read(&cluster, &topic);
    is_prefix(&written[..written.len() - 1 - RECORDS], 20);

    // It comes to, and remembers that more was committed.
    cluster.go_on(&standby);
    stands_by_again(&mut cluster, &standby);
    assert_eq!(read(&cluster, &topic), written);
    let log = fs::read_to_string(cluster.path(&format!("{standby}.log"))).unwrap();
    assert!(log.contains("it gives way to theirs"), "{log}");
}

/// Another topic of this node.
fn topic_led_by(cluster: &Cluster, node: &str) -> String {
    for number in 0.. {
        let topic = format!("of-{node}-{number}");
        cluster.ok(&["topic", "create", &topic]);
        if cluster.leader(&topic) == node {
            return topic;
        }
    }
    unreachable!("every node leads some partition")
}
