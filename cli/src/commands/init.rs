//! `meshctl init`: a cluster's folders, with its private CA and identities.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_engine::{Identity, RESERVE_BYTES_DEFAULT};
use mesh_net::client::ClientConfig;
use mesh_net::identity::{Authority, Grants, Validity};
use mesh_net::node::NODE_FILE;
use mesh_ring::ids::{ClusterId, NodeId};
use mesh_ring::limits::PARTITIONS_MAX;
use serde_json::json;

use crate::error::Failure;
use crate::layout::{self, Layout};
use crate::session::Session;

/// Make a cluster's folders: private CA, nodes, client
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl init mesh --nodes 1
  meshctl init mesh --nodes 1 --host 192.0.2.7 --port 7500

Makes DIR/ca (the private CA: keep it off the servers), DIR/n1 (node.toml, identity and data; the folder can be
copied to its host) and DIR/client (client.toml and an identity that may do everything). Refuses to overwrite.
This version runs single nodes.")]
pub(crate) struct Args {
    /// The folder to make
    dir: PathBuf,
    #[command(flatten)]
    shape: Shape,
}

/// What a new cluster is like.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// How many nodes; this version runs 1
    #[arg(long, value_name = "N", default_value_t = 1)]
    nodes: u16,
    /// Host or address on which the nodes serve
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        conflicts_with = "hosts"
    )]
    host: String,
    /// UDP port of the first node; 0 lets the system choose one at each start
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
    node: NodeId,
    address: String,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    let made = create(&layout, &args.shape)?;
    let dir = args.dir.display();
    if session.out.is_json() {
        return session.out.json(&json!({
            "cluster": made.cluster.to_string(),
            "dir": dir.to_string(),
            "partitions": args.shape.partitions,
            "nodes": [{"name": "n1", "id": made.node.to_string(), "address": made.address}],
        }));
    }
    session
        .out
        .confirm(format!("made the cluster {} in {dir}", made.cluster))?;
    session
        .out
        .confirm(format!("start its node with: meshctl serve {dir}/n1"))?;
    if args.dir != Path::new("mesh") {
        session.out.confirm(format!(
            "then point clients at it: export MESHCTL_CONFIG={dir}/client/client.toml"
        ))?;
    }
    Ok(())
}

/// Makes the folder whole, or not at all: everything is written beside it and then renamed into place.
pub(crate) fn create(layout: &Layout, shape: &Shape) -> Result<Made, Failure> {
    let address = shape.address()?;
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
    let made = fill(&staged, shape, address)?;
    fs::rename(staged.root(), dir).map_err(|e| Failure::file("create", dir, &e))?;
    fs::File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|e| Failure::file("sync", parent, &e))?;
    Ok(made)
}

fn fill(layout: &Layout, shape: &Shape, address: String) -> Result<Made, Failure> {
    let identities = |e: mesh_net::identity::IdentityError| Failure::failed(e.to_string());
    let made = Made {
        cluster: ClusterId(random_id()?),
        node: NodeId(random_id()?),
        address,
    };
    let name = "n1";
    let folder = layout.node(name);
    let authority = Authority::create(&layout.authority()).map_err(identities)?;
    authority
        .issue_node(
            &folder.join("identity"),
            name,
            &[host_of(&made.address)],
            Validity::ten_years(),
        )
        .map_err(identities)?;
    let file = folder.join(NODE_FILE);
    fs::write(&file, node_file(&made)).map_err(|e| Failure::file("write", &file, &e))?;
    let identity = Identity {
        cluster: made.cluster,
        node: made.node,
        name: name.to_owned(),
        partitions: shape.partitions,
    };
    let data = layout::data(&folder);
    mesh_engine::prepare(&data, &identity).map_err(|e| Failure::file("prepare", &data, &e))?;
    let client = layout.client();
    authority
        .issue_client(&client, "admin", &Grants::all(), Validity::ten_years())
        .map_err(identities)?;
    ClientConfig::write_new(
        &client.join("client.toml"),
        std::slice::from_ref(&made.address),
    )
    .map_err(|e| Failure::failed(e.to_string()))?;
    Ok(made)
}

/// A new node's `node.toml`.
fn node_file(made: &Made) -> String {
    format!(
        "# Where this node serves (UDP). Port 0 lets the system choose one at each start.
listen = {listen}
# A store of any other cluster is refused.
cluster = \"{cluster}\"

# What else can be set, with its default:
# reserve_bytes = {RESERVE_BYTES_DEFAULT}  # writes are refused while the disk has less than this free
# cache_bytes = 67108864  # memory for blocks that were read
# write_buffer_bytes = 67108864  # memory that gathers writes before they become files
# scrub_bytes_per_second = 16777216  # how fast stored data is re-read and checked; 0: never
",
        // A TOML string: what JSON calls one, too.
        listen = serde_json::Value::from(made.address.as_str()),
        cluster = made.cluster,
    )
}

impl Shape {
    /// Where the node serves.
    fn address(&self) -> Result<String, Failure> {
        if self.nodes != 1 {
            return Err(Failure::usage(format!(
                "--nodes {}: this version runs single nodes, use --nodes 1 (rings of several come with a later one)",
                self.nodes
            )));
        }
        match &self.hosts[..] {
            [] => Ok(join_host_port(&self.host, self.port)),
            [one] => {
                let port = one.rsplit_once(':').and_then(|(host, port)| {
                    (!host.is_empty()).then_some(port)?.parse::<u16>().ok()
                });
                port.map(|_| one.clone()).ok_or_else(|| {
                    Failure::usage(format!("--hosts {one}: write HOST:PORT for each node"))
                })
            }
            several => Err(Failure::usage(format!(
                "--hosts names {} nodes, but --nodes is {}",
                several.len(),
                self.nodes
            ))),
        }
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The host of `HOST:PORT`, without brackets.
fn host_of(address: &str) -> String {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned()
}

/// Whether something other than an empty folder lies there.
fn is_occupied(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn random_id() -> Result<[u8; 16], Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|e| Failure::failed(format!("the system gives no random numbers: {e}")))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(join_host_port("127.0.0.1", 7400), "127.0.0.1:7400");
        assert_eq!(join_host_port("::1", 7400), "[::1]:7400");
        assert_eq!(host_of("[::1]:7400"), "::1");
        assert_eq!(host_of("node.example:1"), "node.example");
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
