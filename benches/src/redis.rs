//! Redis streams under the same load: a server on this machine, driven by `redis-load` (`benches/redis`).
//!
//! `make bench-redis-tools` installs both; where they are not found nothing is compared.

use std::path::Path;
use std::process::Command;

use bench_drive::{Done, Job};

use crate::Result;
use crate::tools::{Named, Tool, output};

/// The server and its load.
pub struct Redis(Tool);

impl Redis {
    /// Those of `$MESHLOG_REDIS_SERVER` and `$MESHLOG_REDIS_LOAD`, or else what `make bench-redis-tools` has installed; the
    /// server may be that of the system.
    #[must_use]
    pub fn find() -> Option<Redis> {
        let server = Named {
            variable: "MESHLOG_REDIS_SERVER",
            cached: "meshlog-redis/server/redis-server",
            in_path: Some("redis-server"),
        };
        let load = Named {
            variable: "MESHLOG_REDIS_LOAD",
            cached: "meshlog-redis/target/release/redis-load",
            in_path: None,
        };
        Tool::find(&server, &load).map(Redis)
    }

    /// The server's name and version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        let mut command = Command::new(&self.0.server);
        command.arg("--version");
        let text = String::from_utf8(output(command)?)?;
        let version = text.split(' ').find_map(|word| word.strip_prefix("v="));
        let version = version.ok_or("Redis does not say its version")?;
        Ok(format!("Redis {version}"))
    }

    /// Starts a server in `dir`, does the job over so many connections, and stops it.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn run(&self, dir: &Path, connections: usize, job: &Job) -> Result<Done> {
        let mut command = self.0.command(dir)?;
        command.env("REDIS_CONNECTIONS", connections.to_string());
        self.0.run(command, job)
    }
}
