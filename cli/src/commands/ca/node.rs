//! `meshctl ca issue node`: a new certificate for a node's folder.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_net::identity::{AUTHORITY_CERTIFICATE_FILE, CERTIFICATE_FILE, KEY_FILE, Validity};
use mesh_net::node::{NODE_FILE, NodeConfig};
use serde_json::json;

use super::authority;
use crate::address::Address;
use crate::error::Failure;
use crate::folder::of_identity;
use crate::layout::Layout;
use crate::session::Session;

/// Issue a node's identity anew, in place of the one that it has
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca issue node n2
  meshctl ca issue node n2 --days 90

For a node whose certificate is about to expire, or whose key may be known to others. A running node takes the new
files up by itself; a folder that was copied to its host gets DIR/NAME/identity copied again. The identity of a node
that is not there yet comes with its folder: `meshctl node new`.")]
pub(super) struct IssueNode {
    /// The node's name
    name: String,
    /// Valid for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 3653, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// The cluster's folder, made by `meshctl init`
    #[arg(long, value_name = "DIR", default_value = "mesh")]
    dir: PathBuf,
}

pub(super) fn run(args: &IssueNode, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    let authority = authority(&layout)?;
    let folder = layout.node(&args.name);
    if !folder.join(NODE_FILE).is_file() {
        return Err(Failure::not_found(format!(
            "no node in {}: `meshctl node new {}` makes one, with its identity",
            folder.display(),
            folder.display()
        )));
    }
    let config = NodeConfig::load(&folder).map_err(|e| Failure::failed(e.to_string()))?;
    let address = config.advertise.unwrap_or(config.listen);
    let address = Address::parse(&address, "its address in node.toml")?;
    let hosts = Some(address.host().to_owned()).filter(|_| !address.is_unspecified());
    let scratch = tempfile::Builder::new()
        .prefix(".meshctl-issue-")
        .tempdir_in(&folder)
        .map_err(|e| Failure::file("create a folder in", &folder, &e))?;
    authority
        .issue_node(
            scratch.path(),
            &args.name,
            hosts.as_slice(),
            Validity::days(args.days),
        )
        .map_err(of_identity)?;
    let identity = folder.join("identity");
    replace(scratch.path(), &identity)?;
    if session.out.is_json() {
        return session.out.json(&json!({
            "node": args.name,
            "identity": identity.display().to_string(),
            "days": args.days,
        }));
    }
    session.out.confirm(format!(
        "issued {}: {} holds the new certificate and key",
        args.name,
        identity.display()
    ))
}

/// Puts the new files in the place of the old, one after the other. A node that looks in between finds a key that does
/// not fit, keeps what it has, and looks again.
fn replace(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to).map_err(|e| Failure::file("create", to, &e))?;
    for file in [KEY_FILE, CERTIFICATE_FILE, AUTHORITY_CERTIFICATE_FILE] {
        let place = to.join(file);
        fs::rename(from.join(file), &place).map_err(|e| Failure::file("replace", &place, &e))?;
    }
    Ok(())
}
