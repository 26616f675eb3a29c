//! `meshctl demo`: a guided tour of a real cluster, every claim of which is checked.

mod access;
mod basics;
mod failover;
mod healing;
mod load;
mod nodes;
mod records;
mod tour;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::tour::Tour;
use crate::error::Failure;
use crate::session::Session;

/// Longest time the whole tour may take.
const TOUR_MAX: Duration = Duration::from_secs(180);

/// Take a guided tour in a temporary directory; every claim is checked
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl demo
  meshctl demo --file commits.ndjson --keep

Runs three nodes as real processes, kills the leader with SIGKILL while records are being published, and checks that
another takes over, that nothing acknowledged is lost, and that all replicas are identical in the end. A fourth node
joins, stands in for one that is away, and a flipped bit on a disk is healed from the other replicas.
✓ stands before a claim that held, ✗ before one that did not; the exit code is 0 only if all held.")]
pub(crate) struct Args {
    /// Publish the lines of this file instead of the sample that meshctl carries
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Leave the directory behind
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let began = Instant::now();
    let dir = tempfile::Builder::new()
        .prefix("meshctl-demo-")
        .tempdir()
        .map_err(|e| Failure::failed(format!("cannot make a temporary directory: {e}")))?;
    let path = dir.path().to_owned();
    if args.keep {
        // From here on the directory is the user's.
        let _ = dir.keep();
    }
    let input = records::input(args.file.as_deref())?;
    let mut tour = Tour::new(path.clone(), session);
    let visited = tokio::time::timeout(TOUR_MAX, visit(&mut tour, &input)).await;
    let (held, broken) = tour.score();
    if args.keep {
        session
            .out
            .confirm(format!("\nLeft behind: {}", path.display()))?;
    }
    visited.map_err(|_| Failure::failed(format!("the tour took longer than {TOUR_MAX:?}")))??;
    if broken > 0 {
        return Err(Failure::failed(format!(
            "{broken} of {} claims did not hold",
            held + broken
        )));
    }
    session.out.confirm(format!(
        "\nAll {held} claims held, in {:.1} s.",
        began.elapsed().as_secs_f64()
    ))
}

async fn visit(tour: &mut Tour<'_>, input: &[u8]) -> Result<(), Failure> {
    let mut nodes = nodes::start(tour).await?;
    basics::bindings(tour).await?;
    basics::topics(tour, input).await?;
    failover::survive(tour, &mut nodes, input).await?;
    basics::conditions(tour).await?;
    basics::expiry(tour).await?;
    access::refusals(tour, nodes.address()?).await?;
    failover::lose_the_majority(tour, &mut nodes, input).await?;
    healing::join(tour, &mut nodes).await?;
    healing::hand_over(tour, &mut nodes).await?;
    healing::rot(tour, &mut nodes, input).await?;
    basics::stop(tour, &mut nodes, input).await
}
