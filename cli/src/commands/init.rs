//! `meshctl init`: a cluster's folders, with its private CA and identities.

use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use mesh_engine::Founding;
use mesh_net::client::ClientConfig;
use mesh_net::identity::{Authority, Grants, Validity};
use mesh_net::node::{CONTACTS_MAX, ZONE_BYTES_MAX};
use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::limits::PARTITIONS_MAX;
use serde_json::{Value, json};

use crate::address::{Address, free_ports};
use crate::error::Failure;
use crate::folder::{self, NewNode, Surroundings};
use crate::layout::Layout;
use crate::roster::Roster;
use crate::session::Session;

/// Nodes where nobody says how many.
const NODES_DEFAULT: u16 = 3;
/// Most nodes that are made at once.
const NODES_MAX: i64 = mesh_engine::FOUNDING_MEMBERS_MAX as i64;

/// Make a cluster's folders: private CA, nodes, client
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl init mesh
  meshctl init mesh --nodes 1
  meshctl init mesh --hosts a.example:7400,b.example:7400,c.example:7400 --zones east,west,north

Makes DIR/ca (the private CA: keep it off the servers), DIR/n1 … (node.toml, identity and data; each folder can be
copied to its host) and DIR/client (client.toml and an identity that may do everything). Refuses to overwrite.")]
pub(crate) struct Args {
    /// The folder to make
    dir: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// What a new cluster is like.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// How many nodes [default: 3, or as many as --hosts names]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    nodes: Option<u16>,
    /// Host or address on which the nodes serve
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        conflicts_with = "hosts"
    )]
    host: String,
    /// UDP port of the first node, the others count on from it; 0 takes ports that are free now
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 7400,
        conflicts_with = "hosts"
    )]
    port: u16,
    /// Where each node serves
    #[arg(long, value_name = "A:P,B:P,…", value_delimiter = ',')]
    hosts: Vec<String>,
    /// Zone of each node in turn (rack, data centre); fewer than nodes are repeated
    #[arg(long, value_name = "Z,…", value_delimiter = ',', value_parser = parse_zone)]
    zones: Vec<String>,
    /// Parts into which keys and topics are divided, for the cluster's whole life
    #[arg(long, value_name = "Q", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u16,
    /// Copies of each partition, where there are enough nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=7))]
    replicas: u16,
}

/// A cluster that was made.
pub(crate) struct Made {
    cluster: ClusterId,
    nodes: Vec<NewNode>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    let made = create(&layout, &args.shape)?;
    let dir = args.dir.display();
    if session.out.is_json() {
        let nodes: Vec<Value> = made.nodes.iter().map(facts).collect();
        return session.out.json(&json!({
            "cluster": made.cluster.to_string(),
            "dir": dir.to_string(),
            "partitions": args.shape.partitions,
            "replicas": args.shape.replicas,
            "nodes": nodes,
        }));
    }
    let out = &mut session.out;
    out.confirm(format!("made the cluster {} in {dir}", made.cluster))?;
    if let [node] = &made.nodes[..] {
        out.confirm(format!(
            "start its node with: meshctl serve {dir}/{}",
            node.name
        ))?;
    } else {
        let count = made.nodes.len();
        out.confirm(format!(
            "start its {count} nodes here with: meshctl dev {dir}"
        ))?;
        out.confirm(format!(
            "or each on its host, where its folder goes, with: meshctl serve {dir}/n1"
        ))?;
    }
    if args.dir != Path::new("mesh") {
        out.confirm(format!(
            "then point clients at it: export MESHCTL_CONFIG={dir}/client/client.toml"
        ))?;
    }
    Ok(())
}

fn facts(node: &NewNode) -> Value {
    json!({
        "name": node.name,
        "id": node.id.to_string(),
        "address": node.address.to_string(),
        "zone": node.zone,
    })
}

/// Makes the folder whole, or not at all: everything is written beside it and then renamed into place.
pub(crate) fn create(layout: &Layout, shape: &Shape) -> Result<Made, Failure> {
    let nodes = shape.nodes()?;
    let dir = layout.root();
    if is_occupied(dir) {
        return Err(Failure::failed(format!(
            "{} is there already and is not overwritten: name another folder, or remove it first",
            dir.display()
        )));
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|e| Failure::file("create", parent, &e))?;
    let scratch = tempfile::Builder::new()
        .prefix(".meshctl-init-")
        .tempdir_in(parent)
        .map_err(|e| Failure::file("create a folder in", parent, &e))?;
    let staged = Layout::new(scratch.path().join("mesh"));
    let made = fill(&staged, shape, nodes)?;
    fs::rename(staged.root(), dir).map_err(|e| Failure::file("create", dir, &e))?;
    fs::File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|e| Failure::file("sync", parent, &e))?;
    Ok(made)
}

fn fill(layout: &Layout, shape: &Shape, nodes: Vec<NewNode>) -> Result<Made, Failure> {
    let authority = Authority::create(&layout.authority()).map_err(folder::of_identity)?;
    let made = Made {
        cluster: ClusterId(folder::random_id()?),
        nodes,
    };
    let of = Surroundings {
        authority: &authority,
        cluster: made.cluster,
        partitions: shape.partitions,
    };
    let founding = Founding {
        members: made.nodes.iter().map(NewNode::founder).collect(),
        replicas: shape.replicas,
    };
    let mut roster = Roster::new(made.cluster, shape.partitions);
    for (at, node) in made.nodes.iter().enumerate() {
        let folder = layout.node(&node.name);
        // Those that come after it, round the ring: any one that answers is enough, and no two nodes rely on the same ones.
        let others = made.nodes.iter().cycle().skip(at + 1);
        let others = others.take(CONTACTS_MAX.min(made.nodes.len() - 1));
        let contacts: Vec<String> = others.map(|other| other.address.to_string()).collect();
        folder::write(&folder, node, &contacts, &of)?;
        folder::prepare_to_found(&folder, &folder::identity(node, &of), &founding)?;
        roster.nodes.push(node.named());
    }
    roster.save(layout.root())?;
    let client = layout.client();
    authority
        .issue_client(&client, "admin", &Grants::all(), Validity::ten_years())
        .map_err(folder::of_identity)?;
    let addresses: Vec<String> = roster.nodes.into_iter().map(|node| node.address).collect();
    ClientConfig::write_new(&client.join("client.toml"), &addresses)
        .map_err(|e| Failure::failed(e.to_string()))?;
    Ok(made)
}

impl Shape {
    /// The nodes to make: names, places, fresh ids.
    fn nodes(&self) -> Result<Vec<NewNode>, Failure> {
        let zone = |index: usize| match &self.zones[..] {
            [] => String::new(),
            zones => zones[index % zones.len()].clone(),
        };
        let named = |(index, address)| {
            Ok(NewNode {
                name: format!("n{}", index + 1),
                id: NodeId(folder::random_id()?),
                address,
                zone: zone(index),
            })
        };
        self.addresses()?
            .into_iter()
            .enumerate()
            .map(named)
            .collect()
    }

    /// Where each node serves, and others reach it.
    fn addresses(&self) -> Result<Vec<Address>, Failure> {
        let count = self.count()?;
        let addresses = if self.hosts.is_empty() {
            self.addresses_of_one_host(count)?
        } else {
            let each = self
                .hosts
                .iter()
                .map(|host| Address::parse(host, "--hosts"));
            each.collect::<Result<Vec<_>, _>>()?
        };
        if count > 1
            && let Some(lost) = addresses.iter().find(|address| !is_reachable(address))
        {
            return Err(Failure::usage(format!(
                "{lost} is no address at which nodes can find each other: name one with --host or --hosts"
            )));
        }
        for (index, address) in addresses.iter().enumerate() {
            if count > 1 && addresses[..index].contains(address) {
                return Err(Failure::usage(format!("--hosts names {address} twice")));
            }
        }
        Ok(addresses)
    }

    fn addresses_of_one_host(&self, count: usize) -> Result<Vec<Address>, Failure> {
        // Alone, a node may serve at another port each time; several must know where the others are.
        let ports = match (self.port, count) {
            (0, 1) => vec![0],
            (0, _) => free_ports(&self.host, count)?,
            (first, _) => (first..=u16::MAX).take(count).collect(),
        };
        if ports.len() < count {
            return Err(Failure::usage(format!(
                "--port {}: {count} ports from there on go beyond {}",
                self.port,
                u16::MAX
            )));
        }
        let at = |port| Address::new(&self.host, port);
        Ok(ports.into_iter().map(at).collect())
    }

    fn count(&self) -> Result<usize, Failure> {
        let named = self.hosts.len();
        match self.nodes.map(usize::from) {
            Some(nodes) if named > 0 && named != nodes => Err(Failure::usage(format!(
                "--hosts names {named} nodes, but --nodes is {nodes}"
            ))),
            Some(nodes) => Ok(nodes),
            None if named as i64 > NODES_MAX => Err(Failure::usage(format!(
                "--hosts names {named} nodes, the most that are made at once is {NODES_MAX}"
            ))),
            None if named > 0 => Ok(named),
            None => Ok(usize::from(NODES_DEFAULT)),
        }
    }
}

fn is_reachable(address: &Address) -> bool {
    address.port() != 0 && !address.is_unspecified()
}

/// A zone's name, as node.toml and the cluster take it.
pub(super) fn parse_zone(zone: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    if zone.len() > ZONE_BYTES_MAX || zone.contains(odd) {
        return Err(format!(
            "a zone's name has at most {ZONE_BYTES_MAX} bytes, and no blanks"
        ));
    }
    Ok(zone.to_owned())
}

/// Whether something other than an empty folder lies there.
pub(super) fn is_occupied(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        shape: Shape,
    }

    fn addresses(flags: &[&str]) -> Result<Vec<String>, String> {
        let typed = Typed::try_parse_from([&["init"], flags].concat()).unwrap();
        match typed.shape.nodes() {
            Ok(nodes) => Ok(nodes.iter().map(|n| n.address.to_string()).collect()),
            Err(Failure::Told { message, .. }) => Err(message),
            Err(Failure::ReaderGone) => unreachable!("nothing is printed"),
        }
    }

    #[test]
    fn ports_count_on_from_the_first() {
        let three = ["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"];
        assert_eq!(addresses(&[]).unwrap(), three);
        assert_eq!(
            addresses(&["--nodes", "1", "--host", "0.0.0.0"]).unwrap(),
            ["0.0.0.0:7400"]
        );
        assert_eq!(
            addresses(&["--nodes", "1", "--port", "0"]).unwrap(),
            ["127.0.0.1:0"]
        );
        let hosts = addresses(&["--hosts", "a:1,b:1,c:2,[::1]:7"]).unwrap();
        assert_eq!(hosts, ["a:1", "b:1", "c:2", "[::1]:7"]);
        let chosen = addresses(&["--port", "0"]).unwrap();
        assert!(
            chosen.iter().all(|address| !address.ends_with(":0")),
            "{chosen:?}"
        );
    }

    #[test]
    fn nodes_that_could_not_find_each_other_are_refused() {
        for (flags, word) in [
            (&["--host", "0.0.0.0"][..], "find each other"),
            (&["--hosts", "a:1,a:1"], "twice"),
            (&["--hosts", "a:1,b:0"], "find each other"),
            (&["--hosts", "a:1,b:1", "--nodes", "3"], "--nodes is 3"),
            (&["--hosts", "a,b"], "HOST:PORT"),
            (&["--port", "65534"], "65535"),
        ] {
            let refused = addresses(flags).unwrap_err();
            assert!(refused.contains(word), "{flags:?}: {refused}");
        }
    }

    #[test]
    fn zones_are_given_in_turn() {
        let typed = Typed::try_parse_from(["init", "--nodes", "3", "--zones", "a,b"]).unwrap();
        let nodes = typed.shape.nodes().unwrap();
        let zones: Vec<&str> = nodes.iter().map(|node| node.zone.as_str()).collect();
        assert_eq!(zones, ["a", "b", "a"]);
    }

    #[test]
    fn an_empty_folder_may_be_filled_and_a_file_may_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_occupied(dir.path()));
        assert!(!is_occupied(&dir.path().join("absent")));
        fs::write(dir.path().join("file"), "x").unwrap();
        assert!(is_occupied(dir.path()));
        assert!(is_occupied(&dir.path().join("file")));
    }
}
