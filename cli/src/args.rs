//! What can be typed: the flags common to every command, and the list of commands.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::commands::{
    bench, ca, completions, delete, demo, dev, get, info, init, list, listeners, migrate, node,
    publish, put, repair, ring, routes, salvage, serve, status, storage, tail, topic, verify,
    watch,
};
use crate::error;
use crate::output::Format;
use crate::time::parse_duration;

/// A persistent, durable event log store: the node, the client and the admin tool.
#[derive(Debug, Parser)]
#[command(
    name = "meshctl",
    version = version(),
    arg_required_else_help = true,
    after_help = "Examples:
  meshctl demo
  meshctl init mesh && meshctl dev mesh
  meshctl put user:123 alice
  meshctl publish commits --file commits.ndjson
  meshctl tail commits --from-offset 24000 --output json

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 unavailable (retry helps), 5 conflict, 6 refused."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Client configuration: node addresses and identity [default: ./mesh/client/client.toml, then
    /// ~/.config/meshctl/client.toml]
    #[arg(
        long,
        global = true,
        env = "MESHCTL_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,

    /// Talk to this node instead of those in the configuration (repeatable)
    #[arg(long = "node", id = "via", global = true, value_name = "HOST:PORT")]
    pub(crate) nodes: Vec<String>,

    /// How facts are printed on stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// Print no confirmations, warnings or progress
    #[arg(long, global = true)]
    pub(crate) quiet: bool,

    /// Give up on a request after this long, such as 500ms or 30s
    #[arg(long, global = true, value_name = "DUR", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// What to log on stderr, such as info or mesh_net=debug
    #[arg(
        long,
        global = true,
        env = "MESHCTL_LOG",
        value_name = "FILTER",
        hide_env_values = true
    )]
    pub(crate) log: Option<String>,
}

/// One variant a command; its flags stand in the file of its name.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Args),
    Serve(serve::Args),
    Dev(dev::Args),
    Demo(demo::Args),
    Migrate(migrate::Args),
    Salvage(salvage::Args),
    Put(put::Args),
    Get(get::Args),
    Delete(delete::Args),
    List(list::Args),
    Watch(watch::Args),
    Topic(topic::Args),
    Publish(publish::Args),
    Tail(tail::Args),
    Status(status::Args),
    Ring(ring::Args),
    Routes(routes::Args),
    Info(info::Args),
    Storage(storage::Args),
    Listeners(listeners::Args),
    Repair(repair::Args),
    Verify(verify::Args),
    Node(node::Args),
    Ca(ca::Args),
    Bench(bench::Args),
    Completions(completions::Args),
}

/// `0.1.0 (data format 1)`: what a bug report and an upgrade both need.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        format!(
            "{} (data format {})",
            env!("CARGO_PKG_VERSION"),
            mesh_engine::FORMAT_VERSION
        )
    })
}

/// Parses the command line. Help and versions are printed here; a mistake is one line on stderr and exit code 2.
pub(crate) fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|mistake| {
        let rendered = mistake.render();
        match mistake.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // A reader that went away has seen enough of the help.
                let _ = write!(std::io::stdout(), "{rendered}");
                ExitCode::SUCCESS
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = write!(std::io::stderr(), "{rendered}");
                ExitCode::from(error::Exit::Usage as u8)
            }
            _ => {
                error::tell(&mistake_line(&rendered.to_string(), std::env::args_os()));
                ExitCode::from(error::Exit::Usage as u8)
            }
        }
    })
}

/// Takes clap's paragraph down to its cause; the usage synopsis stays in `--help`, which the line names.
fn mistake_line(rendered: &str, words: impl Iterator<Item = OsString>) -> String {
    let is_cause =
        |line: &&str| !line.starts_with("Usage: ") && !line.starts_with("For more information");
    let cause: Vec<&str> = rendered.lines().filter(is_cause).collect();
    let cause = error::one_line(&cause.join("\n"));
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause);
    format!("{cause} (see `{} --help`)", command_typed(words))
}

/// The command that these words name, as far as it can be told.
fn command_typed(words: impl Iterator<Item = OsString>) -> String {
    let mut command = Cli::command();
    let mut typed = vec![command.get_name().to_owned()];
    for word in words.skip(1) {
        if let Some(sub) = command.find_subcommand(&word) {
            typed.push(sub.get_name().to_owned());
            command = sub.clone();
        }
    }
    typed.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name());
                let help = sub
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(
                    help.contains(&path),
                    "`{path} --help` shows no example of itself: {help}"
                );
                assert!(
                    sub.get_about().is_some(),
                    "`{path}` does not say what it does"
                );
                check(sub, &path);
            }
        }
        check(&Cli::command(), "meshctl");
    }

    #[test]
    fn mistakes_are_one_line_that_names_the_help() {
        let line = |words: &[&str]| {
            let mistake = Cli::try_parse_from(words).unwrap_err();
            mistake_line(
                &mistake.render().to_string(),
                words.iter().map(OsString::from),
            )
        };
        let missing = line(&["meshctl", "put", "k"]);
        assert!(missing.contains("<VALUE>"), "{missing}");
        assert!(missing.ends_with("(see `meshctl put --help`)"), "{missing}");
        let unknown = line(&["meshctl", "topic", "trim", "t", "--befor", "3"]);
        assert!(unknown.contains("--befor"), "{unknown}");
        assert!(!unknown.contains('\n'), "{unknown}");
        assert!(
            unknown.ends_with("(see `meshctl topic trim --help`)"),
            "{unknown}"
        );
        let invalid = line(&["meshctl", "--quiet", "tail", "t", "--last", "x"]);
        assert!(
            invalid.ends_with("(see `meshctl tail --help`)"),
            "{invalid}"
        );
    }
}
