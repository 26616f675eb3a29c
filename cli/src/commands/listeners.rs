//! `meshctl listeners`: who watches and tails what, on which node.

use mesh_net::client::{Listener, Listening, WatchTarget};

use crate::error::Failure;
use crate::json::{Object, put_bytes};
use crate::session::Session;
use crate::time::rfc3339;

/// Show who watches and tails what
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl listeners
  meshctl listeners --output json

A watch of a prefix may be served by several nodes, each in some partitions. What your identity may not read is not
listed. A tail's next is the offset that it is sent next.")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let all = client.listeners().await?;
    client.close().await;
    for (node, error) in &all.silent {
        session
            .out
            .warn(&format!("{node} does not tell its listeners: {error}"));
    }
    for node in &all.truncated {
        session
            .out
            .warn(&format!("{node} has more listeners than it lists"));
    }
    if session.out.is_json() {
        for listener in &all.listeners {
            session.out.json(&object(listener))?;
        }
        return Ok(());
    }
    if all.listeners.is_empty() {
        return session.out.confirm("nobody watches or tails anything");
    }
    let rows: Vec<Vec<String>> = all.listeners.iter().map(row).collect();
    let headings = ["node", "client", "does", "what", "since", "next"];
    session.out.table(&headings, &rows)
}

fn row(listener: &Listener) -> Vec<String> {
    let shown = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    };
    let (does, what, next) = match &listener.what {
        Listening::Watch { target, .. } => match target {
            WatchTarget::Key(key) => ("watch", shown(key), "-".to_owned()),
            WatchTarget::Prefix(prefix) => ("watch", shown(prefix) + "*", "-".to_owned()),
        },
        Listening::Tail {
            topic,
            next,
            follow,
        } => {
            let does = if *follow { "follow" } else { "tail" };
            (does, topic.clone(), next.to_string())
        }
    };
    vec![
        listener.node.clone(),
        listener.client.clone(),
        does.to_owned(),
        what,
        rfc3339(listener.since_ms),
        next,
    ]
}

fn object(listener: &Listener) -> Object {
    let mut object = Object::new();
    object.insert("node".to_owned(), listener.node.clone().into());
    object.insert("client".to_owned(), listener.client.clone().into());
    match &listener.what {
        Listening::Watch { target, partitions } => {
            object.insert("kind".to_owned(), "watch".into());
            match target {
                WatchTarget::Key(key) => put_bytes(&mut object, "key", key),
                WatchTarget::Prefix(prefix) => put_bytes(&mut object, "prefix", prefix),
            }
            object.insert("partitions".to_owned(), (*partitions).into());
        }
        Listening::Tail {
            topic,
            next,
            follow,
        } => {
            object.insert("kind".to_owned(), "tail".into());
            object.insert("topic".to_owned(), topic.clone().into());
            object.insert("next".to_owned(), (*next).into());
            object.insert("follow".to_owned(), (*follow).into());
        }
    }
    object.insert("since".to_owned(), rfc3339(listener.since_ms).into());
    object
}
