//! Which nodes hold which partitions: balanced, zones apart, and as little moved as possible.

use std::collections::BTreeMap;

use super::flow::Network;
use crate::ids::NodeId;

/// A node that may hold partitions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Site {
    /// The node.
    pub(super) node: NodeId,
    /// What fails together with it.
    pub(super) zone: String,
    /// Whether it may be given partitions; if not, it only keeps what it has.
    pub(super) takes: bool,
}

/// What a copy on a site that has none costs: more than all copies that anybody keeps.
const MOVE: i32 = 1 << 16;
/// What a copy costs on a site that has one, but does not lead: a copy of the leader's is kept rather.
const KEEP: i32 = 1;

/// Chooses `copies` sites for each partition. `current` says which of the sites hold it now, the leader first.
///
/// Of all ways in which
/// - no partition has more copies in one zone than it must have with these zones,
/// - the sites hold alike many, to within one, as far as the zones and the sites that take nothing allow,
///
/// it is one that gives the fewest partitions to sites that do not hold them, and of these one that takes the fewest
/// from their leaders. A partition has fewer than `copies` sites in the result only if
/// there are no more that could take it. Sites come in ascending order of their position in `sites`.
///
/// # Panics
/// Never, if `current` holds positions in `sites`, each once.
pub(super) fn spread(sites: &[Site], copies: usize, current: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let zones = Zones::of(sites, copies);
    let shares = Shares::of(sites, copies, current, &zones);
    let partitions = current.len();
    // Source, sink, partitions, sites; then the partitions' zones, where they matter.
    let (source, sink, site_at) = (0, 1, 2 + partitions);
    let mut network = Network::new(site_at + sites.len());
    let least = shares.least.iter().enumerate();
    let doors: Vec<usize> = least
        .map(|(site, share)| network.edge(site_at + site, sink, *share, 0))
        .collect();
    let mut given = Vec::new();
    for (partition, holders) in current.iter().enumerate() {
        let node = 2 + partition;
        network.edge(source, node, copies as u32, 0);
        let mut doors = BTreeMap::new();
        for site in order(partition, sites) {
            let holds = holders.contains(&site);
            if !holds && !sites[site].takes {
                continue;
            }
            let zone = zones.of_site[site];
            let door = if zones.binds(zone, copies) {
                *doors.entry(zone).or_insert_with(|| {
                    let door = network.node();
                    network.edge(node, door, zones.most[zone], 0);
                    door
                })
            } else {
                node
            };
            let cost = match holders.first() {
                Some(leader) if *leader == site => 0,
                _ if holds => KEEP,
                _ => MOVE,
            };
            let edge = network.edge(door, site_at + site, 1, cost);
            given.push((partition, site, edge));
        }
    }
    // Everybody gets the least; then who gets one more is whoever saves a move by it.
    network.fill(source, sink);
    for ((door, least), most) in doors.iter().zip(&shares.least).zip(&shares.most) {
        network.widen(*door, most - least);
    }
    network.fill(source, sink);
    let mut sets = vec![Vec::new(); partitions];
    for (partition, site, edge) in given {
        if network.flow(edge) == 1 {
            sets[partition].push(site);
        }
    }
    for set in &mut sets {
        set.sort_unstable();
    }
    sets
}

/// The sites in an order that differs from partition to partition, so that the partitions of a node that dies are not
/// all held by the same few others.
fn order(partition: usize, sites: &[Site]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sites.len()).collect();
    order.sort_by_cached_key(|site| {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&sites[*site].node.0);
        bytes[16..].copy_from_slice(&(partition as u64).to_be_bytes());
        *blake3::hash(&bytes).as_bytes()
    });
    order
}

struct Zones {
    of_site: Vec<usize>,
    sites: Vec<u32>,
    /// Most copies of one partition in each zone.
    most: Vec<u32>,
}

impl Zones {
    fn of(sites: &[Site], copies: usize) -> Self {
        let mut names: Vec<&str> = sites.iter().map(|site| site.zone.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let of_site: Vec<usize> = sites
            .iter()
            .filter_map(|site| names.binary_search(&site.zone.as_str()).ok())
            .collect();
        let mut count = vec![0; names.len()];
        for zone in &of_site {
            count[*zone] += 1;
        }
        let with = |most: u32| count.iter().map(move |sites: &u32| most.min(*sites));
        let fits = |most: &u32| with(*most).sum::<u32>() as usize >= copies;
        let most = (1..=copies as u32).find(fits).unwrap_or(copies as u32);
        Self {
            most: with(most).collect(),
            of_site,
            sites: count,
        }
    }

    /// Whether a partition could have too many copies in the zone.
    fn binds(&self, zone: usize, copies: usize) -> bool {
        self.most[zone] < self.sites[zone].min(copies as u32)
    }
}

/// How many partitions each site is to hold, at least and at most; they differ by one, or not at all.
struct Shares {
    least: Vec<u32>,
    most: Vec<u32>,
}

impl Shares {
    /// Gives the copies out one by one, always to the site with the fewest so far that can still use one. What the
    /// sites of one zone that is full get, or all the others, may then be exchanged among them.
    fn of(sites: &[Site], copies: usize, current: &[Vec<usize>], zones: &Zones) -> Self {
        let partitions = current.len() as u32;
        let mut holds = vec![0; sites.len()];
        for site in current.iter().flatten() {
            holds[*site] += 1;
        }
        let mut shares = vec![0; sites.len()];
        let mut room: Vec<u32> = zones.most.iter().map(|most| most * partitions).collect();
        for _ in 0..copies * current.len() {
            let can_use = |site: &usize| {
                let takes = sites[*site].takes;
                let most = if takes { partitions } else { holds[*site] };
                shares[*site] < most && room[zones.of_site[*site]] > 0
            };
            let neediest = (0..sites.len())
                .filter(can_use)
                .min_by_key(|site| (shares[*site], u32::MAX - holds[*site]));
            let Some(site) = neediest else { break };
            shares[site] += 1;
            room[zones.of_site[site]] -= 1;
        }
        // Alike: the sites of a full zone, each zone for itself, and all sites of the zones with room.
        let group = |site: usize| match zones.of_site[site] {
            _ if !sites[site].takes => Group::Alone(site),
            zone if room[zone] == 0 => Group::Zone(zone),
            _ => Group::Open,
        };
        let among = |site: usize| {
            let alike = (0..sites.len()).filter(move |other| group(*other) == group(site));
            alike.map(|other| shares[other])
        };
        let bound = |site: usize| (among(site).min(), among(site).max());
        let bounds: Vec<_> = (0..sites.len()).map(bound).collect();
        Self {
            least: bounds.iter().map(|(least, _)| least.unwrap_or(0)).collect(),
            most: bounds.iter().map(|(_, most)| most.unwrap_or(0)).collect(),
        }
    }
}

/// Sites that may exchange what they hold.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Group {
    /// All sites of the zones that have room.
    Open,
    /// The sites of a zone that is full.
    Zone(usize),
    /// A site that takes nothing.
    Alone(usize),
}
