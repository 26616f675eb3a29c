use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_000;

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn key() -> Bytes {
    Bytes::from_static(b"k")
}

/// Writes at one copy, as its node would.
fn write(copy: &Binding, by: u8, counter: u64, value: Option<&str>) -> Binding {
    let version = Version {
        dot: Dot {
            node: node(by),
            boot: 1,
            counter,
        },
        hlc: Hlc(counter << 16),
        expires_ms: None,
        content: match value {
            Some(value) => Content::Value(value.to_owned().into()),
            None => Content::Tombstone,
        },
    };
    copy.write(None, version).unwrap()
}

/// What a node that holds this says of it.
fn said(copy: &Binding, now_ms: u64) -> State {
    let live = copy.live(now_ms);
    let of_all = || copy.versions().iter().max_by_key(|v| (v.hlc, v.dot));
    let newest = live.first().copied().or_else(of_all);
    State {
        key: key(),
        held: newest.map(|version| HeldState {
            context: copy.context().clone(),
            value: version.live(now_ms).cloned(),
            siblings: u32::try_from(live.len()).unwrap(),
            version: version.dot,
            time_ms: version.hlc.millis(),
            node: format!("n{}", version.dot.node.0[0]),
            expires_ms: version.expires_ms,
        }),
    }
}

/// The kind and value of what a state comes to.
fn told(seen: &mut Seen, copy: &Binding) -> Option<(WatchKind, Option<Bytes>)> {
    match seen.take(said(copy, NOW), NOW) {
        Verdict::Event(event) => Some((event.kind, event.value)),
        Verdict::Nothing => None,
        Verdict::Doubtful => panic!("nothing is doubtful here"),
    }
}

fn value(text: &'static str) -> Option<Bytes> {
    Some(text.into())
}

#[test]
fn a_life_is_told_once_and_in_order() {
    let mut seen = Seen::default();
    let one = write(&Binding::default(), 1, 1, Some("one"));
    let two = write(&one, 1, 2, Some("two"));
    let gone = write(&two, 2, 3, None);
    let back = write(&gone, 2, 4, Some("back"));
    assert_eq!(told(&mut seen, &one), Some((WatchKind::New, value("one"))));
    assert_eq!(told(&mut seen, &one), None, "nothing is new");
    assert_eq!(
        told(&mut seen, &two),
        Some((WatchKind::Changed, value("two")))
    );
    assert_eq!(told(&mut seen, &one), None, "a node that is behind");
    assert_eq!(told(&mut seen, &gone), Some((WatchKind::Deleted, None)));
    assert_eq!(told(&mut seen, &two), None, "a node that is behind");
    assert_eq!(
        told(&mut seen, &back),
        Some((WatchKind::New, value("back")))
    );
    assert_eq!(told(&mut seen, &gone), None, "a node that is behind");
}

#[test]
fn what_was_gone_before_is_no_event() {
    let mut seen = Seen::default();
    let gone = write(&Binding::default(), 1, 1, None);
    assert_eq!(told(&mut seen, &gone), None);
    let back = write(&gone, 1, 2, Some("back"));
    assert_eq!(
        told(&mut seen, &back),
        Some((WatchKind::New, value("back")))
    );
}

#[test]
fn an_expired_value_is_gone_once_and_stays_so_at_a_node_that_has_not_noticed() {
    let mut seen = Seen::default();
    let mut version = write(&Binding::default(), 1, 1, Some("short"))
        .versions()
        .first()
        .cloned()
        .unwrap();
    version.expires_ms = Some(500);
    let held = Binding::default().write(None, version).unwrap();
    let swept = held.expire(500).unwrap();
    let live = seen.take(said(&held, 499), 499);
    assert!(matches!(live, Verdict::Event(event) if event.kind == WatchKind::New));
    let Verdict::Event(event) = seen.take(said(&swept, 600), 600) else {
        panic!("it has expired");
    };
    assert_eq!((event.kind, event.time_ms), (WatchKind::Deleted, Some(500)));
    // Another node's clock is behind.
    assert_eq!(seen.take(said(&held, 499), 601), Verdict::Nothing);
    assert_eq!(seen.take(said(&swept, 602), 602), Verdict::Nothing);
}

#[test]
fn concurrent_writes_are_shown_and_end_with_the_newest() {
    let mut seen = Seen::default();
    let base = Binding::default();
    let (left, right) = (
        write(&base, 1, 9, Some("left")),
        write(&base, 2, 3, Some("right")),
    );
    assert_eq!(
        told(&mut seen, &left),
        Some((WatchKind::New, value("left")))
    );
    assert_eq!(
        told(&mut seen, &right),
        Some((WatchKind::Changed, value("right")))
    );
    let both = left.merge(&right);
    assert_eq!(
        told(&mut seen, &both),
        Some((WatchKind::Changed, value("left")))
    );
    assert_eq!(told(&mut seen, &both), None);
    assert_eq!(told(&mut seen, &right), None);
}

#[test]
fn a_key_that_a_node_lacks_is_doubtful_until_a_majority_has_spoken() {
    let mut seen = Seen::default();
    let one = write(&Binding::default(), 1, 1, Some("one"));
    told(&mut seen, &one);
    assert_eq!(seen.absent(&key(), false, NOW), Verdict::Doubtful);
    assert_eq!(told(&mut seen, &one), None, "it was there all the time");
    let event = seen.is_gone(&key()).unwrap();
    assert_eq!((event.kind, event.node), (WatchKind::Deleted, None));
    assert_eq!(seen.is_gone(&key()), None);
    assert_eq!(seen.keys().count(), 0);
}

#[test]
fn a_key_that_has_gone_is_forgotten_once_its_tombstone_has() {
    let gone = write(&Binding::default(), 1, 1, None);
    let mut seen = Seen::default();
    told(&mut seen, &gone);
    // A node's snapshot without it proves little: that node may have been away.
    seen.absent(&key(), false, NOW + GONE_REMEMBERED_MS);
    assert_eq!(seen.keys().count(), 1);
    seen.absent(&key(), false, NOW + GONE_REMEMBERED_MS + 1);
    assert_eq!(seen.keys().count(), 0);
    told(&mut seen, &gone);
    seen.absent(&key(), true, NOW);
    assert_eq!(seen.keys().count(), 0);
}

/// What happens to three copies, and whose is looked at.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Sync(u8, u8),
    Look(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let copy = || 0..3_u8;
    let step = prop_oneof![
        2 => copy().prop_map(Step::Put),
        1 => copy().prop_map(Step::Delete),
        2 => (copy(), copy()).prop_map(|(from, to)| Step::Sync(from, to)),
        3 => copy().prop_map(Step::Look),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn it_ends_with_the_latest_and_never_goes_back(steps in steps()) {
        let mut copies = [Binding::default(), Binding::default(), Binding::default()];
        // All that was looked at so far, together.
        let mut known = Binding::default();
        let (mut seen, mut shown): (Seen, Option<(Dot, Bytes)>) = Default::default();
        let mut counter = 0;
        let mut look = |copy: &Binding, known: &mut Binding, shown: &mut Option<(Dot, Bytes)>| {
            let before = known.clone();
            *known = known.merge(copy);
            let state = said(copy, NOW);
            let Some(held) = state.held.clone() else { return Ok(()) };
            if let Verdict::Event(event) = seen.take(state, NOW) {
                let is_superseded = |by: &Binding, dot: Dot| {
                    by.context().covers(dot) && by.versions().iter().all(|version| version.dot != dot)
                };
                prop_assert_eq!(event.kind == WatchKind::New, shown.is_none(), "{:?}", event);
                match (event.value, &shown) {
                    (Some(_), _) => prop_assert!(!is_superseded(&before, held.version), "older than what was seen"),
                    (None, Some((dot, _))) => prop_assert!(is_superseded(known, *dot), "it lives"),
                    (None, None) => prop_assert!(false, "it was gone before"),
                }
                *shown = held.value.map(|value| (held.version, value));
            }
            Ok(())
        };
        for step in steps {
            counter += 1;
            match step {
                Step::Put(at) => {
                    let copy = &mut copies[usize::from(at)];
                    *copy = write(copy, at, counter, Some(&counter.to_string()));
                }
                Step::Delete(at) => {
                    let copy = &mut copies[usize::from(at)];
                    *copy = write(copy, at, counter, None);
                }
                Step::Sync(from, to) => {
                    copies[usize::from(to)] = copies[usize::from(to)].merge(&copies[usize::from(from)]);
                }
                Step::Look(at) => look(&copies[usize::from(at)], &mut known, &mut shown)?,
            }
        }
        let all = copies.iter().fold(Binding::default(), |all, copy| all.merge(copy));
        look(&all, &mut known, &mut shown)?;
        let newest = all.newest_live(NOW).and_then(|version| version.live(NOW).cloned());
        prop_assert_eq!(shown.map(|(_, value)| value), newest);
    }
}
