//! etcd under the same load: a cluster of three members on this machine, driven by `etcd-load` (`benches/etcd`).
//!
//! `make bench-etcd-tools` installs both; where they are not found nothing is compared.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::Result;
use crate::tools::{Named, Tool, output};
use crate::traffic::{Rating, Work};

/// The server and its load.
pub struct Etcd(Tool);

/// What `etcd-load` measured.
#[derive(Deserialize)]
struct Measured {
    requests_per_second: f64,
}

impl Etcd {
    /// Those of `$MESHLOG_ETCD` and `$MESHLOG_ETCD_LOAD`, or else what `make bench-etcd-tools` has installed; the server
    /// may be that of the system.
    #[must_use]
    pub fn find() -> Option<Etcd> {
        let server = Named {
            variable: "MESHLOG_ETCD",
            cached: "meshlog-etcd/server/usr/bin/etcd",
            in_path: Some("etcd"),
        };
        let load = Named {
            variable: "MESHLOG_ETCD_LOAD",
            cached: "meshlog-etcd/target/release/etcd-load",
            in_path: None,
        };
        Tool::find(&server, &load).map(Etcd)
    }

    /// The server's name and version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        let mut command = Command::new(&self.0.server);
        command.arg("--version");
        let text = String::from_utf8(output(command)?)?;
        let version = text.lines().find_map(|l| l.strip_prefix("etcd Version: "));
        let version = version.ok_or("etcd does not say its version")?;
        Ok(format!("etcd {version}"))
    }

    /// Starts three members in `dir`, puts or gets, and stops them; requests a second.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn rate(&self, dir: &Path, work: Work, rating: &Rating) -> Result<f64> {
        let mut command = self.0.command(dir)?;
        command.arg(match work {
            Work::Put => "put",
            Work::Get => "get",
        });
        for (flag, value) in [
            ("--keys", rating.keys.to_string()),
            ("--size", rating.value_bytes.to_string()),
            ("--inflight", rating.in_flight.to_string()),
            ("--warm-up-ms", rating.warm_up.as_millis().to_string()),
            ("--ms", rating.time.as_millis().to_string()),
        ] {
            command.args([flag, &value]);
        }
        let measured: Measured = serde_json::from_slice(&output(command)?)?;
        Ok(measured.requests_per_second)
    }
}
