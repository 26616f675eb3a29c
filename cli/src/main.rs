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

/// RocksDB and the node allocate on one thread what they free on another, all day long: the C library's allocator takes locks
/// and keeps holes for that. C++ gets its memory here, too.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

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
