//! States that were on their way for too long, and fences that outlive the process.

use std::fs;

use bytes::Bytes;
use mesh_net::wire::proto::{
    BindingEntry, ErrorCode, StateStamp, StoreBindings, WalkBindings, request::Kind,
};
use mesh_ring::merkle::walk::{Request as Question, State};

use crate::{
    AT_ONCE, assert_absent, assert_forgotten,
    by_hand::{AsNode, of_answer},
    cluster::{Cluster, partition, partition_id},
    delete, forgotten, is_there, key, put,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_comes_after_its_deletion_was_forgotten_is_refused() {
    let mut cluster = Cluster::start_with(3, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..1, 3).await;
    let name = key(0);
    let old = AsNode::connect(&cluster, 0, 1).await.fetch(&name).await;
    delete(&client, 0..1, 3).await;
    forgotten(&cluster, 0..1).await;
    for node in 0..3 {
        let from = (node + 1) % 3;
        let peer = AsNode::connect(&cluster, node, from).await;
        let (now, at) = peer.fetch(&name).await;
        assert_ne!(now, old.0);
        let id = partition_id(&name);
        let home = cluster.id((node + 2) % 3);
        let alone = peer.store(&name, None, (&old.0, old.1)).await;
        let as_hint = peer.store(&name, Some(home), (&old.0, old.1)).await;
        let many = Kind::StoreBindings(StoreBindings {
            partition: id.0.into(),
            entries: vec![BindingEntry {
                key: Bytes::copy_from_slice(name.as_bytes()),
                length: u32::try_from(old.0.len()).unwrap(),
            }],
            stamp: Some(old.1),
        });
        let many = of_answer(peer.ask(many, old.0.clone()).await.0);
        let states = Question::States(vec![State {
            key: Bytes::copy_from_slice(name.as_bytes()),
            binding: old.0.to_vec().into(),
        }]);
        let walk = Kind::WalkBindings(WalkBindings {
            partition: id.0.into(),
            stamp: Some(old.1),
        });
        let walked = of_answer(peer.ask(walk, states.encode().into()).await.0);
        for refused in [alone, as_hint, many, walked] {
            let error = refused.unwrap_err();
            assert_eq!(error.code(), ErrorCode::StateFenced, "{error:?}");
            assert!(error.fence >= Some(at.fence), "{error:?}");
        }
        // What is read by a map that the node does not know of waits for that.
        let newer = StateStamp {
            map_version: at.map_version + 1_000,
            fence: at.fence,
        };
        let error = peer.store(&name, None, (&old.0, newer)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StateNewMap, "{error:?}");
    }
    client.close().await;
    assert_absent(&cluster, 0..1, 3).await;
    assert_forgotten(&mut cluster, 0..1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forgotten_while_a_hint_is_kept_that_may_be_older() {
    let mut cluster = Cluster::start_with(5, AT_ONCE).await;
    let client = cluster.client(&[0, 1, 2, 3, 4]).await;
    let view = cluster.view(0).await;
    // A hint for a home that lives is delivered within seconds, and now and then before it can be asked about.
    let mut tried = 0;
    loop {
        put(&client, tried..tried + 1, 3).await;
        let name = key(tried);
        tried += 1;
        let homes = &partition(&view, &name).replicas;
        let home = cluster.number(homes[0]);
        let mut others = (0..5).filter(|node| !homes.contains(&cluster.id(*node)));
        let stand_in = others.next().unwrap();
        let (state, stamp) = AsNode::connect(&cluster, home, stand_in)
            .await
            .fetch(&name)
            .await;
        let peer = AsNode::connect(&cluster, stand_in, home).await;
        let hinted = peer.store(&name, Some(homes[1]), (&state, stamp)).await;
        hinted.unwrap();
        let void = peer.raise(partition_id(&name), stamp.fence + 1).await;
        if void.is_some_and(|void| void.hints) {
            break;
        }
        assert!(tried < 100, "no hint is ever in the way");
    }
    // The hints are older, and are delivered before or after.
    delete(&client, 0..tried, 3).await;
    forgotten(&cluster, 0..tried).await;
    client.close().await;
    for node in 0..5 {
        assert_eq!(cluster.status(node).await.pending_hints, 0);
    }
    assert_absent(&cluster, 0..tried, 3).await;
    assert_forgotten(&mut cluster, 0..tried).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_goes_on_where_fences_were_raised_on_its_way() {
    let cluster = Cluster::start_with(3, "tombstone_age_seconds = 3600\n").await;
    let client = cluster.client(&[0, 1, 2]).await;
    for n in 0..20 {
        put(&client, n..n + 1, 3).await;
        let id = partition_id(&key(n));
        let peer = AsNode::connect(&cluster, (n % 3) as usize, 0).await;
        // Above whatever others have heard of.
        let fence = 100 * (n + 1);
        assert_eq!(peer.raise(id, fence).await, None);
        assert!(peer.fetch(&key(n)).await.1.fence >= fence);
        // All three have it all the same, whoever is behind.
        put(&client, n..n + 1, 3).await;
        assert!(is_there(&client, n, 3).await);
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fences_and_deletions_outlive_all_nodes() {
    let mut cluster = Cluster::start_with(3, "tombstone_age_seconds = 3600\n").await;
    let client = cluster.client(&[0, 1, 2]).await;
    put(&client, 0..30, 3).await;
    let name = key(0);
    let id = partition_id(&name);
    let old = AsNode::connect(&cluster, 0, 1).await.fetch(&name).await;
    delete(&client, 0..30, 3).await;
    client.close().await;
    // A round that has asked everybody, and whose owner has not told anybody what came of it.
    for node in 0..3 {
        let peer = AsNode::connect(&cluster, node, (node + 1) % 3).await;
        let fence = 40 + node as u64;
        assert_eq!(peer.raise(id, fence).await, None);
        // Only once, and nothing below.
        let below = peer.raise(id, fence - 1).await.unwrap();
        assert_eq!(below.fence, Some(fence));
    }
    for node in 0..3 {
        cluster.kill(node).await;
    }
    for node in 0..3 {
        let file = cluster.data(node).parent().unwrap().join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("= 3600", "= 0")).unwrap();
        cluster.restart(node).await;
    }
    cluster.all_lead().await;
    for node in 0..3 {
        let peer = AsNode::connect(&cluster, node, (node + 1) % 3).await;
        let refused = peer.store(&name, None, (&old.0, old.1)).await;
        let error = refused.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StateFenced, "{error:?}");
        assert!(error.fence >= Some(40 + node as u64), "{error:?}");
    }
    forgotten(&cluster, 0..30).await;
    assert_absent(&cluster, 0..30, 3).await;
    assert_forgotten(&mut cluster, 0..30).await;
}
