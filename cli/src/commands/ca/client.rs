//! `meshctl ca issue client`: a client's identity.

use std::path::PathBuf;

use mesh_net::client::ClientConfig;
use mesh_net::identity::{Access, Grant, Grants, Scope, Validity};
use serde_json::json;

use super::authority;
use crate::error::Failure;
use crate::folder::of_identity;
use crate::layout::Layout;
use crate::session::Session;

/// Issue a client's identity, with what it may do
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca issue client backup
  meshctl ca issue client auditor --read-topic audit. --read-topic billing.
  meshctl ca issue client sensor --write-topic metrics. --days 90
  meshctl ca issue client operator --admin
  meshctl --config mesh/clients/auditor/client.toml tail audit.logins

Each flag allows one thing for names that begin with PREFIX and may be repeated; without any of them the client
may do everything with topics and keys. Changing the ring takes --admin. Writes DIR/clients/NAME/client.toml with ca.pem, cert.pem and key.pem beside it.")]
pub(super) struct IssueClient {
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
    /// May also add, drain and remove nodes, and revoke identities
    #[arg(long)]
    admin: bool,
    /// Valid for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 3653, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// The cluster's folder, made by `meshctl init`
    #[arg(long, value_name = "DIR", default_value = "mesh")]
    dir: PathBuf,
}

pub(super) fn run(args: &IssueClient, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    let authority = authority(&layout)?;
    let own = layout.client().join("client.toml");
    let nodes = ClientConfig::load(&own)
        .map_err(|e| Failure::failed(e.to_string()))?
        .nodes;
    let folder = layout.issued(&args.name);
    let validity = Validity::days(args.days);
    authority
        .issue_client(&folder, &args.name, &grants(args), validity)
        .map_err(of_identity)?;
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

/// What the flags allow; everything but the cluster itself, where there are none.
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
    let data: Grants = if named.is_empty() {
        Grants::all_data()
    } else {
        named.into_iter().collect()
    };
    let admin = args.admin.then(|| Grant {
        access: Access::Write,
        scope: Scope::Cluster,
        prefix: Vec::new(),
    });
    data.iter().cloned().chain(admin).collect()
}
