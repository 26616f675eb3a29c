//! `meshctl delete`: remove a binding.

use std::ffi::OsString;

use super::put::{WriteArgs, print_ack};
use crate::error::Failure;
use crate::session::Session;
use crate::values;

/// Remove a key and its value
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl delete user:123

Deleting a key that is not there succeeds: afterwards it is not there.")]
pub(crate) struct Args {
    /// The key
    key: OsString,
    #[command(flatten)]
    write: WriteArgs,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let key = values::argument(&args.key);
    let client = session.connect().await?;
    let ack = client.delete(&key, args.write.options(None)).await?;
    client.close().await;
    print_ack(session, &key, &ack, "deleted")
}
