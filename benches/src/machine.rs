//! What the figures were measured on and with.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::place::Place;

/// Crates whose version a reader of the figures wants to know.
const CRATES: [&str; 6] = [
    "rocksdb",
    "librocksdb-sys",
    "fjall",
    "redb",
    "quinn",
    "rustls",
];

/// Everything that was resolved for this build.
const LOCK: &str = include_str!("../../Cargo.lock");

/// The machine of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// CPU model and number of cores.
    pub cpu: String,
    /// Memory in GiB.
    pub memory: String,
    /// System and release.
    pub kernel: String,
    /// File system of the data, and its device.
    pub file_system: String,
    /// Name and version of what was measured.
    pub versions: Vec<String>,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn this(place: &Place) -> Result<Machine> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism()?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib: Option<f64> = memory
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok());
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let system = place.file_system()?;
        Ok(Machine {
            cpu: format!(
                "{}, {cores} cores",
                model.map_or("unknown CPU", |(_, name)| name)
            ),
            memory: format!("{:.0} GiB", kib.unwrap_or_default() / f64::from(1 << 20)),
            kernel: format!("Linux {}", release.trim()),
            file_system: format!("{} on {}", system.kind, system.source),
            versions: versions(),
        })
    }
}

fn versions() -> Vec<String> {
    let ours = format!("mesh-engine {}", env!("CARGO_PKG_VERSION"));
    let others = CRATES
        .iter()
        .filter_map(|name| Some(format!("{name} {}", locked(LOCK, name)?)));
    std::iter::once(ours).chain(others).collect()
}

/// The version that a lock file has of a crate.
pub(crate) fn locked<'l>(lock: &'l str, name: &str) -> Option<&'l str> {
    let package = lock
        .split("[[package]]")
        .find(|package| package.contains(&format!("name = \"{name}\"\n")))?;
    package
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
}

/// Now, to the minute, as it stands in a report.
#[must_use]
pub fn date() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%m-%d %H:%M UTC")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_locked_ones() {
        let lock = "[[package]]\nname = \"ab\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0.0\"\n";
        assert_eq!(locked(lock, "a"), Some("2.0.0"));
        assert_eq!(locked(lock, "c"), None);
        assert_eq!(versions().len(), CRATES.len() + 1);
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::this(&Place::new().unwrap()).unwrap();
        assert!(
            machine.kernel.starts_with("Linux ") && machine.cpu.contains("cores"),
            "{machine:?}"
        );
    }
}
