//! Writes that a stand-in makes or takes over what it has kept.

use std::sync::mpsc::sync_channel;

use mesh_engine::{BindingWrite, Engine, HintError, Written};
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;
use mesh_ring::version::Dot;

use crate::support::{Bench, START_MS};
use crate::{HOME, all, assert_counted, keep, key, submit, written};

fn write(n: u64, value: &'static str) -> BindingWrite {
    BindingWrite {
        key: key(n),
        value: Some(value.into()),
        context: None,
        expires_ms: None,
    }
}

fn hinted_write(engine: &Engine, n: u64, value: &'static str) -> Result<Written, HintError> {
    let (sender, receiver) = sync_channel(1);
    let decided = |_: &Binding, _: &Written| {};
    engine.submit_hinted_write(HOME, write(n, value), decided, move |result| {
        sender.send(result).unwrap();
    });
    receiver.recv().unwrap()
}

#[test]
fn a_key_that_is_written_again_has_one_hint_with_all_of_it() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    keep(&engine, HOME, 1, 500).unwrap();
    let first = all(&engine, HOME).remove(0);
    // Of another node, concurrent with the first: both are to be delivered.
    let version = Version {
        dot: Dot {
            node: NodeId([5; 16]),
            boot: 1,
            counter: 1,
        },
        hlc: Hlc::default().next(START_MS),
        expires_ms: None,
        content: Content::Value("other".into()),
    };
    let other = Binding::default().write(None, version).unwrap();
    let in_flight = [
        submit(&engine, HOME, &key(1), &other),
        submit(&engine, HOME, &key(2), &written(7, 10)),
        submit(&engine, HOME, &key(1), &written(1, 500)),
    ];
    for done in in_flight {
        done.recv().unwrap().unwrap();
    }
    let hints = all(&engine, HOME);
    assert_eq!(hints.len(), 2);
    let merged = hints.iter().find(|hint| hint.key == key(1)).unwrap();
    assert_eq!(
        Binding::decode(&merged.binding).unwrap(),
        other.merge(&written(1, 500))
    );
    assert_eq!(
        engine.known_binding(&key(1)).unwrap(),
        Some(other.merge(&written(1, 500)))
    );
    // The first was delivered meanwhile: what came since stays.
    assert_eq!(
        engine
            .remove_hints(HOME, first.partition, vec![first.sequence])
            .unwrap(),
        0
    );
    assert_eq!(all(&engine, HOME), hints);
    assert_counted(&engine, &[HOME]);
}

#[test]
fn a_stand_in_writes_over_what_it_knows_and_so_do_its_own_writes() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    for value in ["a", "b"] {
        hinted_write(&engine, 1, value).unwrap();
    }
    let live = |engine: &Engine| {
        let known = engine.known_binding(&key(1)).unwrap().unwrap();
        let live: Vec<_> = known
            .live(bench.now_ms())
            .iter()
            .map(|version| version.live(START_MS).unwrap().clone())
            .collect();
        live
    };
    assert_eq!(live(&engine), ["b"], "one after the other, no siblings");
    assert_eq!(engine.binding(&key(1)).unwrap(), None);
    drop(engine);
    let engine = bench.open_engine();
    hinted_write(&engine, 1, "c").unwrap();
    assert_eq!(live(&engine), ["c"]);
    assert_eq!(all(&engine, HOME).len(), 1);
    // It becomes a home while it still keeps the hint.
    engine.write_binding(write(1, "d")).unwrap();
    assert_eq!(live(&engine), ["d"]);
    let own = engine.binding(&key(1)).unwrap().unwrap();
    let hint = Binding::decode(&all(&engine, HOME)[0].binding).unwrap();
    assert_eq!(own.merge(&hint), own, "it has seen the hint");
    let too_large = BindingWrite {
        value: Some(vec![0; BINDING_VALUE_BYTES_MAX + 1].into()),
        ..write(1, "")
    };
    let (sender, receiver) = sync_channel(1);
    let decided = |_: &Binding, _: &Written| panic!("it is refused");
    engine.submit_hinted_write(HOME, too_large, decided, move |result| {
        sender.send(result).unwrap();
    });
    assert!(matches!(
        receiver.recv().unwrap(),
        Err(HintError::Refused(_))
    ));
}

#[test]
fn after_a_delivery_new_writes_do_not_claim_to_have_seen_what_was_delivered() {
    let bench = Bench::new();
    let engine = bench.open_engine();
    let earlier = hinted_write(&engine, 1, "acknowledged").unwrap();
    let before = engine.known_binding(&key(1)).unwrap().unwrap();
    let hint = all(&engine, HOME).remove(0);
    engine
        .remove_hints(HOME, hint.partition, vec![hint.sequence])
        .unwrap();
    // Also where a crash comes between.
    let copy = bench.open_engine_at(&bench.crashed_copy("crash"));
    for engine in [&engine, &copy] {
        assert_eq!(engine.known_binding(&key(1)).unwrap(), None);
        let later = hinted_write(engine, 1, "later").unwrap();
        assert!(!later.context.covers(earlier.dot));
        let after = engine.known_binding(&key(1)).unwrap().unwrap();
        let both = before.merge(&after);
        assert_eq!(
            both.live(bench.now_ms()).len(),
            2,
            "neither was seen by the other"
        );
        // Nothing was forgotten since: the same name.
        let again = hinted_write(engine, 1, "again").unwrap();
        assert_eq!(again.dot.node, later.dot.node);
        assert!(again.context.covers(later.dot));
    }
}
