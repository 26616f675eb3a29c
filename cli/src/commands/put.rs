//! `meshctl put`: bind a key to a value.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use mesh_net::client::{WriteAck, WriteOptions};
use mesh_ring::limits::BINDING_VALUE_BYTES_MAX;

use crate::error::Failure;
use crate::json::{Object, parse_token, put_bytes, token};
use crate::session::Session;
use crate::time::parse_duration;
use crate::values;

/// Bind a key to a value
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl put user:123 alice
  meshctl put session:9 active --ttl 30s
  meshctl put photo:7 @photo.jpg
  date | meshctl put now -

Without --context the new value replaces what the node holds. With it, the value replaces only what that
context (printed by get and put) had seen; a value written meanwhile stays as a sibling.")]
pub(crate) struct Args {
    /// The key, up to 1024 bytes
    key: OsString,
    /// The value; `-` reads it from stdin, `@FILE` from a file
    #[arg(allow_negative_numbers = true)]
    value: OsString,
    /// Forget the value after this long, such as 30s or 7d
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    write: WriteArgs,
}

/// Flags of every binding write.
#[derive(Debug, clap::Args)]
pub(crate) struct WriteArgs {
    /// How many replicas must hold the write before it is acknowledged [default: a majority]
    #[arg(long = "write", value_name = "W", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,
    /// Replace only what this causal context has seen
    #[arg(long, value_name = "TOKEN", value_parser = parse_token)]
    context: Option<Bytes>,
}

impl WriteArgs {
    pub(crate) fn options(&self, ttl: Option<Duration>) -> WriteOptions {
        WriteOptions {
            ttl,
            write: self.replicas,
            context: self.context.clone(),
        }
    }
}

pub(crate) async fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    let key = values::argument(&args.key);
    let value = values::value(args.value, BINDING_VALUE_BYTES_MAX)?;
    let client = session.connect().await?;
    let ack = client
        .put(&key, value, args.write.options(args.ttl))
        .await?;
    client.close().await;
    print_ack(session, &key, &ack, "stored")
}

/// Prints what a write came to; `done` is its verb.
pub(crate) fn print_ack(
    session: &mut Session,
    key: &[u8],
    ack: &WriteAck,
    done: &str,
) -> Result<(), Failure> {
    if session.out.is_json() {
        let mut object = Object::new();
        put_bytes(&mut object, "key", key);
        object.insert("context".to_owned(), token(&ack.context).into());
        object.insert("version".to_owned(), ack.version.clone().into());
        object.insert("acknowledged".to_owned(), ack.acknowledged.clone().into());
        object.insert("hinted".to_owned(), ack.hinted.clone().into());
        return session.out.json(&object);
    }
    let mut text = format!("{done} on {}", ack.acknowledged.join(", "));
    if !ack.hinted.is_empty() {
        text += &format!(" (and kept there for {}, away now)", ack.hinted.join(", "));
    }
    session.out.confirm(text)
}
