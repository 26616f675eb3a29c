//! `meshctl get`: read a binding.

use std::ffi::OsString;

use mesh_net::client::{Got, GotValue};
use serde_json::Value;

use crate::error::Failure;
use crate::json::{Object, put_bytes, token};
use crate::session::Session;
use crate::time::rfc3339;
use crate::values;

/// Print the value of a key
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl get user:123
  meshctl get photo:7 > photo.jpg
  meshctl get user:123 --siblings --output json

Text is the value's bytes and nothing else: no line end is added. Exit code 3 where there is no value.
After concurrent writes the newest value is shown; --siblings shows all of them, newest first, one a line.")]
pub(crate) struct Args {
    /// The key
    key: OsString,
    /// How many replicas must answer [default: a majority]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..))]
    read: Option<u32>,
    /// Show every concurrent value
    #[arg(long)]
    siblings: bool,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let key = values::argument(&args.key);
    let client = session.connect().await?;
    let got = client.get(&key, args.read).await?;
    client.close().await;
    let missing = || {
        Failure::not_found(format!(
            "no value for key `{}`",
            String::from_utf8_lossy(&key)
        ))
    };
    let got = got.ok_or_else(missing)?;
    let newest = got.values.first().ok_or_else(missing)?;
    if session.out.is_json() {
        return session.out.json(&object(&key, newest, &got, args.siblings));
    }
    if args.siblings {
        return got
            .values
            .iter()
            .try_for_each(|held| session.out.line(&held.value));
    }
    if got.values.len() > 1 {
        session.out.warn(&format!(
            "{} concurrent values, this is the newest: --siblings shows all, put --context settles it",
            got.values.len()
        ));
    }
    session.out.bytes(&newest.value)
}

fn object(key: &[u8], newest: &GotValue, got: &Got, siblings: bool) -> Object {
    let mut object = Object::new();
    put_bytes(&mut object, "key", key);
    put_bytes(&mut object, "value", &newest.value);
    let held = if siblings {
        got.values.iter().map(sibling).collect()
    } else {
        got.values.len().into()
    };
    object.insert("siblings".to_owned(), held);
    object.insert("context".to_owned(), token(&got.context).into());
    object.insert("time".to_owned(), rfc3339(newest.time_ms).into());
    object.insert("expires".to_owned(), newest.expires_ms.map(rfc3339).into());
    object
}

fn sibling(held: &GotValue) -> Value {
    let mut object = Object::new();
    put_bytes(&mut object, "value", &held.value);
    object.insert("time".to_owned(), rfc3339(held.time_ms).into());
    object.insert("expires".to_owned(), held.expires_ms.map(rfc3339).into());
    object.into()
}
