//! `meshctl list`: the keys that begin with a prefix.

use std::ffi::OsString;

use bytes::Bytes;

use crate::error::Failure;
use crate::json::{Object, put_bytes};
use crate::session::Session;
use crate::values;

/// Keys asked for at a time.
const PAGE: u32 = 1000;

/// List keys in order
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl list
  meshctl list user: --limit 100")]
pub(crate) struct Args {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    prefix: OsString,
    /// Stop after this many keys
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let prefix = values::argument(&args.prefix);
    let client = session.connect().await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after: Option<Bytes> = None;
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let keys = client.list(&prefix, after.as_deref(), limit).await?;
        for key in &keys {
            print(session, key)?;
        }
        left -= (keys.len() as u64).min(left);
        match keys.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    client.close().await;
    Ok(())
}

fn print(session: &mut Session, key: &[u8]) -> Result<(), Failure> {
    if !session.out.is_json() {
        return session.out.line(key);
    }
    let mut object = Object::new();
    put_bytes(&mut object, "key", key);
    session.out.json(&object)
}
