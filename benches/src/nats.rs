//! NATS JetStream under the same load: a cluster of three servers on this machine, driven by `nats-load` (`benches/nats`).
//!
//! `make bench-nats-tools` installs both; where they are not found nothing is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::node::{Measured, output};

/// The server and its load.
pub struct Nats {
    server: PathBuf,
    load: PathBuf,
}

impl Nats {
    /// Those of `$MESHLOG_NATS_SERVER` and `$MESHLOG_NATS_LOAD`, or else what `make bench-nats-tools` has installed.
    #[must_use]
    pub fn find() -> Option<Nats> {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let found = |variable: &str, installed: &str| {
            let named = std::env::var_os(variable).map(PathBuf::from);
            let installed = home
                .as_ref()
                .map(|home| home.join(".cache/meshlog-nats").join(installed));
            named.or(installed).filter(|program| program.exists())
        };
        Some(Nats {
            server: found("MESHLOG_NATS_SERVER", "bin/nats-server")?,
            load: found("MESHLOG_NATS_LOAD", "target/release/nats-load")?,
        })
    }

    /// The server's name and version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        let mut command = Command::new(&self.server);
        command.arg("--version");
        Ok(String::from_utf8(output(command)?)?.trim().to_owned())
    }

    /// Starts three servers in `dir`, publishes, and stops them.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn publish(&self, dir: &Path, arguments: &[&str]) -> Result<Measured> {
        std::fs::create_dir_all(dir)?;
        let mut command = Command::new(self.load.canonicalize()?);
        command.arg(self.server.canonicalize()?).args(arguments);
        command.current_dir(dir);
        Ok(serde_json::from_slice(&output(command)?)?)
    }
}
