//! `meshctl ca`: identities are issued and revoked.

mod client;
mod node;
mod revoke;

use clap::Subcommand;
use mesh_net::identity::Authority;

use crate::error::Failure;
use crate::folder::of_identity;
use crate::layout::Layout;
use crate::session::Session;

/// Issue and revoke identities, signed by the cluster's private CA
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca issue client auditor --read-topic audit.
  meshctl ca revoke auditor")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    Issue(Issue),
    Revoke(revoke::Args),
}

/// Issue an identity
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca issue client auditor --read-topic audit.
  meshctl ca issue node n2")]
struct Issue {
    #[command(subcommand)]
    whom: Whom,
}

#[derive(Debug, Subcommand)]
enum Whom {
    Client(client::IssueClient),
    Node(node::IssueNode),
}

pub(crate) async fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    match args.command {
        CaCommand::Issue(Issue { whom }) => match whom {
            Whom::Client(args) => client::run(&args, session),
            Whom::Node(args) => node::run(&args, session),
        },
        CaCommand::Revoke(args) => revoke::run(&args, session).await,
    }
}

/// The CA of a mesh directory.
fn authority(layout: &Layout) -> Result<Authority, Failure> {
    check(layout)?;
    Authority::load(&layout.authority()).map_err(of_identity)
}

fn check(layout: &Layout) -> Result<(), Failure> {
    if layout.authority().is_dir() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "no CA in {}: --dir names the folder that `meshctl init` made",
        layout.authority().display()
    )))
}
