//! `meshctl ca revoke`: identities that nobody accepts any more.

use std::path::PathBuf;

use mesh_net::client::ClusterChange;
use mesh_net::identity::{Authority, CERTIFICATE_FILE, Fingerprint, Peer, Role, revoke_in};
use serde_json::{Value, json};

use super::check;
use crate::error::Failure;
use crate::folder::of_identity;
use crate::layout::Layout;
use crate::session::Session;

/// Refuse an identity from now on, everywhere
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl ca revoke auditor
  meshctl ca issue node n2 && meshctl ca revoke n2 --superseded

Every certificate that this CA issued under the name is refused, and its connections are closed. With --superseded the
one that lies in the folder stays good: for renewals. The cluster is told, and so are the folders here, for nodes that are
down just now.")]
pub(super) struct Args {
    /// The name of a client or a node
    name: String,
    /// Only where it names one of these, should a client and a node share it
    #[arg(long, value_name = "KIND", value_enum)]
    kind: Option<Kind>,
    /// Only certificates that a newer one has replaced
    #[arg(long)]
    superseded: bool,
    /// The cluster's folder, made by `meshctl init`
    #[arg(long, value_name = "DIR", default_value = "mesh")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Client,
    Node,
}

pub(super) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let layout = Layout::new(&args.dir);
    check(&layout)?;
    let unwanted = unwanted(args, &layout)?;
    for peer in &unwanted {
        note_in_folders(&layout, peer)?;
    }
    session.prefer_config(&layout.client().join("client.toml"));
    let told = tell_cluster(&unwanted, session).await;
    print(args, &unwanted, told.is_ok(), session)?;
    told.map_err(|failure| {
        failure.at("noted in the folders here, but the cluster could not be told; run it again")
    })
}

/// The certificates to refuse.
fn unwanted(args: &Args, layout: &Layout) -> Result<Vec<Peer>, Failure> {
    let mut issued = Authority::issued(&layout.authority(), &args.name).map_err(of_identity)?;
    if let Some(kind) = args.kind {
        issued.retain(|peer| (peer.role == Role::Node) == (kind == Kind::Node));
    }
    if issued.windows(2).any(|pair| pair[0].role != pair[1].role) {
        return Err(Failure::usage(format!(
            "a client and a node are called {}: say which with --kind",
            args.name
        )));
    }
    if args.superseded {
        let current = current(layout, &args.name);
        issued.retain(|peer| !current.contains(&peer.fingerprint));
    }
    if issued.is_empty() {
        return Err(Failure::not_found(format!(
            "the CA in {} has no such certificate of {}",
            layout.authority().display(),
            args.name
        )));
    }
    Ok(issued)
}

/// The certificates that lie in the folders of this name.
fn current(layout: &Layout, name: &str) -> Vec<Fingerprint> {
    let places = [layout.node(name).join("identity"), layout.issued(name)];
    let files = places.iter().map(|place| place.join(CERTIFICATE_FILE));
    files
        .filter_map(|file| Fingerprint::of_file(&file).ok())
        .collect()
}

/// Notes it beside every node's and the admin's trusted CAs, where each looks by itself.
fn note_in_folders(layout: &Layout, peer: &Peer) -> Result<(), Failure> {
    let note = format!("{} {}", peer.role, peer.name);
    let nodes = layout.nodes()?.into_iter();
    let mut places: Vec<PathBuf> = nodes
        .map(|name| layout.node(&name).join("identity"))
        .collect();
    places.push(layout.client());
    let there = |place: &&PathBuf| place.is_dir();
    for place in places.iter().filter(there) {
        revoke_in(place, peer.fingerprint, &note).map_err(of_identity)?;
    }
    Ok(())
}

async fn tell_cluster(unwanted: &[Peer], session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    for peer in unwanted {
        let change = ClusterChange::Revoke {
            fingerprint: peer.fingerprint.0,
            name: peer.name.clone(),
        };
        client.change_cluster(change).await?;
    }
    client.close().await;
    Ok(())
}

fn print(
    args: &Args,
    revoked: &[Peer],
    cluster: bool,
    session: &mut Session,
) -> Result<(), Failure> {
    if session.out.is_json() {
        let object = |peer: &Peer| {
            json!({
                "kind": peer.role.to_string(),
                "name": peer.name,
                "fingerprint": peer.fingerprint.to_string(),
            })
        };
        let objects: Vec<Value> = revoked.iter().map(object).collect();
        return session
            .out
            .json(&json!({"revoked": objects, "cluster": cluster}));
    }
    if !cluster {
        return Ok(());
    }
    session.out.confirm(format!(
        "{} certificates of {} are refused from now on",
        revoked.len(),
        args.name
    ))
}
