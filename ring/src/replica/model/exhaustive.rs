//! Nothing forbidden can happen: every schedule within the bounds of each test.
//!
//! Each test bounds how often something happens (proposals, crashes, messages out of order …) and nothing else: when it
//! happens, and in which order all that is under way goes on, is up to the checker. The bounds of the tests that are not
//! ignored were chosen so that all of them take about a minute of one core; `make model` runs the others.

use stateright::{Checker, HasDiscoveries, Model};

use super::{Cluster, Rules, Store, batch, rules};

/// A run that comes to this many states has outgrown its test.
const STATES_MAX: usize = 2_000_000_000;

fn explore(name: &str, cluster: Cluster) {
    let checker = cluster
        .checker()
        .target_state_count(STATES_MAX)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    println!(
        "{name}: {} transitions, {} states, at most {} steps",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    assert!(checker.state_count() < STATES_MAX, "{name}: not finished");
    checker.assert_properties();
}

const ALL: &[u8] = &[0, 1, 2];

/// A competing epoch: node 0 leads, and node 1 is to lead.
fn competing() -> Rules {
    rules(&[(0, ALL), (1, ALL)])
}

/// A change of replicas, led by one of both sets.
fn changed() -> Rules {
    rules(&[(0, &[0, 1]), (1, &[1, 2])])
}

/// A change of replicas, and an epoch after it that begins before or after the change was activated: the report may
/// be late, for the new epoch or too late.
fn changed_twice() -> Rules {
    rules(&[(0, &[0, 1]), (1, &[1, 2]), (2, &[1, 2])])
}

/// One replica hands over to another.
fn moved() -> Rules {
    rules(&[(0, &[0]), (1, &[1]), (2, &[1, 2])])
}

/// Everyone has crashed, and journals conflict: a batch of epoch 1 is on one disk, a later barrier on another.
fn conflicting(rules: Rules) -> Cluster {
    let disks = vec![
        Store::new(1, 1, &[(1, None), (1, batch(7, 0, 2))]),
        Store::new(2, 1, &[(1, None), (2, None)]),
        Store::new(2, 1, &[(1, None)]),
    ];
    rules.with_disks(3, 1, disks)
}

macro_rules! every_schedule {
    ($($(#[$attribute:meta])* $name:ident: $cluster:expr;)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            explore(stringify!($name), $cluster);
        }
    )*};
}

every_schedule! {
    competing_epoch_with_a_crash:
        Rules { proposals: 1, crashes: 1, ..competing() }.with_leader();
    competing_epoch_with_disorder:
        Rules { disorder: 1, proposals: 1, ..competing() }.with_leader();
    competing_epoch_with_a_damaged_disk:
        Rules { damages: 1, proposals: 1, ..competing() }.with_leader();
    competing_epoch_with_commits_told:
        Rules { flushes: 1, proposals: 1, ..competing() }.with_leader();
    competing_epoch_with_a_tick:
        Rules { ticks: 1, ..competing() }.with_leader();
    change_of_replicas_with_a_crash:
        Rules { proposals: 1, crashes: 1, ..changed() }.with_leader();
    change_of_replicas_with_disorder:
        Rules { proposals: 1, disorder: 1, ..changed() }.with_leader();
    change_of_replicas_and_a_late_report:
        Rules { proposals: 1, ..changed_twice() }.with_leader();
    change_of_replicas_and_a_late_report_with_a_crash:
        Rules { crashes: 1, ..changed_twice() }.with_leader();
    move_to_another_replica_with_a_crash:
        Rules { proposals: 1, crashes: 1, ..moved() }.with_leader();
    conflicting_journals_with_a_crash:
        conflicting(Rules { crashes: 1, ..rules(&[(0, ALL), (1, ALL), (0, ALL)]) });
    #[ignore = "large: make model"]
    large_competing_epoch_with_two_crashes:
        Rules { proposals: 1, crashes: 2, ..competing() }.with_leader();
    #[ignore = "large: make model"]
    large_competing_epoch_with_a_crash_and_disorder:
        Rules { proposals: 1, crashes: 1, disorder: 1, ..competing() }.with_leader();
    #[ignore = "large: make model"]
    large_competing_epoch_with_two_proposals_and_a_crash:
        Rules { proposals: 2, crashes: 1, ..competing() }.with_leader();
    #[ignore = "large: make model"]
    large_competing_epoch_with_a_damaged_disk_and_a_crash:
        Rules { proposals: 1, damages: 1, crashes: 1, ..competing() }.with_leader();
    #[ignore = "large: make model"]
    large_two_competing_epochs:
        Rules { proposals: 1, ..rules(&[(0, ALL), (1, ALL), (0, ALL)]) }.with_leader();
    #[ignore = "large: make model"]
    large_change_of_replicas_and_a_late_report_with_a_crash:
        Rules { proposals: 1, crashes: 1, ..changed_twice() }.with_leader();
    #[ignore = "large: make model"]
    large_change_of_replicas_with_a_crash_and_disorder:
        Rules { proposals: 1, crashes: 1, disorder: 1, ..changed() }.with_leader();
    #[ignore = "large: make model"]
    large_conflicting_journals_and_two_leaders:
        conflicting(Rules { proposals: 0, ..rules(&[(0, ALL), (1, ALL), (0, ALL), (1, ALL)]) });
}
