//! The commands, one file each: `Args` is what can be typed, `run` does it.

pub(crate) mod bench;
pub(crate) mod ca;
pub(crate) mod completions;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod get;
pub(crate) mod info;
pub(crate) mod init;
pub(crate) mod list;
pub(crate) mod listeners;
pub(crate) mod migrate;
pub(crate) mod node;
pub(crate) mod publish;
pub(crate) mod put;
pub(crate) mod repair;
pub(crate) mod ring;
pub(crate) mod routes;
pub(crate) mod salvage;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod storage;
pub(crate) mod tail;
pub(crate) mod topic;
pub(crate) mod verify;
pub(crate) mod watch;

use std::time::Duration;

use crate::args::{Cli, Command};
use crate::error::Failure;
use crate::session::Session;

/// How long a node's threads may take to finish what they do when it ends without an orderly shutdown.
const LEAVING_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs one command to its end on a runtime of its own.
pub(crate) fn execute(cli: Cli) -> Result<(), Failure> {
    let mut session = Session::open(cli.common)?;
    session.log(match cli.command {
        Command::Serve(_) => serve::LOG_DEFAULT,
        _ => "warn",
    })?;
    let runtime = runtime(&cli.command)
        .map_err(|e| Failure::failed(format!("cannot start the async runtime: {e}")))?;
    let has_store = matches!(cli.command, Command::Serve(_));
    let done = runtime.block_on(run(cli.command, &mut session));
    // What was printed before a failure is still true.
    let flushed = session.out.flush();
    if has_store {
        // Threads that are still in RocksDB when the process takes its statics down would crash.
        runtime.shutdown_timeout(LEAVING_TIMEOUT);
    } else {
        // Not waited for: a thread that reads stdin would hold up the exit for ever.
        runtime.shutdown_background();
    }
    done.and(flushed)
}

/// The threads that a command runs on.
///
/// A node leaves one core to its store's writer, which otherwise waits for one at every group: with two cores that took
/// 10 % off the latency of one append in flight. A load generator needs no more than one thread.
fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match command {
        Command::Bench(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    }
    .worker_threads(cores.saturating_sub(1).max(1))
    .enable_all()
    .build()
}

async fn run(command: Command, session: &mut Session) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init::run(&args, session),
        Command::Serve(args) => serve::run(&args, session).await,
        Command::Dev(args) => dev::run(&args, session).await,
        Command::Demo(args) => demo::run(&args, session).await,
        Command::Migrate(args) => migrate::run(&args, session),
        Command::Salvage(args) => salvage::run(&args, session),
        Command::Put(args) => put::run(args, session).await,
        Command::Get(args) => get::run(&args, session).await,
        Command::Delete(args) => delete::run(&args, session).await,
        Command::List(args) => list::run(&args, session).await,
        Command::Watch(args) => watch::run(&args, session).await,
        Command::Topic(args) => topic::run(args, session).await,
        Command::Publish(args) => publish::run(args, session).await,
        Command::Tail(args) => tail::run(&args, session).await,
        Command::Status(args) => status::run(&args, session).await,
        Command::Ring(args) => ring::run(&args, session).await,
        Command::Routes(args) => routes::run(&args, session).await,
        Command::Info(args) => info::run(&args, session).await,
        Command::Storage(args) => storage::run(&args, session).await,
        Command::Listeners(args) => listeners::run(&args, session).await,
        Command::Repair(args) => repair::run(&args, session).await,
        Command::Node(args) => node::run(args, session).await,
        Command::Verify(args) => verify::run(&args, session).await,
        Command::Ca(args) => ca::run(args, session).await,
        Command::Bench(args) => bench::run(&args, session).await,
        Command::Completions(args) => completions::run(&args, session),
    }
}
