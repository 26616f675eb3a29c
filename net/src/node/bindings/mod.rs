//! Bindings across the ring: any node takes any request, and the nodes that keep the key agree on it.
//!
//! - `write`, `read`: one request as its coordinator sees it; the decisions are `mesh_ring::quorum`'s;
//! - `copying`: a write on its way to one node;
//! - `exchange`: copies of bindings between nodes: to homes, to copies, and to stand-ins that keep hints;
//! - `handoff`: hints on their way to whom they are for;
//! - `inbox`: what nodes and the store say of one request;
//! - `away`: who was away lately, so that hints for it may still be under way.
//!
//! A write is coordinated by the first home that lives: what it holds is what a write without a context supersedes. Only
//! where no home lives does a stand-in coordinate.

mod away;
mod copying;
mod exchange;
mod handoff;
mod inbox;
mod read;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mesh_ring::ids::NodeId;
use mesh_ring::name::BindingKey;
use mesh_ring::preference::Preference;
use mesh_ring::quorum::Refused;

use super::{Shared, reply};
use crate::wire::proto::Error;

pub(super) use self::away::Away;
pub(super) use self::exchange::{fetch, fetch_at_hand, keep_all, store};
pub(super) use self::handoff::deliver;
pub(super) use self::read::read;
pub(super) use self::write::{Made, write};

/// How long a request waits for the nodes that it asks.
const DEADLINE: Duration = Duration::from_secs(2);

/// A node that has not answered for so long is stood in for. It goes on being waited for.
const LATE: Duration = Duration::from_millis(200);

/// Memory that a binding holds in the engine's queue beside its bytes, as the engine counts it, with a margin.
pub(super) const BINDING_BYTES: usize = 2_048;

/// What the node remembers of its bindings' traffic.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    pub(super) away: Away,
    /// Stale copies that reads have found and had repaired.
    read_repairs: AtomicU64,
    /// A newer map is being asked for, of which an answer has spoken.
    pub(super) asks_for_map: AtomicBool,
}

impl Bindings {
    fn note_repair(&self) {
        self.read_repairs.fetch_add(1, Ordering::Relaxed);
    }

    /// How many stale copies reads have found, and had repaired, since the start.
    pub(super) fn read_repairs(&self) -> u64 {
        self.read_repairs.load(Ordering::Relaxed)
    }
}

/// Who keeps the key.
pub(super) fn preference(shared: &Shared, key: &BindingKey) -> Result<Preference, Error> {
    let map = shared.map();
    let partition = map.partition(key.as_bytes());
    // Every key has one: the map says how many there are.
    Preference::of(&map, partition).ok_or_else(reply::internal)
}

/// How many nodes a request needs: what it asks for, or a majority.
pub(super) fn need(wanted: Option<u32>, preference: &Preference) -> Result<usize, Error> {
    match wanted {
        Some(0) => Err(reply::invalid("0 replicas: ask for 1 or more")),
        Some(need) => Ok(need as usize),
        None => Ok(preference.majority()),
    }
}

/// Refuses before anything is done where too few nodes live.
pub(super) fn enough_live(
    shared: &Arc<Shared>,
    preference: &Preference,
    need: usize,
) -> Result<(), Error> {
    if need > preference.homes.len() {
        return Err(too_few(need, preference.homes.len()));
    }
    let nodes = preference.homes.iter().chain(&preference.stand_ins);
    let live = nodes.filter(|node| shared.is_alive(**node)).count();
    if live < need {
        return Err(too_few(need, live));
    }
    Ok(())
}

fn too_few(need: usize, have: usize) -> Error {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    reply::not_enough_replicas(count(need), count(have))
}

fn refused(shared: &Shared, preference: &Preference, refused: Refused) -> Error {
    match refused {
        Refused::Impossible { need, max } => too_few(need, max),
        Refused::NotResponsible => shared.not_replica(preference.partition),
    }
}

/// Where a write is coordinated.
pub(super) enum Place {
    Here,
    /// At one of these, the first that does it.
    At(Vec<NodeId>),
}

/// Who coordinates a write of these nodes' key. One that another node has passed on here is not passed on again.
pub(super) fn place(
    shared: &Shared,
    preference: &Preference,
    forwarded: bool,
) -> Result<Place, Error> {
    let me = shared.me();
    if preference.homes.contains(&me) {
        return Ok(Place::Here);
    }
    let live = |nodes: &[NodeId]| -> Vec<NodeId> {
        let nodes = nodes.iter().copied();
        nodes.filter(|node| shared.is_alive(*node)).collect()
    };
    let homes = live(&preference.homes);
    match (homes.is_empty(), forwarded) {
        (true, _) if preference.stand_ins.contains(&me) => Ok(Place::Here),
        (_, true) => Err(shared.not_replica(preference.partition)),
        (true, false) => Ok(Place::At(live(&preference.stand_ins))),
        (false, false) => Ok(Place::At(homes)),
    }
}
