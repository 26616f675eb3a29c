//! The cluster map: how it begins, what it refuses to be, and how it is stored.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cluster;

use cluster::{cluster, id, member};
use mesh_ring::hash::KeyHash;
use mesh_ring::ids::{ClusterId, Epoch, NodeId, PartitionId};
use mesh_ring::map::{Activation, ClusterMap, MapError, NodeState, PartitionCountError};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const NODE: NodeId = NodeId([2; 16]);

#[test]
fn a_single_node_leads_every_partition() {
    let map = ClusterMap::single(CLUSTER, NODE, "n1", 64, Epoch(3)).unwrap();
    assert_eq!((map.version(), map.cluster()), (1, CLUSTER));
    assert_eq!(map.nodes().len(), 1);
    let node = map.node(NODE).unwrap();
    assert_eq!((node.name.as_str(), node.state), ("n1", NodeState::Up));
    assert_eq!(map.named("n1"), Some(node));
    assert_eq!(map.node(NodeId([9; 16])), None);
    assert_eq!(map.partitions().len(), 64);
    for of in map.partitions() {
        assert_eq!((of.leader, of.epoch), (NODE, Epoch(3)));
        assert_eq!(of.replicas, [NODE]);
        assert!(of.is_activated() && of.learners.is_empty() && of.target.is_none());
    }
    assert!(map.assignment(PartitionId(63)).is_some());
    assert_eq!(map.assignment(PartitionId(64)), None);
}

#[test]
fn a_route_follows_the_hash() {
    let map = ClusterMap::single(CLUSTER, NODE, "n1", 64, Epoch(3)).unwrap();
    let route = map.route(b"abc");
    assert_eq!(
        (route.hash, route.partition),
        (KeyHash(0x6437_b3ac_3846_5133), PartitionId(25))
    );
    assert_eq!(map.partition(b"abc"), PartitionId(25));
    assert_eq!(route.assignment.leader, NODE);
}

#[test]
fn the_number_of_partitions_is_bounded() {
    let make = |partitions| ClusterMap::single(CLUSTER, NODE, "n1", partitions, Epoch(1));
    assert!(make(1).is_ok() && make(4096).is_ok());
    assert_eq!(make(0), Err(PartitionCountError { partitions: 0 }));
    assert_eq!(
        make(4097).unwrap_err().to_string(),
        "a cluster has 1 to 4096 partitions, not 4097"
    );
}

#[test]
fn a_new_cluster_is_not_activated_and_the_order_of_its_members_is_nothing() {
    let members = [member(1, 0), member(2, 1), member(3, 2)];
    let map = ClusterMap::founding(CLUSTER, &members, 64, 3).unwrap();
    let [one, two, three] = members;
    let other = ClusterMap::founding(CLUSTER, &[three, one, two], 64, 3).unwrap();
    assert_eq!(map, other);
    for of in map.partitions() {
        assert_eq!((of.epoch, of.leader), (Epoch(1), of.replicas[0]));
        let none = Activation {
            epoch: Epoch(0),
            replicas: of.replicas.clone(),
        };
        assert_eq!(of.activated, none);
    }
    assert_eq!(map.voters(), [id(1), id(2), id(3)]);
    assert!(map.nodes().iter().all(|node| node.boot.count == 0));
}

#[test]
fn what_no_cluster_can_be_is_refused() {
    let found = |members: &[_], replication| {
        ClusterMap::founding(CLUSTER, members, 64, replication).unwrap_err()
    };
    assert_eq!(found(&[], 3), MapError::Nodes { nodes: 0 });
    assert_eq!(
        found(&[member(1, 0)], 0).to_string(),
        "a partition has 1 to 7 replicas, not 0"
    );
    let mut twin = member(2, 0);
    twin.name = "n1".into();
    assert_eq!(
        found(&[member(1, 0), twin], 3).to_string(),
        "two nodes are called n1; every node has an id and a name of its own"
    );
    let same = found(&[member(1, 0), member(1, 0)], 3);
    assert!(matches!(same, MapError::SameNode { .. }), "{same}");
}

#[test]
fn a_map_reads_back_and_a_broken_one_is_refused() {
    let map = cluster(&[0, 1, 2, 2], 16, 3);
    let json = serde_json::to_string(&map).unwrap();
    assert_eq!(serde_json::from_str::<ClusterMap>(&json).unwrap(), map);

    let broken = [
        ("\"partitions\":[", "\"partitions\":[],\"x\":["),
        ("\"replication\":3", "\"replication\":0"),
        (
            "\"leader\":\"",
            "\"leader\":\"00000000000000000000000000000009\",\"x\":\"",
        ),
        ("\"epoch\":1", "\"epoch\":0"),
    ];
    for (whole, part) in broken {
        assert!(json.contains(whole), "{whole}");
        let text = json.replacen(whole, part, 1);
        assert!(serde_json::from_str::<ClusterMap>(&text).is_err(), "{part}");
    }
}
