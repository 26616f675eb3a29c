//! NATS JetStream under the same load: servers on this machine, driven by `nats-load` (`benches/nats`).
//!
//! `make bench-nats-tools` installs both; where they are not found nothing is compared.

use std::path::Path;
use std::process::Command;

use bench_drive::{Done, Job};

use crate::Result;
use crate::tools::{Named, Tool, output};

/// The server and its load.
pub struct Nats(Tool);

/// How a topic is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// As a stream.
    Streams,
    /// As a subject of the one stream that there is.
    Subjects,
}

impl Nats {
    /// Those of `$MESHLOG_NATS_SERVER` and `$MESHLOG_NATS_LOAD`, or else what `make bench-nats-tools` has installed; the
    /// server may be that of the system.
    #[must_use]
    pub fn find() -> Option<Nats> {
        let server = Named {
            variable: "MESHLOG_NATS_SERVER",
            cached: "meshlog-nats/bin/nats-server",
            in_path: Some("nats-server"),
        };
        let load = Named {
            variable: "MESHLOG_NATS_LOAD",
            cached: "meshlog-nats/target/release/nats-load",
            in_path: None,
        };
        Tool::find(&server, &load).map(Nats)
    }

    /// The server's name and version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        let mut command = Command::new(&self.0.server);
        command.arg("--version");
        Ok(String::from_utf8(output(command)?)?.trim().to_owned())
    }

    /// Starts so many servers in `dir`, each stream with as many replicas, does the job, and stops them.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn run(&self, dir: &Path, servers: usize, layout: Layout, job: &Job) -> Result<Done> {
        let mut command = self.0.command(dir)?;
        command.env("NATS_SERVERS", servers.to_string());
        if layout == Layout::Subjects {
            command.env("NATS_SUBJECTS", "1");
        }
        self.0.run(command, job)
    }
}
