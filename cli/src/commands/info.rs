//! `meshctl info`.
use crate::error::Failure;
use crate::session::Session;
/// x
#[derive(Debug, clap::Args)]
#[command(after_help = "meshctl info")]
pub(crate) struct Args {}
pub(crate) async fn run(_args: &Args, _session: &mut Session) -> Result<(), Failure> { Ok(()) }
