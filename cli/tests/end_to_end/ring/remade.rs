//! Topics that are deleted and made again, and appends that are tried again, while leaders come and go.

use mesh_net::client::{
    Client, ClientConfig, ClientError, ProducerOptions, Record, Start, TailOptions,
};
use tokio::runtime::Runtime;

use super::scene::others;
use crate::cluster::Cluster;
use crate::mesh::{PATIENCE, meshctl, until, wait};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn connect(runtime: &Runtime, cluster: &Cluster, only: Option<&str>) -> Client {
    let mut config = ClientConfig::load(&cluster.client_file()).unwrap();
    config.timeout = PATIENCE;
    if let Some(name) = only {
        config.nodes = vec![cluster.address(name).to_owned()];
    }
    runtime.block_on(Client::connect(config)).unwrap()
}

fn record(value: &str) -> Record {
    Record {
        value: value.to_owned().into(),
        ..Record::default()
    }
}

#[test]
fn a_topic_made_again_is_another_topic_to_all_who_knew_the_old_one() {
    let mut cluster = Cluster::start(3);
    let runtime = runtime();
    cluster.ok(&["topic", "create", "t"]);
    let _entered = runtime.enter();
    let client = connect(&runtime, &cluster, None);
    let producer = client.producer(ProducerOptions::default());
    let following = TailOptions {
        start: Start::First,
        follow: true,
        until: None,
    };
    let mut tail = client.tail("t", following);
    runtime.block_on(async {
        for number in 0..3 {
            let published = producer.publish("t", record("old")).await.unwrap();
            assert_eq!(published.first, number);
        }
        let mut seen = 0;
        while seen < 3 {
            seen += tail.next().await.unwrap().unwrap().records.len();
        }
    });
    assert_eq!(
        cluster.text(&["tail", "t", "--cursor", "c"]),
        "old\nold\nold"
    );
    cluster.is_identical("t", 3);

    let absent = others(&cluster, &[&cluster.leader("t")]).remove(0);
    cluster.kill(&absent);
    cluster.ok(&["topic", "delete", "t"]);
    cluster.ok(&["topic", "create", "t"]);
    cluster.publish_soon("t", "new");
    runtime.block_on(async {
        let published = producer.publish("t", record("too late")).await;
        assert!(
            matches!(published, Err(ClientError::TopicDeleted(_))),
            "{published:?}"
        );
        let next = tail.next().await;
        assert!(
            matches!(next, Err(ClientError::TopicDeleted(_))),
            "{next:?}"
        );
    });
    // Who begins now begins with the new one.
    assert_eq!(cluster.text(&["tail", "t", "--cursor", "c"]), "new");

    cluster.serve(&absent);
    cluster.is_whole();
    cluster.is_identical("t", 3);
    let node = cluster.address(&absent).to_owned();
    assert_eq!(cluster.text(&["tail", "t", "--node", &node]), "new");
    let leader = cluster.leader("t");
    cluster.kill(&leader);
    cluster.publish_soon("t", "newer");
    runtime.block_on(async {
        // It was told, and what it is given from then on is for the new one.
        let published = producer.publish("t", record("newest")).await.unwrap();
        assert_eq!(published.first, 2);
    });
    assert_eq!(
        cluster.text(&["tail", "t", "--limit", "3"]),
        "new\nnewer\nnewest"
    );
    cluster.serve(&leader);
    cluster.is_whole();
    cluster.is_identical("t", 3);
    assert_eq!(cluster.text(&["topic", "list"]), "t");
}

/// Entries of the topic's partition that this node has and does not know to be committed.
fn uncommitted(runtime: &Runtime, client: &Client, partition: u64) -> u64 {
    let status = runtime.block_on(client.node_status()).unwrap();
    let mut copies = status.partitions.iter();
    let copy = copies.find(|copy| u64::from(copy.partition.0) == partition);
    copy.map_or(0, |copy| copy.last - copy.committed)
}

/// Lets the leader take an append that nobody else hears of, and kills it. `heard`: others may hear of it at the last
/// moment.
fn append_and_die(cluster: &mut Cluster, runtime: &Runtime, value: &str, heard: bool) {
    let leader = cluster.leader("t");
    let partition = cluster.json(&["topic", "describe", "t"])["partition"].as_u64();
    let watching = connect(runtime, cluster, Some(&leader));
    let deaf = others(cluster, &[&leader]);
    deaf.iter().for_each(|name| cluster.pause(name));
    let mut publish = meshctl(&cluster.path(""));
    publish.args(["publish", "t", value, "--timeout", "50s"]);
    // It must reach the leader before that has noticed that it is alone; the others it learns from the leader.
    publish.args(["--node", cluster.address(&leader)]);
    let mut publish = publish.spawn().unwrap();
    let taken = until(|| uncommitted(runtime, &watching, partition.unwrap()) > 0);
    assert!(taken, "{leader} takes nothing");
    if heard {
        deaf.iter().for_each(|name| cluster.go_on(name));
        cluster.kill(&leader);
    } else {
        cluster.kill(&leader);
        deaf.iter().for_each(|name| cluster.go_on(name));
    }
    let status = wait(&mut publish).expect("the append is answered");
    assert!(status.success(), "{status}");
    cluster.serve(&leader);
    cluster.is_whole();
}

#[test]
fn an_append_whose_leader_dies_with_it_is_there_once() {
    let mut cluster = Cluster::start(3);
    let runtime = runtime();
    cluster.ok(&["publish", "t", "first"]);
    let mut known = vec!["first".to_owned()];
    for round in 0..4 {
        let value = format!("round {round}");
        append_and_die(&mut cluster, &runtime, &value, round % 2 == 1);
        known.push(value);
        assert_eq!(cluster.text(&["tail", "t"]), known.join("\n"));
    }
    cluster.is_identical("t", 3);
}
