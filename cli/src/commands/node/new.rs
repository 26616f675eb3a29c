//! `meshctl node new`: the folder of one more node.

use std::fs;
use std::path::PathBuf;

use mesh_net::identity::Authority;
use mesh_net::node::NodeConfig;
use mesh_ring::ids::NodeId;
use serde_json::json;

use super::place;
use crate::address::{Address, free_ports};
use crate::commands::init;
use crate::error::Failure;
use crate::folder::{self, NewNode, Surroundings};
use crate::layout::Layout;
use crate::roster::{Named, Roster};
use crate::session::Session;

/// Make the folder and identity of one more node
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node new mesh/n4
  meshctl node new mesh/n4 --host n4.example --port 7400 --zone west

The folder's name becomes the node's. It is signed by the CA in the folder above, and can be copied to its host. The
node has a new id and no data: it takes part once `meshctl node join` has let it in.")]
pub(crate) struct Args {
    /// The folder to make, inside the cluster's
    folder: PathBuf,
    /// Host or address at which others reach it [default: that of the last node, if it is this machine]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// UDP port [default: the one after the last node's on that host]; 0 takes one that is free now
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Its zone: a rack, a data centre
    #[arg(long, value_name = "ZONE", default_value = "", value_parser = init::parse_zone)]
    zone: String,
}

pub(super) fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let (layout, name) = place(&args.folder)?;
    let mut roster = Roster::load(layout.root())?;
    if init::is_occupied(&args.folder) || roster.nodes.iter().any(|node| node.name == name) {
        return Err(Failure::failed(format!(
            "{name} is there already and is not overwritten: a node that lost its disk joins again under a new name",
        )));
    }
    let authority = Authority::load(&layout.authority()).map_err(folder::of_identity)?;
    let of = Surroundings {
        authority: &authority,
        cluster: roster.cluster(layout.root())?,
        partitions: roster.partitions,
    };
    let node = NewNode {
        name,
        id: NodeId(folder::random_id()?),
        address: address(args, &roster)?,
        zone: args.zone.clone(),
    };
    let contacts = contacts(&layout, &roster)?;
    let scratch = tempfile::Builder::new()
        .prefix(".meshctl-node-")
        .tempdir_in(layout.root())
        .map_err(|e| Failure::file("create a folder in", layout.root(), &e))?;
    let staged = scratch.path().join(&node.name);
    folder::write(&staged, &node, &contacts, &of)?;
    folder::prepare_to_join(&staged, &folder::identity(&node, &of))?;
    fs::rename(&staged, &args.folder).map_err(|e| Failure::file("create", &args.folder, &e))?;
    roster.nodes.push(node.named());
    roster.save(layout.root())?;
    tell(args, &node, session)
}

/// Where the other nodes are: as their folders here say, which people may have changed, or as they were made.
fn contacts(layout: &Layout, roster: &Roster) -> Result<Vec<String>, Failure> {
    let address = |node: &Named| match NodeConfig::load(&layout.node(&node.name)) {
        Ok(config) => config.advertise.unwrap_or(config.listen),
        Err(_) => node.address.clone(),
    };
    let mut contacts: Vec<String> = roster.nodes.iter().map(address).collect();
    contacts.retain(|contact| !contact.ends_with(":0"));
    if contacts.is_empty() {
        return Err(Failure::usage(format!(
            "no node in {} has a port of its own that this one could ask: set `listen` in its node.toml",
            layout.root().display()
        )));
    }
    Ok(contacts)
}

/// Where others will reach it.
fn address(args: &Args, roster: &Roster) -> Result<Address, Failure> {
    let host = match (&args.host, roster.nodes.last()) {
        (Some(host), _) => host.clone(),
        (None, Some(last)) => Address::parse(&last.address, "the last node's address")?
            .on_this_machine()
            .ok_or_else(|| {
                Failure::usage(format!(
                    "the other nodes are elsewhere ({}): say with --host where this one will be",
                    last.address
                ))
            })?,
        (None, None) => return Err(Failure::usage("say with --host where the node will be")),
    };
    let port = match args.port.or_else(|| roster.next_port(&host)) {
        Some(0) => free_ports(&host, 1)?[0],
        Some(port) => port,
        None => 7400,
    };
    let address = Address::new(&host, port);
    if address.is_unspecified() {
        return Err(Failure::usage(format!(
            "--host {host} is no address at which other nodes can find this one"
        )));
    }
    Ok(address)
}

fn tell(args: &Args, node: &NewNode, session: &mut Session) -> Result<(), Failure> {
    let folder = args.folder.display();
    if session.out.is_json() {
        return session.out.json(&json!({
            "name": node.name,
            "id": node.id.to_string(),
            "address": node.address.to_string(),
            "zone": node.zone,
            "dir": folder.to_string(),
        }));
    }
    session.out.confirm(format!(
        "made {folder}: let it in with `meshctl node join {folder}`, and run it with `meshctl serve {folder}`"
    ))
}
