//! The checker can fail: each rule left out on purpose is noticed, by the shortest schedule that shows it.

use stateright::{Checker, HasDiscoveries, Model};

use super::super::fault::Fault;
use super::{Cluster, Rules, Store, batch, rules};

/// Far more states than any of these needs.
const STATES_MAX: usize = 20_000_000;

fn assert_noticed(cluster: Cluster) {
    let fault = cluster.rules.fault;
    let checker = cluster
        .checker()
        .target_state_count(STATES_MAX)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let mut found = Vec::new();
    for (name, path) in checker.discoveries() {
        if name != super::SUCCESS {
            let actions = path.into_actions();
            println!("{fault:?}: not so: {name}, after {} steps:", actions.len());
            for action in &actions {
                println!("    {action:?}");
            }
            found.push(name);
        }
    }
    assert!(
        !found.is_empty(),
        "{fault:?}: {} states, and nothing noticed",
        checker.state_count()
    );
}

#[test]
fn no_seal() {
    let rules = Rules {
        proposals: 1,
        fault: Some(Fault::NoSeal),
        ..rules(&[(0, &[0, 1, 2]), (1, &[0, 1, 2])])
    };
    assert_noticed(rules.with_leader());
}

/// A batch of epoch 1 is on one disk, a later epoch's barrier on another: the batch must not count as committed before the
/// barrier of the epoch that brings it to a majority.
#[test]
fn an_older_epochs_entry_counted_alone() {
    let set: &[u8] = &[0, 1, 2];
    let rules = Rules {
        fault: Some(Fault::OlderEpochAlone),
        ..rules(&[(0, set), (1, set), (0, set), (1, set)])
    };
    let disks = vec![
        Store::new(1, 1, &[(1, None), (1, batch(1, 0, 1))]),
        Store::new(2, 1, &[(1, None), (2, None)]),
        Store::new(2, 1, &[(1, None)]),
    ];
    assert_noticed(rules.with_disks(3, 1, disks));
}

#[test]
fn activation_reported_before_its_barrier_commits() {
    let rules = Rules {
        proposals: 1,
        crashes: 1,
        fault: Some(Fault::EarlyActivation),
        ..rules(&[(0, &[0]), (1, &[1]), (1, &[1])])
    };
    assert_noticed(rules.with_leader());
}

#[test]
fn promises_of_one_set_instead_of_two() {
    let rules = Rules {
        proposals: 1,
        fault: Some(Fault::OneSetSeals),
        ..rules(&[(0, &[0]), (1, &[1, 2])])
    };
    assert_noticed(rules.with_leader());
}

#[test]
fn acknowledgements_of_one_set_instead_of_two() {
    let rules = Rules {
        fault: Some(Fault::OneSetCommits),
        ..rules(&[(0, &[0]), (1, &[1]), (2, &[2])])
    };
    assert_noticed(rules.with_leader());
}

/// A follower with an entry of its own, where the leader has committed another.
#[test]
fn a_followers_commit_not_clamped() {
    let set: &[u8] = &[0, 1, 2];
    let rules = Rules {
        disorder: 1,
        ticks: 1,
        fault: Some(Fault::CommitNotClamped),
        ..rules(&[(0, set), (1, set)])
    };
    let disks = vec![
        Store::new(1, 1, &[(1, None), (1, batch(1, 0, 1))]),
        Store::new(1, 1, &[(1, None)]),
        Store::new(1, 1, &[(1, None)]),
    ];
    assert_noticed(rules.with_disks(2, 1, disks));
}

/// A long batch is truncated, shorter ones take its place.
#[test]
fn log_keys_left_behind_by_truncation() {
    let set: &[u8] = &[0, 1, 2];
    let rules = Rules {
        proposals: 1,
        leave_keys: true,
        ..rules(&[(0, set), (1, set), (0, set)])
    };
    let disks = vec![
        Store::new(1, 1, &[(1, None), (1, batch(7, 0, 2))]),
        Store::new(2, 2, &[(1, None), (2, None)]),
        Store::new(2, 2, &[(1, None), (2, None)]),
    ];
    assert_noticed(rules.with_disks(3, 2, disks));
}

/// A disk loses its last entry and its promises, and what its replica says counts all the same.
#[test]
fn suspect_replicas_that_count() {
    let set: &[u8] = &[0, 1, 2];
    let rules = Rules {
        proposals: 1,
        damages: 1,
        fault: Some(Fault::SuspectsCount),
        ..rules(&[(0, set), (1, set)])
    };
    assert_noticed(rules.with_leader());
}
