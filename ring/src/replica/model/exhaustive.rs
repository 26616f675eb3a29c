//! Nothing forbidden can happen: every schedule within the bounds of each test.

use stateright::{Checker, HasDiscoveries, Model};

use super::Cluster;
use super::{Rules, rules};

/// A run that comes to this many states has outgrown its test.
const STATES_MAX: usize = 100_000_000;

fn explore(name: &str, cluster: Cluster) {
    let threads = if name.starts_with("large") { 2 } else { 1 };
    let checker = cluster.checker();
    let checker = checker
        .threads(threads)
        .target_state_count(STATES_MAX)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    println!(
        "{name}: {} states, {} of them different, {} steps deep",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth()
    );
    assert!(checker.state_count() < STATES_MAX, "{name}: not finished");
    checker.assert_properties();
}

/// A competing epoch: node 0 leads, and node 1 is to lead.
fn competing() -> Rules {
    rules(&[(0, &[0, 1, 2]), (1, &[0, 1, 2])])
}

/// A change of replicas, led by a new one, and an epoch after it whose leader may find it activated or not.
fn changed() -> Rules {
    rules(&[(0, &[0, 1]), (1, &[1, 2]), (2, &[1, 2])])
}


macro_rules! every_schedule {
    ($($(#[$attribute:meta])* $name:ident: $rules:expr;)*) => {$(
        #[test]
        $(#[$attribute])*
        fn $name() {
            explore(stringify!($name), $rules);
        }
    )*};
}

every_schedule! {
    t1: Rules { proposals: 1, crashes: 1, ..competing() }.with_leader();
    t2: Rules { proposals: 1, disorder: 1, ..competing() }.with_leader();
    t3: Rules { proposals: 1, damages: 1, ..competing() }.with_leader();
    t4: Rules { proposals: 1, flushes: 1, ..competing() }.with_leader();
    t5: Rules { proposals: 1, ticks: 1, ..competing() }.with_leader();
    t6: Rules { proposals: 1, ..changed() }.with_leader();
    t7: Rules { crashes: 1, ..changed() }.with_leader();
    t8: Rules { proposals: 1, crashes: 1, ..rules(&[(0, &[0, 1]), (1, &[1, 2])]) }.with_leader();
    t9: Rules { proposals: 1, crashes: 1, ..rules(&[(0, &[0]), (1, &[1, 2]), (2, &[1, 2])]) }.with_leader();
    t10: Rules { proposals: 2, ..competing() }.with_leader();
    t11: Rules { proposals: 1, disorder: 1, ..rules(&[(0, &[0, 1]), (1, &[1, 2])]) }.with_leader();
    t12: Rules { proposals: 1, ..rules(&[(0, &[0, 1, 2]), (1, &[0, 1, 2]), (0, &[0, 1, 2])]) }.with_leader();
    t13: Rules { damages: 1, crashes: 1, ..competing() }.with_leader();
}
