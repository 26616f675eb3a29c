//! Bindings of several replicas: writes, merges, restarts and expiry in any order, against a model that keeps, for each
//! replica and client, the exact set of writes that it has seen.

use std::collections::BTreeSet;

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version, WriteError};
use mesh_ring::hlc::Hlc;
use mesh_ring::ids::NodeId;
use mesh_ring::limits::SIBLINGS_MAX;
use mesh_ring::version::{Dot, VersionVector};
use proptest::prelude::*;

const REPLICAS: usize = 3;
const CLIENTS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// A client writes at a replica with the context that it has, and keeps the one that it gets.
    Write {
        client: usize,
        replica: usize,
        delete: bool,
        expires_ms: Option<u64>,
    },
    /// Somebody who knows nothing overwrites what the replica holds.
    Overwrite {
        replica: usize,
    },
    Read {
        client: usize,
        replica: usize,
    },
    Merge {
        from: usize,
        into: usize,
    },
    Expire {
        replica: usize,
        now_ms: u64,
    },
    Restart {
        replica: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (client, replica) = (0..CLIENTS, 0..REPLICAS);
    let expires = prop::option::of(0_u64..20);
    let step = prop_oneof![
        8 => (client.clone(), replica.clone(), any::<bool>(), expires).prop_map(
            |(client, replica, delete, expires_ms)| Step::Write { client, replica, delete, expires_ms }
        ),
        1 => replica.clone().prop_map(|replica| Step::Overwrite { replica }),
        4 => (client, replica.clone()).prop_map(|(client, replica)| Step::Read { client, replica }),
        4 => (replica.clone(), replica.clone()).prop_map(|(from, into)| Step::Merge { from, into }),
        1 => (replica.clone(), 0_u64..20).prop_map(|(replica, now_ms)| Step::Expire { replica, now_ms }),
        1 => replica.prop_map(|replica| Step::Restart { replica }),
    ];
    prop::collection::vec(step, 0..60)
}

#[derive(Clone, Default)]
struct Replica {
    binding: Binding,
    boot: u32,
    counter: u64,
    /// Model: every write that went into the state.
    seen: BTreeSet<Dot>,
}

#[derive(Clone, Default)]
struct Client {
    context: VersionVector,
    /// Model: every write that the client knows of: it has read it, made it, or read what superseded it.
    seen: BTreeSet<Dot>,
}

#[derive(Default)]
struct World {
    replicas: [Replica; REPLICAS],
    clients: [Client; CLIENTS],
    /// Every write, with the writes that its writer meant to supersede.
    writes: Vec<(Dot, BTreeSet<Dot>)>,
}

impl World {
    fn after(steps: &[Step]) -> Self {
        let mut world = Self::default();
        steps.iter().for_each(|step| world.step(step));
        world
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write {
                client,
                replica,
                delete,
                expires_ms,
            } => {
                let content = if delete {
                    Content::Tombstone
                } else {
                    Content::Value(Bytes::from_static(b"v"))
                };
                self.write(client, replica, content, expires_ms);
            }
            Step::Overwrite { replica } => self.overwrite(replica),
            Step::Read { client, replica } => {
                let (client, replica) = (&mut self.clients[client], &self.replicas[replica]);
                client.context = replica.binding.context().clone();
                client.seen.clone_from(&replica.seen);
            }
            Step::Merge { from, into } => {
                let from = self.replicas[from].clone();
                let into = &mut self.replicas[into];
                into.binding = into.binding.merge(&from.binding);
                into.seen.extend(from.seen);
            }
            Step::Expire { replica, now_ms } => {
                let replica = &mut self.replicas[replica];
                replica.binding = replica
                    .binding
                    .expire(now_ms)
                    .unwrap_or_else(|| replica.binding.clone());
            }
            Step::Restart { replica } => {
                self.replicas[replica].boot += 1;
                self.replicas[replica].counter = 0;
            }
        }
    }

    fn mint(&mut self, replica: usize) -> Dot {
        let state = &mut self.replicas[replica];
        state.counter += 1;
        Dot {
            node: NodeId([replica as u8; 16]),
            boot: state.boot,
            counter: state.counter,
        }
    }

    fn write(&mut self, client: usize, replica: usize, content: Content, expires_ms: Option<u64>) {
        let dot = self.mint(replica);
        let (client, replica) = (&mut self.clients[client], &mut self.replicas[replica]);
        let version = Version {
            dot,
            hlc: Hlc(dot.counter),
            expires_ms,
            content,
        };
        let Ok(written) = replica.binding.write(Some(&client.context), version) else {
            return;
        };
        let superseded = client.seen.clone();
        let after = written.context_after(Some(&client.context), dot);
        replica.seen.extend(&client.seen);
        replica.seen.insert(dot);
        // What the context covers of the replica's writes is either superseded, or the client has seen it.
        client.seen.extend(
            replica
                .seen
                .iter()
                .filter(|&&dot| after.covers(dot) && written.find(dot).is_none()),
        );
        if after.covers(dot) {
            client.seen.insert(dot);
        }
        client.context = after;
        replica.binding = written;
        self.writes.push((dot, superseded));
    }

    fn overwrite(&mut self, replica: usize) {
        let dot = self.mint(replica);
        let replica = &mut self.replicas[replica];
        let content = Content::Value(Bytes::from_static(b"overwritten"));
        let version = Version {
            dot,
            hlc: Hlc(dot.counter),
            expires_ms: None,
            content,
        };
        let Ok(written) = replica.binding.write(None, version) else {
            return;
        };
        self.writes.push((dot, replica.seen.clone()));
        replica.seen.insert(dot);
        replica.binding = written;
    }

    fn merged(&self) -> Binding {
        self.replicas
            .iter()
            .fold(Binding::default(), |all, replica| {
                all.merge(&replica.binding)
            })
    }
}

trait Find {
    fn find(&self, dot: Dot) -> Option<&Version>;
}

impl Find for Binding {
    fn find(&self, dot: Dot) -> Option<&Version> {
        self.versions().iter().find(|version| version.dot == dot)
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_nothing_superseded_returns(steps in steps()) {
        let world = World::after(&steps);
        let superseded: BTreeSet<Dot> = world.writes.iter().flat_map(|(_, seen)| seen).copied().collect();
        let expected: Vec<Dot> = world.writes.iter().map(|(dot, _)| *dot).collect::<BTreeSet<_>>()
            .difference(&superseded).copied().collect();
        let merged = world.merged();
        let held: Vec<Dot> = merged.versions().iter().map(|version| version.dot).collect();
        prop_assert_eq!(held, expected);
    }

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in steps()) {
        let world = World::after(&steps);
        let [a, b, c] = world.replicas.each_ref().map(|replica| &replica.binding);
        prop_assert_eq!(a.merge(b), b.merge(a));
        prop_assert_eq!(a.merge(b).merge(c), a.merge(&b.merge(c)));
        prop_assert_eq!(&a.merge(a), a);
        prop_assert_eq!(&a.merge(b).merge(b), &a.merge(b));
        prop_assert_eq!(a.merge(&Binding::default()), a.clone());
    }

    #[test]
    fn expiry_commutes_with_merging(steps in steps(), now_ms in 0_u64..20) {
        let world = World::after(&steps);
        let [a, b, _] = world.replicas.each_ref().map(|replica| &replica.binding);
        let expired = |binding: &Binding| binding.expire(now_ms).unwrap_or_else(|| binding.clone());
        prop_assert_eq!(expired(&a.merge(b)), expired(a).merge(&expired(b)));
        let live = |binding: &Binding| binding.live(now_ms).into_iter().cloned().collect::<Vec<_>>();
        prop_assert_eq!(live(a), live(&expired(a)));
        prop_assert_eq!(live(a).first().cloned(), a.newest_live(now_ms).cloned());
    }

    #[test]
    fn a_write_with_a_context_removes_exactly_what_it_has_seen(steps in steps(), client in 0..CLIENTS) {
        let world = World::after(&steps);
        let (held, seen) = (&world.replicas[0].binding, &world.clients[client].context);
        let dot = Dot { node: NodeId([9; 16]), boot: 0, counter: 1 };
        let version = Version { dot, hlc: Hlc(0), expires_ms: None, content: Content::Tombstone };
        let mut expected: Vec<Version> =
            held.versions().iter().filter(|version| !seen.covers(version.dot)).cloned().collect();
        expected.push(version.clone());
        match held.write(Some(seen), version) {
            Ok(written) => {
                prop_assert_eq!(written.versions(), expected);
                prop_assert!(written.context().covers_all(held.context()) && written.context().covers_all(seen));
                prop_assert_eq!(&written.merge(held), &written);
            }
            Err(error) => {
                prop_assert_eq!(error, WriteError::TooManySiblings { held: held.versions().len() });
                prop_assert!(expected.len() > SIBLINGS_MAX);
            }
        }
    }

    #[test]
    fn a_write_without_context_leaves_one_version(steps in steps()) {
        let held = World::after(&steps).merged();
        let dot = Dot { node: NodeId([9; 16]), boot: 0, counter: 1 };
        let version = Version { dot, hlc: Hlc(0), expires_ms: None, content: Content::Tombstone };
        if let Ok(written) = held.write(None, version.clone()) {
            prop_assert_eq!(written.versions(), [version]);
            prop_assert_eq!(&written.merge(&held), &written);
        }
    }

    #[test]
    fn every_state_reads_back(steps in steps()) {
        for Replica { binding, .. } in World::after(&steps).replicas {
            prop_assert_eq!(Binding::decode(&binding.encode()), Ok(binding));
        }
    }
}
