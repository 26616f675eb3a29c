//! `meshctl ca`: issue identities.

use std::path::PathBuf;

use clap::Subcommand;
use mesh_net::client::ClientConfig;
use mesh_net::identity::{Access, Authority, Grant, Grants, IdentityError, Scope, Validity};
use serde_json::json;

use crate::error::Failure;
use crate::layout::Layout;
use crate::session::Session;

/// Issue identities, signed by the cluster's private CA
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl ca issue client auditor --read-topic audit.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    Issue(Issue),
}

/// Issue an identity
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl ca issue client auditor --read-topic audit.")]
struct Issue {
    #[command(subcommand)]
    whom: Whom,
}

#[derive(Debug, Subcommand)]
enum Whom {
    Client(IssueClient),
}

/// Issue a client's identity, with what it may do
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca issue client backup
  meshctl ca issue client auditor --read-topic audit. --read-topic billing.
  meshctl ca issue client sensor --write-topic metrics. --days 90
  meshctl --config mesh/clients/auditor/client.toml tail audit.logins

Each flag allows one thing for names that begin with PREFIX and may be repeated; without any of them the client
may do everything. Writes DIR/clients/NAME/client.toml with ca.pem, cert.pem and key.pem beside it.")]
struct IssueClient {
    /// The client's name
    name: String,
    /// May read topics that begin with this
    #[arg(long, value_name = "PREFIX")]
    read_topic: Vec<String>,
    /// May publish to, make, trim and delete topics that begin with this
    #[arg(long, value_name = "PREFIX")]
    write_topic: Vec<String>,
    /// May get and list keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    read_key: Vec<String>,
    /// May put and delete keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    write_key: Vec<String>,
    /// Valid for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 3653, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// The cluster's folder, made by `meshctl init`
    #[arg(long, value_name = "DIR", default_value = "mesh")]
    dir: PathBuf,
}

pub(crate) fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    let CaCommand::Issue(Issue {
        whom: Whom::Client(client),
    }) = args.command;
    issue_client(&client, session)
}

fn issue_client(args: &IssueClient, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    if !layout.authority().is_dir() {
        return Err(Failure::usage(format!(
            "no CA in {}: --dir names the folder that `meshctl init` made",
            layout.authority().display()
        )));
    }
    let failed = |e: IdentityError| match e {
        IdentityError::Name { .. } | IdentityError::TooManyGrants { .. } => {
            Failure::usage(e.to_string())
        }
        _ => Failure::failed(e.to_string()),
    };
    let own = layout.client().join("client.toml");
    let nodes = ClientConfig::load(&own)
        .map_err(|e| Failure::failed(e.to_string()))?
        .nodes;
    let folder = layout.issued(&args.name);
    Authority::load(&layout.authority())
        .and_then(|ca| {
            ca.issue_client(
                &folder,
                &args.name,
                &grants(args),
                Validity::days(args.days),
            )
        })
        .map_err(failed)?;
    let config = folder.join("client.toml");
    ClientConfig::write_new(&config, &nodes).map_err(|e| Failure::failed(e.to_string()))?;
    if session.out.is_json() {
        return session
            .out
            .json(&json!({"client": args.name, "config": config.display().to_string(), "days": args.days}));
    }
    session.out.confirm(format!(
        "issued {}: use it with --config {}",
        args.name,
        config.display()
    ))
}

/// What the flags allow; everything, where there are none.
fn grants(args: &IssueClient) -> Grants {
    let each = |access: Access, scope: Scope, prefixes: &[String]| -> Vec<Grant> {
        let grant = |prefix: &String| Grant {
            access,
            scope,
            prefix: prefix.clone().into_bytes(),
        };
        prefixes.iter().map(grant).collect()
    };
    let named: Vec<Grant> = [
        each(Access::Read, Scope::Topic, &args.read_topic),
        each(Access::Write, Scope::Topic, &args.write_topic),
        each(Access::Read, Scope::Key, &args.read_key),
        each(Access::Write, Scope::Key, &args.write_key),
    ]
    .concat();
    if named.is_empty() {
        Grants::all()
    } else {
        named.into_iter().collect()
    }
}
