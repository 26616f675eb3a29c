//! `node.toml`: what a node is told when it starts.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh_engine::{RESERVE_BYTES_DEFAULT, RESERVE_BYTES_MIN};
use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::tombstone::TOMBSTONE_AGE_MS_MIN;
use serde::Deserialize;

use super::wall_clock::WallClock;
use crate::identity::CredentialFiles;
use crate::quic::Tuning;

/// Name of the file in a node's folder.
pub const NODE_FILE: &str = "node.toml";

/// Longest name of a zone, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Most contacts that a node is given.
pub const CONTACTS_MAX: usize = 64;
/// How long a node may be dead before others take its partitions over, where nothing else is said.
pub const DEAD_AFTER_DEFAULT: Duration = Duration::from_secs(600);
/// Bytes a second that moving partitions may take, where nothing else is said.
pub const TRANSFER_BYTES_PER_SECOND_DEFAULT: u64 = 64 << 20;

/// How often a node compares its copy of each partition's bindings with another one, where nothing else is said.
pub const REPAIR_EVERY_DEFAULT: Duration = Duration::from_secs(60);

/// How old a tombstone is at least when the nodes are asked whether it may be forgotten, where nothing else is said.
pub const TOMBSTONE_AGE_DEFAULT: Duration = Duration::from_millis(TOMBSTONE_AGE_MS_MIN);

/// How a node runs. Paths are absolute or relative to the process.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where it listens, `HOST:PORT`; port 0: any free one.
    pub listen: String,
    /// Where others reach it, `HOST:PORT`, where that is another address than `listen`.
    pub advertise: Option<String>,
    /// What it shares its fate with, such as a rack or a data centre; empty: nothing known. Replicas of a partition are
    /// kept in different zones where there are enough.
    pub zone: String,
    /// Other nodes, `HOST:PORT`, tried until one answers. A DNS name means all its addresses, resolved anew each time.
    pub contacts: Vec<String>,
    /// Where its store lies.
    pub data: PathBuf,
    /// Its certificate, key and the CAs that it trusts.
    pub identity: CredentialFiles,
    /// The cluster that the store must belong to, where it is stated.
    pub cluster: Option<ClusterId>,
    /// The node that the store must belong to, where it is stated.
    pub node: Option<NodeId>,
    /// Bytes of disk that appends leave free.
    pub reserve_bytes: u64,
    /// Cache of index and data blocks, in bytes.
    pub cache_bytes: usize,
    /// Memory that gathers writes before they are flushed, in bytes.
    pub write_buffer_bytes: usize,
    /// How fast the background scrub reads, in bytes a second. 0: no scrub.
    pub scrub_bytes_per_second: u64,
    /// How fast partitions that move are copied, and bindings are healed, in bytes a second together. 0: as fast as it goes.
    pub transfer_bytes_per_second: u64,
    /// How often its copy of each partition's bindings is compared with another one. `None`: only when somebody asks for it.
    pub repair_every: Option<Duration>,
    /// How old a tombstone must be before the nodes are asked whether it may be forgotten. A shorter time costs questions that
    /// come to nothing; what was deleted stays so however short it is.
    pub tombstone_age: Duration,
    /// How long another node may be dead before its partitions get new replicas.
    pub dead_after: Duration,
    /// How soon a silent node counts as dead.
    pub gossip: GossipTuning,
    /// What it takes for its machine's clock: `node.toml` cannot say.
    pub clock: WallClock,
    /// The transport's settings.
    pub tuning: Tuning,
}

/// How soon a silent node counts as dead: one probe interval, then the time for which it is suspected.
///
/// Shorter is a faster takeover, and more false alarms on machines that stall; an alarm costs a takeover, never data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GossipTuning {
    /// How often a node probes another one.
    pub probe_interval: Duration,
    /// How long it waits for the answer before it asks others to probe for it. Less than the interval.
    pub probe_timeout: Duration,
    /// How long a node that does not answer may contradict before it counts as dead.
    pub suspect_after: Duration,
}

impl Default for GossipTuning {
    fn default() -> Self {
        Self {
            probe_interval: Duration::from_millis(75),
            probe_timeout: Duration::from_millis(30),
            suspect_after: Duration::from_millis(275),
        }
    }
}

/// A node's folder does not say how to run it.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// The file cannot be read.
    #[error("cannot read {file}: {source}: a node's folder is made by `meshctl init`")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{file}: {detail}")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        detail: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: String,
    advertise: Option<String>,
    zone: Option<String>,
    contacts: Option<Vec<String>>,
    data: Option<PathBuf>,
    identity: Option<PathBuf>,
    cluster: Option<String>,
    node: Option<String>,
    reserve_bytes: Option<u64>,
    cache_bytes: Option<usize>,
    write_buffer_bytes: Option<usize>,
    scrub_bytes_per_second: Option<u64>,
    transfer_bytes_per_second: Option<u64>,
    repair_every_seconds: Option<u64>,
    tombstone_age_seconds: Option<u64>,
    dead_after_seconds: Option<u64>,
    probe_interval_ms: Option<u64>,
    probe_timeout_ms: Option<u64>,
    suspect_after_ms: Option<u64>,
}

impl NodeConfig {
    /// Reads `node.toml` in a node's folder. Fields: `listen`, and optionally `advertise`, `zone`, `contacts`, `data`
    /// and `identity` (folders, relative to this one), `cluster`, `node`, `reserve_bytes`, `cache_bytes`,
    /// `write_buffer_bytes`, `scrub_bytes_per_second`, `transfer_bytes_per_second`, `repair_every_seconds`,
    /// `tombstone_age_seconds`, `dead_after_seconds`, `probe_interval_ms`, `probe_timeout_ms`, `suspect_after_ms`.
    ///
    /// # Errors
    /// [`NodeConfigError`], with the file's name.
    pub fn load(folder: &Path) -> Result<Self, NodeConfigError> {
        let path = folder.join(NODE_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| NodeConfigError::Read {
            file: path.clone(),
            source,
        })?;
        parse(&text, folder).map_err(|detail| NodeConfigError::Invalid { file: path, detail })
    }
}

fn parse(text: &str, folder: &Path) -> Result<NodeConfig, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let gossip = file.gossip()?;
    let least = |name: &str, value: u64, least: u64| {
        if value < least {
            return Err(format!("{name} is {value}, the least is {least}"));
        }
        Ok(value)
    };
    let reserve_bytes = file.reserve_bytes.unwrap_or(RESERVE_BYTES_DEFAULT);
    least("reserve_bytes", reserve_bytes, RESERVE_BYTES_MIN)?;
    let write_buffer_bytes = file.write_buffer_bytes.unwrap_or(64 << 20);
    least("write_buffer_bytes", write_buffer_bytes as u64, 1 << 20)?;
    let dead_after = match file.dead_after_seconds {
        None => DEAD_AFTER_DEFAULT,
        Some(seconds) => Duration::from_secs(least("dead_after_seconds", seconds, 1)?),
    };
    let repair_every = match file.repair_every_seconds {
        None => Some(REPAIR_EVERY_DEFAULT),
        Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    };
    let tombstone_age = file
        .tombstone_age_seconds
        .map_or(TOMBSTONE_AGE_DEFAULT, Duration::from_secs);
    let zone = file.zone.unwrap_or_default();
    if zone.len() > ZONE_BYTES_MAX || zone.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "zone: {zone:?} is not the name of a zone: at most {ZONE_BYTES_MAX} bytes, and no blanks"
        ));
    }
    let contacts = file.contacts.unwrap_or_default();
    if contacts.len() > CONTACTS_MAX {
        return Err(format!(
            "contacts: {} are named, the most is {CONTACTS_MAX}; a DNS name may stand for many nodes",
            contacts.len()
        ));
    }
    for contact in &contacts {
        check_address("contacts", contact)?;
    }
    if let Some(advertise) = &file.advertise {
        check_address("advertise", advertise)?;
        check_specified("advertise", advertise)?;
    } else if !contacts.is_empty() {
        check_specified("listen", &file.listen).map_err(|detail| {
            format!("{detail}; say in `advertise` where others reach this node")
        })?;
    }
    let cluster = match file.cluster {
        None => None,
        Some(text) => Some(text.parse().map_err(|error| format!("cluster: {error}"))?),
    };
    let node = match file.node {
        None => None,
        Some(text) => Some(text.parse().map_err(|error| format!("node: {error}"))?),
    };
    Ok(NodeConfig {
        listen: file.listen,
        advertise: file.advertise,
        zone,
        contacts,
        data: folder.join(file.data.unwrap_or_else(|| "data".into())),
        identity: CredentialFiles::in_dir(
            &folder.join(file.identity.unwrap_or_else(|| "identity".into())),
        ),
        cluster,
        node,
        reserve_bytes,
        cache_bytes: file.cache_bytes.unwrap_or(64 << 20),
        write_buffer_bytes,
        scrub_bytes_per_second: file.scrub_bytes_per_second.unwrap_or(16 << 20),
        transfer_bytes_per_second: file
            .transfer_bytes_per_second
            .unwrap_or(TRANSFER_BYTES_PER_SECOND_DEFAULT),
        repair_every,
        tombstone_age,
        dead_after,
        gossip,
        clock: WallClock::default(),
        tuning: Tuning::default(),
    })
}

impl File {
    fn gossip(&self) -> Result<GossipTuning, String> {
        let default = GossipTuning::default();
        let set = |name: &str, ms: Option<u64>, default: Duration| match ms {
            None => Ok(default),
            Some(ms @ 1..=60_000) => Ok(Duration::from_millis(ms)),
            Some(ms) => Err(format!("{name} is {ms}, it may be 1 to 60000")),
        };
        let tuning = GossipTuning {
            probe_interval: set(
                "probe_interval_ms",
                self.probe_interval_ms,
                default.probe_interval,
            )?,
            probe_timeout: set(
                "probe_timeout_ms",
                self.probe_timeout_ms,
                default.probe_timeout,
            )?,
            suspect_after: set(
                "suspect_after_ms",
                self.suspect_after_ms,
                default.suspect_after,
            )?,
        };
        if tuning.probe_timeout >= tuning.probe_interval {
            return Err(format!(
                "probe_timeout_ms is {}, it must be less than probe_interval_ms, which is {}",
                tuning.probe_timeout.as_millis(),
                tuning.probe_interval.as_millis()
            ));
        }
        Ok(tuning)
    }
}

/// `HOST:PORT`, with a port that one can send to.
fn check_address(field: &str, address: &str) -> Result<(), String> {
    let whole = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && bare && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if whole {
        return Ok(());
    }
    Err(format!(
        "{field}: {address:?} is no HOST:PORT (an IPv6 address goes in brackets)"
    ))
}

/// An address that means "all of this host" tells others nothing.
fn check_specified(field: &str, address: &str) -> Result<(), String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(format!(
            "{field}: {address:?} is no address that other nodes can reach"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<NodeConfig, String> {
        parse(text, Path::new("mesh/n1"))
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let config = parsed("listen = '127.0.0.1:0'").unwrap();
        assert_eq!(config.data, Path::new("mesh/n1/data"));
        assert_eq!((config.zone.as_str(), config.contacts.len()), ("", 0));
        assert_eq!(config.dead_after, Duration::from_secs(600));
        assert_eq!(config.gossip, GossipTuning::default());
        assert_eq!(config.transfer_bytes_per_second, 64 << 20);
        assert_eq!(config.repair_every, Some(Duration::from_secs(60)));
        assert_eq!(config.tombstone_age, TOMBSTONE_AGE_DEFAULT);
    }

    #[test]
    fn everything_can_be_said() {
        let config = parsed(
            "listen = '0.0.0.0:7400'
advertise = 'n1.mesh.svc:7400'
zone = 'east-1'
contacts = ['mesh.svc:7400', '[::1]:7401']
dead_after_seconds = 2
probe_interval_ms = 1000
probe_timeout_ms = 400
suspect_after_ms = 3000
transfer_bytes_per_second = 0
repair_every_seconds = 0
tombstone_age_seconds = 5",
        )
        .unwrap();
        assert_eq!(config.advertise.as_deref(), Some("n1.mesh.svc:7400"));
        assert_eq!(config.zone, "east-1");
        assert_eq!(config.contacts, ["mesh.svc:7400", "[::1]:7401"]);
        assert_eq!(config.dead_after, Duration::from_secs(2));
        assert_eq!(config.gossip.probe_timeout, Duration::from_millis(400));
        assert_eq!(config.transfer_bytes_per_second, 0);
        assert_eq!(config.repair_every, None);
        assert_eq!(config.tombstone_age, Duration::from_secs(5));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, word) in [
            ("lisen = 'x'", "lisen"),
            ("contacts = ['nowhere']", "nowhere"),
            ("contacts = ['::1:7400']", "brackets"),
            ("contacts = ['host:0']", "host:0"),
            ("advertise = 'host'", "advertise"),
            ("advertise = '0.0.0.0:7400'", "can reach"),
            ("zone = \"a\\nb\"", "zone"),
            ("dead_after_seconds = 0", "dead_after_seconds"),
            ("probe_timeout_ms = 500", "less than probe_interval_ms"),
            ("suspect_after_ms = 0", "suspect_after_ms"),
            ("reserve_bytes = 1", "reserve_bytes"),
            ("cluster = 'mine'", "cluster"),
            ("node = 'me'", "node"),
        ] {
            let mistake = parsed(&format!("listen = '127.0.0.1:7400'\n{line}")).unwrap_err();
            assert!(mistake.contains(word), "{line}: {mistake}");
        }
        let everywhere = "listen = '[::]:7400'\ncontacts = ['host:7400']";
        assert!(parsed(everywhere).unwrap_err().contains("advertise"));
    }
}
