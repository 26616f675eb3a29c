//! Nodes that go by different maps, where no majority is left that would tell them.

use crate::{
    cluster::{Cluster, partition},
    is_there, key, put, without, write,
};
use bytes::Bytes;

/// The voters of a cluster of four, the one who leads the control plane last, and who does not vote, as one node says.
async fn by_votes(cluster: &Cluster, told_by: usize) -> ([usize; 3], usize) {
    let view = cluster.view(told_by).await;
    let votes = |node: &usize| view.node(cluster.id(*node)).unwrap().votes;
    let (mut voters, others): (Vec<usize>, Vec<usize>) = (0..4).partition(votes);
    let leader = cluster.status(told_by).await.control_leader.unwrap();
    voters.sort_by_key(|node| cluster.id(*node) == leader);
    (voters.try_into().unwrap(), others[0])
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_different_maps_take_writes_together_without_a_majority() {
    let mut cluster = Cluster::start_with(4, "tombstone_age_seconds = 3600\n").await;
    let view = cluster.view(0).await;
    let (voters, late) = by_votes(&cluster, 0).await;
    // While this one is away the map changes.
    without(&mut cluster, late).await;
    // A leader of the control plane would tell the map on also where nobody votes for it any more: it goes last.
    let ([ahead, second, last], _) = by_votes(&cluster, voters[0]).await;
    for node in [second, last] {
        cluster.kill(node).await;
    }
    let newest = cluster.view(ahead).await.version;
    cluster.restart(late).await;
    assert!(cluster.view(late).await.version < newest);

    let client = cluster.client(&[ahead, late]).await;
    // As soon as they know that only they are left.
    put(&client, 0..1, 2).await;
    let mut coordinated = 0;
    for n in 1..12 {
        let name = key(n);
        let value = Bytes::from(format!("value-{n}"));
        let written = client.put(name.as_bytes(), value, write(2)).await;
        let written = written.unwrap_or_else(|error| panic!("{name}: {error}"));
        let replicas = &partition(&view, &name).replicas;
        let homes = |node: usize| replicas.iter().position(|home| *home == cluster.id(node));
        coordinated += u32::from(homes(late).is_none_or(|late| homes(ahead) < Some(late)));
        assert_eq!(written.acknowledged.len(), 2, "{name}: {written:?}");
    }
    assert!(coordinated > 0, "the node that is ahead has sent nothing");
    for n in 0..12 {
        assert!(is_there(&client, n, 2).await, "{}", key(n));
    }
    assert_eq!(cluster.view(late).await.version, newest);
    client.close().await;

    // With a majority everybody goes on from there.
    for node in [second, last] {
        cluster.restart(node).await;
    }
    cluster.all_lead().await;
    let client = cluster.client(&[0, 1, 2, 3]).await;
    put(&client, 12..20, 3).await;
    for n in 0..20 {
        assert!(is_there(&client, n, 3).await, "{}", key(n));
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_read_leads_to_the_map_of_whoever_gave_it() {
    let more = "tombstone_age_seconds = 3600\nrepair_every_seconds = 3600\n";
    let mut cluster = Cluster::start_with(4, more).await;
    let client = cluster.client(&[0, 1, 2, 3]).await;
    put(&client, 0..12, 3).await;
    client.close().await;
    let (voters, late) = by_votes(&cluster, 0).await;
    without(&mut cluster, late).await;
    let ([ahead, second, last], _) = by_votes(&cluster, voters[0]).await;
    for node in [second, last] {
        cluster.kill(node).await;
    }
    let newest = cluster.view(ahead).await.version;
    cluster.restart(late).await;
    assert!(cluster.view(late).await.version < newest);
    let client = cluster.client(&[late]).await;
    for n in 0..12 {
        assert!(is_there(&client, n, 2).await, "{}", key(n));
    }
    client.close().await;
    cluster
        .eventually("it has asked for the map", async || {
            cluster.view(late).await.version == newest
        })
        .await;
}
