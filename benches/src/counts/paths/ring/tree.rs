//! Copies of bindings: compared, and merged.

use std::collections::BTreeMap;
use std::convert::Infallible;

use bytes::Bytes;
use mesh_ring::binding::{Binding, Content, Version};
use mesh_ring::hlc::Hlc;
use mesh_ring::merkle::walk::{Request, Response, Salt, Source, State, Step, Walk, answer};
use mesh_ring::merkle::{LeafId, LeafSum, MERKLE_LEAVES, Tree, binding_digest, leaf_of};
use mesh_ring::version::Dot;

use super::{expect, node};
use crate::Result;
use crate::counts::measured;
use crate::work::key;

const BINDINGS: u64 = 16_384;
const DIFFERING: u64 = 16;
const MERGES: u64 = 1024;

/// A binding with one value.
pub(super) fn binding(counter: u64, bytes: usize) -> Binding {
    let written = Binding::default().write(None, version(1, counter, bytes));
    // A first write is never refused.
    written.unwrap_or_default()
}

fn version(of: u8, counter: u64, bytes: usize) -> Version {
    Version {
        dot: Dot {
            node: node(of),
            boot: 1,
            counter,
        },
        hlc: Hlc(counter),
        expires_ms: None,
        content: Content::Value(Bytes::from(vec![of; bytes])),
    }
}

/// One side's bindings, by leaf and key, each with its digest.
#[derive(Clone)]
struct Side {
    rows: BTreeMap<(LeafId, Bytes), (Vec<u8>, LeafSum)>,
    leaves: Box<[LeafSum; MERKLE_LEAVES as usize]>,
}

impl Side {
    fn new() -> Side {
        Side {
            rows: BTreeMap::new(),
            leaves: Box::new([LeafSum::ZERO; MERKLE_LEAVES as usize]),
        }
    }

    fn put(&mut self, key: Bytes, binding: &[u8]) {
        let leaf = leaf_of(&key);
        let digest = binding_digest(&key, binding);
        let sum = &mut self.leaves[usize::from(leaf.0)];
        let row = (binding.to_vec(), digest);
        if let Some((_, before)) = self.rows.insert((leaf, key), row) {
            *sum = sum.sub(before);
        }
        *sum = sum.add(digest);
    }

    fn take(&mut self, states: &[State]) {
        for State { key, binding } in states {
            self.put(key.clone(), binding);
        }
    }
}

impl Source for Side {
    type Error = Infallible;

    fn list(
        &mut self,
        leaf: LeafId,
        after: Option<&[u8]>,
        most: usize,
    ) -> std::result::Result<Vec<(Bytes, LeafSum)>, Infallible> {
        let from = after.map(Bytes::copy_from_slice).unwrap_or_default();
        let rows = self.rows.range((leaf, from)..);
        let rows = rows.take_while(|((of, _), _)| *of == leaf);
        let rows = rows.filter(|((_, key), _)| after.is_none_or(|after| key.as_ref() > after));
        Ok(rows
            .take(most)
            .map(|((_, key), (_, digest))| (key.clone(), *digest))
            .collect())
    }

    fn read(&mut self, key: &[u8]) -> std::result::Result<Option<Vec<u8>>, Infallible> {
        let row = (leaf_of(key), Bytes::copy_from_slice(key));
        Ok(self.rows.get(&row).map(|(binding, _)| binding.clone()))
    }
}

pub(in super::super) fn merkle_walk() -> Result<u64> {
    let mut ours = Side::new();
    for number in 0..BINDINGS {
        let binding = binding(number + 1, 100).encode();
        ours.put(Bytes::copy_from_slice(&key(number)), &binding);
    }
    let mut theirs = ours.clone();
    for number in (0..BINDINGS).step_by((BINDINGS / DIFFERING) as usize) {
        let newer = binding(number + 1, 100).write(None, version(2, number + 1, 100))?;
        theirs.put(Bytes::copy_from_slice(&key(number)), &newer.encode());
    }
    measured(&mut || {
        let differed = walk(&mut ours, &mut theirs)?;
        expect(differed as u64 == DIFFERING)
    })?;
    expect(ours.rows == theirs.rows)?;
    Ok(1)
}

/// Walks until both sides are equal; returns how many bindings differed.
fn walk(ours: &mut Side, theirs: &mut Side) -> Result<usize> {
    let mut walk = Walk::new(Tree::of(&ours.leaves), Salt([7; 8]));
    let tree = Tree::of(&theirs.leaves);
    loop {
        let request = match walk.next(ours)? {
            Step::Send(request) => request.encode(),
            Step::Done { differed } => return Ok(differed),
        };
        let asked = Request::decode(&request)?;
        if let Request::States(states) = &asked {
            theirs.take(states);
        }
        let response = match answer(&asked, &tree, theirs) {
            Ok(response) => response.encode(),
            Err(never) => match never {},
        };
        let news = walk.answered(Response::decode(&response)?, ours)?;
        ours.take(&news);
    }
}

pub(in super::super) fn version_merge() -> Result<u64> {
    let base = binding(1, 100);
    let side = |of: u8| -> Result<Vec<u8>> {
        let mut side = base.write(None, version(of, 5, 100))?;
        // What else the writer has seen.
        let seen = side.write(None, version(of + 2, 9, 100))?;
        side = seen.write(Some(base.context()), version(of, 6, 100))?;
        Ok(side.encode())
    };
    let (ours, theirs) = (side(2)?, side(3)?);
    measured(&mut || {
        for _ in 0..MERGES {
            let merged = Binding::decode(&ours)?.merge(&Binding::decode(&theirs)?);
            std::hint::black_box(merged.encode());
        }
        Ok(())
    })?;
    Ok(MERGES)
}
