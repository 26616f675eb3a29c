//! A node's folder: its configuration, its identity, and what lets its store come to be once.

use std::fs;
use std::path::Path;

use mesh_engine::{Founding, FoundingMember, Identity, RESERVE_BYTES_DEFAULT};
use mesh_net::identity::{Authority, IdentityError, Validity};
use mesh_net::node::{
    DEAD_AFTER_DEFAULT, GossipTuning, NODE_FILE, REPAIR_EVERY_DEFAULT, TOMBSTONE_AGE_DEFAULT,
    TRANSFER_BYTES_PER_SECOND_DEFAULT,
};
use mesh_ring::ids::{ClusterId, NodeId};

use crate::address::Address;
use crate::error::Failure;
use crate::layout;
use crate::roster::Named;

/// A node that is being made.
#[derive(Clone, Debug)]
pub(crate) struct NewNode {
    pub(crate) name: String,
    pub(crate) id: NodeId,
    /// Where others reach it.
    pub(crate) address: Address,
    /// Empty: none.
    pub(crate) zone: String,
}

impl NewNode {
    pub(crate) fn founder(&self) -> FoundingMember {
        FoundingMember {
            node: self.id,
            name: self.name.clone(),
            address: self.address.to_string(),
            zone: self.zone.clone(),
        }
    }

    pub(crate) fn named(&self) -> Named {
        Named {
            name: self.name.clone(),
            address: self.address.to_string(),
            zone: self.zone.clone(),
        }
    }
}

/// What a node's folder needs of its cluster.
pub(crate) struct Surroundings<'a> {
    pub(crate) authority: &'a Authority,
    pub(crate) cluster: ClusterId,
    pub(crate) partitions: u16,
}

/// Writes everything but the store's beginning, which differs between a founder and one who joins.
pub(crate) fn write(
    folder: &Path,
    node: &NewNode,
    contacts: &[String],
    of: &Surroundings<'_>,
) -> Result<(), Failure> {
    let host = node.address.host();
    // An address that means "all" names no host that a certificate could speak for.
    let hosts = Some(host.to_owned()).filter(|_| !node.address.is_unspecified());
    of.authority
        .issue_node(
            &folder.join("identity"),
            &node.name,
            hosts.as_slice(),
            Validity::ten_years(),
        )
        .map_err(of_identity)?;
    let file = folder.join(NODE_FILE);
    fs::write(&file, node_file(node, contacts, of.cluster))
        .map_err(|e| Failure::file("write", &file, &e))
}

/// Who the store of this node will belong to.
pub(crate) fn identity(node: &NewNode, of: &Surroundings<'_>) -> Identity {
    Identity {
        cluster: of.cluster,
        node: node.id,
        name: node.name.clone(),
        partitions: of.partitions,
    }
}

/// Lets the store of a node that founds the cluster be made, once.
pub(crate) fn prepare_to_found(
    folder: &Path,
    identity: &Identity,
    founding: &Founding,
) -> Result<(), Failure> {
    let data = layout::data(folder);
    mesh_engine::prepare_with(&data, identity, founding)
        .map_err(|e| Failure::file("prepare", &data, &e))
}

/// Lets the store of a node that joins be made, once, without any say in what the cluster already decided.
pub(crate) fn prepare_to_join(folder: &Path, identity: &Identity) -> Result<(), Failure> {
    let data = layout::data(folder);
    mesh_engine::prepare(&data, identity).map_err(|e| Failure::file("prepare", &data, &e))
}

/// A mistake in a name is the caller's; anything else is not.
pub(crate) fn of_identity(error: IdentityError) -> Failure {
    match error {
        IdentityError::Name { .. }
        | IdentityError::Host { .. }
        | IdentityError::TooManyGrants { .. } => Failure::usage(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

pub(crate) fn random_id() -> Result<[u8; 16], Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Failure::failed(format!("the system gives no random numbers: {e}")))?;
    Ok(id)
}

/// A new node's `node.toml`.
fn node_file(node: &NewNode, contacts: &[String], cluster: ClusterId) -> String {
    let listen = node.address.to_listen_on();
    let advertise = if listen == node.address {
        "# advertise = \"HOST:PORT\"  # where other nodes and clients reach it, if that is elsewhere".to_owned()
    } else {
        format!(
            "# Where other nodes and clients reach it.\nadvertise = {}",
            toml_string(&node.address.to_string())
        )
    };
    let contacts: Vec<String> = contacts
        .iter()
        .map(|contact| toml_string(contact))
        .collect();
    let gossip = GossipTuning::default();
    format!(
        "# Where this node serves (UDP). Port 0 lets the system choose one at each start.
listen = {listen}
{advertise}
# What it shares its fate with: a rack, a data centre. Replicas are kept in different zones where there are enough.
zone = {zone}
# Other nodes. A DNS name stands for all its addresses, resolved anew each time.
contacts = [{contacts}]
# A store of any other cluster is refused.
cluster = \"{cluster}\"
# So is that of any other node.
node = \"{id}\"

# What else can be set, with its default:
# reserve_bytes = {RESERVE_BYTES_DEFAULT}  # writes are refused while the disk has less than this free
# cache_bytes = 67108864  # memory for blocks that were read
# write_buffer_bytes = 67108864  # memory that gathers writes before they become files
# scrub_bytes_per_second = 16777216  # how fast stored data is re-read and checked; 0: never
# transfer_bytes_per_second = {TRANSFER_BYTES_PER_SECOND_DEFAULT}  # how fast partitions that move are copied, and bindings healed; 0: as fast as it goes
# repair_every_seconds = {repair}  # how often copies of bindings and topics are compared with one another, and healed; 0: only by `meshctl repair`
# tombstone_age_seconds = {tombstones}  # when it is first asked whether a deletion may be forgotten
# dead_after_seconds = {dead_after}  # a node that is dead for so long is replaced
# probe_interval_ms = {interval}  # how soon a silent node counts as dead: an interval, then the time of suspicion
# probe_timeout_ms = {timeout}
# suspect_after_ms = {suspect}
",
        listen = toml_string(&listen.to_string()),
        id = node.id,
        zone = toml_string(&node.zone),
        contacts = contacts.join(", "),
        repair = REPAIR_EVERY_DEFAULT.as_secs(),
        tombstones = TOMBSTONE_AGE_DEFAULT.as_secs(),
        dead_after = DEAD_AFTER_DEFAULT.as_secs(),
        interval = gossip.probe_interval.as_millis(),
        timeout = gossip.probe_timeout.as_millis(),
        suspect = gossip.suspect_after.as_millis(),
    )
}

/// A TOML string: what JSON calls one, too.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_net::node::NodeConfig;

    #[test]
    fn a_node_reads_what_is_written_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca")).unwrap();
        let of = Surroundings {
            authority: &authority,
            cluster: ClusterId([3; 16]),
            partitions: 8,
        };
        let node = NewNode {
            name: "n2".into(),
            id: NodeId([4; 16]),
            address: Address::new("n2.mesh.svc", 7400),
            zone: "east-\"1\"".into(),
        };
        let folder = dir.path().join("n2");
        write(&folder, &node, &["n1.mesh.svc:7400".into()], &of).unwrap();
        let config = NodeConfig::load(&folder).unwrap();
        assert_eq!(config.listen, "0.0.0.0:7400");
        assert_eq!(config.advertise.as_deref(), Some("n2.mesh.svc:7400"));
        assert_eq!(config.zone, "east-\"1\"");
        assert_eq!(config.node, Some(NodeId([4; 16])));
        assert_eq!(config.contacts, ["n1.mesh.svc:7400"]);
        assert_eq!(config.cluster, Some(ClusterId([3; 16])));
        assert_eq!(config.gossip, GossipTuning::default());
    }
}
