//! etcd under the same load: a cluster of three members on this machine, driven by `etcd-load` (`benches/etcd`).
//!
//! `make bench-etcd-tools` installs both; where they are not found nothing is compared.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::Result;
use crate::node::output;
use crate::traffic::{Rating, Work};

/// Where Debian's package has the server.
const PACKAGED: &str = "/usr/bin/etcd";

/// The server and its load.
pub struct Etcd {
    server: PathBuf,
    load: PathBuf,
}

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
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let installed = |path: &str| {
            let home = home.as_ref()?;
            Some(home.join(".cache/meshlog-etcd").join(path))
        };
        let first =
            |variable: &str, otherwise: [Option<PathBuf>; 2]| match std::env::var_os(variable) {
                Some(named) => Some(PathBuf::from(named)).filter(|program| program.exists()),
                None => otherwise.into_iter().flatten().find(|path| path.exists()),
            };
        Some(Etcd {
            server: first(
                "MESHLOG_ETCD",
                [installed("server/usr/bin/etcd"), Some(PACKAGED.into())],
            )?,
            load: first(
                "MESHLOG_ETCD_LOAD",
                [installed("target/release/etcd-load"), None],
            )?,
        })
    }

    /// The server's name and version.
    ///
    /// # Errors
    /// It does not run.
    pub fn version(&self) -> Result<String> {
        let mut command = Command::new(&self.server);
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
        std::fs::create_dir_all(dir)?;
        let mut command = Command::new(self.load.canonicalize()?);
        command.arg(self.server.canonicalize()?).arg(match work {
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
        command.current_dir(dir);
        let measured: Measured = serde_json::from_slice(&output(command)?)?;
        Ok(measured.requests_per_second)
    }
}
