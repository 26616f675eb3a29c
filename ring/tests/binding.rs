//! Bindings one at a time: what each operation does, and the bytes.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version, WriteError};
use mesh_ring::codec::DecodeError;
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::limits::{BINDING_VALUE_BYTES_MAX, SIBLINGS_BYTES_MAX, SIBLINGS_MAX};
use mesh_ring::version::{Dot, VersionVector};
use proptest::prelude::*;

fn dot(node: u8, counter: u64) -> Dot {
    Dot {
        node: NodeId([node; 16]),
        boot: 1,
        counter,
    }
}

fn value(dot: Dot, hlc: u64, value: &'static str) -> Version {
    Version {
        dot,
        hlc: Hlc(hlc),
        expires_ms: None,
        content: Content::Value(Bytes::from_static(value.as_bytes())),
    }
}

fn tombstone(dot: Dot, hlc: u64) -> Version {
    Version {
        dot,
        hlc: Hlc(hlc),
        expires_ms: None,
        content: Content::Tombstone,
    }
}

fn dots(binding: &Binding) -> Vec<Dot> {
    binding
        .versions()
        .iter()
        .map(|version| version.dot)
        .collect()
}

/// `count` siblings that one node made, for writers that had seen nothing.
fn siblings(count: u64) -> Binding {
    (1..=count).fold(Binding::default(), |binding, n| {
        binding
            .write(Some(&VersionVector::new()), value(dot(1, n), n, "v"))
            .unwrap()
    })
}

#[test]
fn a_write_without_context_supersedes_what_is_held() {
    let binding = siblings(3).write(None, value(dot(1, 4), 0, "new")).unwrap();
    assert_eq!(dots(&binding), [dot(1, 4)]);
    assert_eq!(siblings(3).merge(&binding), binding);
}

#[test]
fn a_write_with_context_supersedes_what_it_has_seen_and_no_more() {
    let seen: VersionVector = [dot(1, 2)].into_iter().collect();
    let binding = siblings(3)
        .write(Some(&seen), value(dot(2, 1), 0, "new"))
        .unwrap();
    assert_eq!(dots(&binding), [dot(1, 3), dot(2, 1)]);
}

#[test]
fn a_write_supersedes_what_its_writer_has_seen_elsewhere() {
    let elsewhere = Binding::default()
        .write(None, value(dot(2, 7), 1, "old"))
        .unwrap();
    let here = Binding::default()
        .write(Some(elsewhere.context()), value(dot(1, 1), 2, "new"))
        .unwrap();
    assert_eq!(dots(&here.merge(&elsewhere)), [dot(1, 1)]);
}

#[test]
fn concurrent_writes_are_siblings_and_the_newest_is_shown() {
    let a = Binding::default()
        .write(None, value(dot(1, 1), 5, "a"))
        .unwrap();
    let b = Binding::default()
        .write(None, value(dot(2, 1), 9, "b"))
        .unwrap();
    let both = a.merge(&b);
    assert_eq!(
        both.live(0),
        [&value(dot(2, 1), 9, "b"), &value(dot(1, 1), 5, "a")]
    );
    assert_eq!(both.newest_live(0), Some(&value(dot(2, 1), 9, "b")));

    let tie = both.merge(
        &Binding::default()
            .write(None, value(dot(3, 1), 9, "c"))
            .unwrap(),
    );
    assert_eq!(tie.newest_live(0), Some(&value(dot(3, 1), 9, "c")));
}

#[test]
fn a_tombstone_hides_what_it_has_seen_and_nothing_concurrent() {
    let a = siblings(1);
    let deleted = a.write(Some(a.context()), tombstone(dot(2, 1), 9)).unwrap();
    assert!(deleted.live(0).is_empty() && deleted.is_collectable());
    let concurrent = a
        .write(Some(a.context()), value(dot(3, 1), 2, "kept"))
        .unwrap();
    let merged = deleted.merge(&concurrent);
    assert_eq!(merged.newest_live(0), Some(&value(dot(3, 1), 2, "kept")));
    assert!(!merged.is_collectable());
}

#[test]
fn a_value_expires_at_its_time_and_keeps_its_dot() {
    let fresh = Version {
        expires_ms: Some(100),
        ..value(dot(1, 1), 5, "v")
    };
    let binding = Binding::default().write(None, fresh.clone()).unwrap();
    assert_eq!(binding.newest_live(99), Some(&fresh));
    assert_eq!(binding.expire(99), None);
    assert_eq!(binding.newest_live(100), None);
    let expired = binding.expire(100).unwrap();
    assert_eq!(expired.versions(), [tombstone(dot(1, 1), 5)]);
    assert_eq!(expired.context(), binding.context());
    assert_eq!(expired.expire(u64::MAX), None);
    assert!(expired.is_collectable());
    assert_eq!(binding.merge(&expired), expired);
    assert_eq!(expired.merge(&binding), expired);
}

#[test]
fn a_tombstone_never_expires() {
    let odd = Version {
        expires_ms: Some(1),
        ..tombstone(dot(1, 1), 5)
    };
    let binding = Binding::default().write(None, odd).unwrap();
    assert_eq!(binding.versions(), [tombstone(dot(1, 1), 5)]);
}

#[test]
fn siblings_are_bounded() {
    let full = siblings(SIBLINGS_MAX as u64);
    let next = || value(dot(1, 99), 0, "v");
    let refused = Err(WriteError::TooManySiblings { held: SIBLINGS_MAX });
    assert_eq!(full.write(Some(&VersionVector::new()), next()), refused);
    assert_eq!(full.write(None, next()), refused);

    let one_seen: VersionVector = [dot(1, 1)].into_iter().collect();
    assert_eq!(
        full.write(Some(&one_seen), next())
            .unwrap()
            .versions()
            .len(),
        SIBLINGS_MAX
    );
    assert_eq!(
        dots(&full.write(Some(full.context()), next()).unwrap()),
        [dot(1, 99)]
    );
}

#[test]
fn bytes_of_siblings_are_bounded() {
    let sized = |n: u64, bytes: usize| Version {
        dot: dot(1, n),
        hlc: Hlc(n),
        expires_ms: None,
        content: Content::Value(vec![b'v'; bytes].into()),
    };
    let nothing = VersionVector::new();
    let blind = |binding: &Binding, version| binding.write(Some(&nothing), version);
    let largest = blind(&Binding::default(), sized(1, BINDING_VALUE_BYTES_MAX)).unwrap();
    let room = SIBLINGS_BYTES_MAX - BINDING_VALUE_BYTES_MAX;
    let full = blind(&largest, sized(2, room)).unwrap();
    let refused = Err(WriteError::SiblingsTooLarge {
        bytes: SIBLINGS_BYTES_MAX + 1,
    });
    assert_eq!(blind(&largest, sized(2, room + 1)), refused);
    assert_eq!(blind(&full, sized(3, 1)), refused);
    assert!(blind(&full, sized(3, 0)).is_ok());
    // The same node, elsewhere: what comes together may be more, and a write may make it less.
    let elsewhere = Binding::default()
        .write(None, value(dot(2, 1), 1, "small"))
        .unwrap();
    let merged = full.merge(&elsewhere);
    let all_but_small: VersionVector = [dot(1, 2)].into_iter().collect();
    let less = merged.write(Some(&all_but_small), sized(4, BINDING_VALUE_BYTES_MAX));
    assert_eq!(less.unwrap().versions().len(), 2);
    let replaced = merged.write(Some(merged.context()), sized(4, BINDING_VALUE_BYTES_MAX));
    assert_eq!(replaced.unwrap().versions().len(), 1);
}

#[test]
fn a_merge_keeps_all_and_a_write_may_only_make_fewer() {
    let other = |n| value(dot(2, n), 0, "w");
    let others = (1..=8).fold(Binding::default(), |b, n| {
        b.write(Some(&VersionVector::new()), other(n)).unwrap()
    });
    let merged = siblings(SIBLINGS_MAX as u64).merge(&others);
    assert_eq!(merged.versions().len(), SIBLINGS_MAX + 8);

    let seen = |n| [dot(1, n)].into_iter().collect::<VersionVector>();
    assert_eq!(
        merged
            .write(Some(&seen(2)), other(9))
            .unwrap()
            .versions()
            .len(),
        SIBLINGS_MAX + 7
    );
    let refused = Err(WriteError::TooManySiblings {
        held: SIBLINGS_MAX + 8,
    });
    assert_eq!(merged.write(Some(&VersionVector::new()), other(9)), refused);
}

#[test]
fn tombstones_do_not_keep_a_writer_without_context_out() {
    let buried = (1..=SIBLINGS_MAX as u64).fold(Binding::default(), |binding, n| {
        binding
            .write(Some(&VersionVector::new()), tombstone(dot(1, n), n))
            .unwrap()
    });
    assert_eq!(
        dots(&buried.write(None, value(dot(1, 99), 0, "v")).unwrap()),
        [dot(1, 99)]
    );
}

#[test]
fn a_context_that_claims_the_future_is_refused() {
    let forged: VersionVector = [dot(1, u64::MAX)].into_iter().collect();
    let write = value(dot(1, 4), 0, "v");
    let refused = Err(WriteError::ContextAhead { dot: dot(1, 4) });
    assert_eq!(siblings(3).write(Some(&forged), write.clone()), refused);
    assert_eq!(siblings(4).write(None, write), refused);
}

#[test]
fn a_context_that_names_too_many_nodes_is_refused() {
    let forged = (0..1024_u128)
        .map(|n| Dot {
            node: NodeId(n.to_be_bytes()),
            boot: 0,
            counter: 0,
        })
        .collect();
    let refused = Err(WriteError::ContextTooLarge { nodes: 1025 });
    assert_eq!(
        Binding::default().write(Some(&forged), value(dot(9, 1), 0, "v")),
        refused
    );
}

#[test]
fn a_writer_is_told_only_what_it_may_supersede() {
    let alone = Binding::default()
        .write(None, value(dot(1, 1), 0, "v"))
        .unwrap();
    assert_eq!(&alone.context_after(None, dot(1, 1)), alone.context());

    // A sibling of another node: the writer has seen its own write, and not that one.
    let nothing = VersionVector::new();
    let beside = alone
        .write(Some(&nothing), value(dot(2, 1), 0, "w"))
        .unwrap();
    let after = beside.context_after(Some(&nothing), dot(2, 1));
    assert_eq!(after, [dot(2, 1)].into_iter().collect());

    // A sibling of the same node, before its own write: a vector cannot name the one without the other.
    let beside = alone
        .write(Some(&nothing), value(dot(1, 2), 0, "w"))
        .unwrap();
    assert_eq!(beside.context_after(Some(&nothing), dot(1, 2)), nothing);
}

fn pinned() -> (Binding, Vec<u8>) {
    let expiring = Version {
        expires_ms: Some(0x0304),
        ..value(dot(2, 5), 0x0102, "hi")
    };
    let mut binding = Binding::default();
    for version in [value(dot(1, 9), 7, "x"), expiring, tombstone(dot(3, 6), 8)] {
        binding = binding.write(Some(&VersionVector::new()), version).unwrap();
    }
    let entry = |node: u8, counter: u8| {
        [&[node; 16][..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, counter]].concat()
    };
    let bytes = [
        &[1, 3][..],
        &entry(1, 9),
        &entry(2, 5),
        &entry(3, 6),
        &[3],
        &entry(1, 9),
        &[0, 0, 0, 0, 0, 0, 0, 7, 1, 1, b'x'],
        &entry(2, 5),
        &[
            0, 0, 0, 0, 0, 0, 1, 2, 2, 0, 0, 0, 0, 0, 0, 3, 4, 2, b'h', b'i',
        ],
        &entry(3, 6),
        &[0, 0, 0, 0, 0, 0, 0, 8, 3],
    ];
    (binding, bytes.concat())
}

#[test]
fn binding_bytes() {
    assert_eq!(Binding::default().encode(), [1, 0, 0]);
    let (binding, bytes) = pinned();
    assert_eq!(binding.encode(), bytes);
    assert_eq!(Binding::decode(&bytes), Ok(binding));
}

#[test]
fn bytes_that_no_binding_has_are_refused() {
    let (_, bytes) = pinned();
    for length in 0..bytes.len() {
        assert_eq!(
            Binding::decode(&bytes[..length]),
            Err(DecodeError::Truncated),
            "{length}"
        );
    }
    let changed = |at: usize, to: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = to;
        Binding::decode(&bytes).unwrap_err()
    };
    assert_eq!(
        changed(0, 2),
        DecodeError::UnknownVersion { found: 2, known: 1 }
    );
    let last = bytes.len() - 1;
    assert_eq!(
        changed(last, 4),
        DecodeError::UnknownKind {
            what: "the kind of a version",
            found: 4
        }
    );
    // The counters of the first node: in the context, then in its version.
    let uncovered = DecodeError::NotCanonical {
        what: "a context that does not cover its versions",
    };
    assert_eq!(changed(2 + 27, 8), uncovered);
    assert_eq!(changed(2 + 3 * 28 + 1 + 27, 10), uncovered);
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(
        Binding::decode(&longer),
        Err(DecodeError::Trailing { bytes: 1 })
    );
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Binding::decode(&bytes);
    }

    #[test]
    fn damaged_bytes_are_refused_or_another_canonical_binding(at in any::<prop::sample::Index>(), to: u8) {
        let (_, mut bytes) = pinned();
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(binding) = Binding::decode(&bytes) {
            prop_assert_eq!(binding.encode(), bytes);
        }
    }
}
