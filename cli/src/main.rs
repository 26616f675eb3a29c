//! `meshctl`: Meshlog's node, client and admin tool in one binary.
//!
//! `args` says what can be typed, `commands` holds one file per command, `output` is the only way to stdout, and
//! `error` decides the exit code and the one line that explains it.

mod address;
mod args;
mod commands;
mod error;
mod folder;
mod json;
mod layout;
mod lines;
mod output;
mod payload;
mod process;
mod progress;
mod roster;
mod session;
mod signals;
mod survey;
mod time;
mod units;
mod values;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match commands::execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}
