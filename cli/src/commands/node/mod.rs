//! `meshctl node`: nodes that come and go.

mod drain;
mod join;
mod new;
mod plan;
mod remove;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use mesh_net::client::Client;
use mesh_net::node::NodeConfig;
use mesh_ring::ids::NodeId;

use crate::error::Failure;
use crate::layout::Layout;
use crate::session::Session;

/// Add, plan, drain and remove nodes
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node new mesh/n4 && meshctl node join mesh/n4 && meshctl serve mesh/n4
  meshctl node plan drain n2 && meshctl node drain n2 && meshctl node remove n2")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    New(new::Args),
    Join(join::Args),
    Plan(plan::Args),
    Drain(drain::Args),
    Remove(remove::Args),
}

pub(crate) async fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    match args.command {
        NodeCommand::New(args) => new::run(&args, session),
        NodeCommand::Join(args) => join::run(&args, session).await,
        NodeCommand::Plan(args) => plan::run(args, session).await,
        NodeCommand::Drain(args) => drain::run(&args, session).await,
        NodeCommand::Remove(args) => remove::run(&args, session).await,
    }
}

/// A node's folder, taken apart: the mesh directory that it lies in, and its name.
fn place(folder: &Path) -> Result<(Layout, String), Failure> {
    let name = folder.file_name().and_then(|name| name.to_str());
    let Some(name) = name else {
        return Err(Failure::usage(format!(
            "{} names no node: write DIR/NAME",
            folder.display()
        )));
    };
    let root = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((Layout::new(root), name.to_owned()))
}

/// A node that asks to join, by its folder.
struct Candidate {
    id: NodeId,
    name: String,
    address: String,
    zone: String,
}

impl Candidate {
    fn load(folder: &Path) -> Result<Self, Failure> {
        let (_, name) = place(folder)?;
        let config = NodeConfig::load(folder).map_err(|e| Failure::usage(e.to_string()))?;
        let id = config.node.ok_or_else(|| {
            Failure::usage(format!(
                "{}: node.toml does not say which node this is: `meshctl node new` makes folders that can join",
                folder.display()
            ))
        })?;
        Ok(Self {
            id,
            name,
            address: config.advertise.unwrap_or(config.listen),
            zone: config.zone,
        })
    }
}

/// A client with the identity that lies beside the node's folder, unless another one is named.
async fn connect_from(folder: &Path, session: &mut Session) -> Result<Client, Failure> {
    let (layout, _) = place(folder)?;
    session.prefer_config(&layout.client().join("client.toml"));
    session.connect().await
}
