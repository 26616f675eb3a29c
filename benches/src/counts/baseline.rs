//! The committed counts, and what differs from them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::{HotPath, callgrind};
use crate::Result;
use crate::markdown::figure;

/// Where it lies, from the root of the workspace.
pub const FILE: &str = "benches/counts.json";

/// What made the program that was counted. Another compiler makes other instructions of the same source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    /// The processor's architecture.
    pub architecture: String,
    /// The Rust compiler.
    pub rustc: String,
    /// The C++ compiler, for RocksDB.
    pub cxx: String,
    /// The C library: copies, comparisons and allocations are its code.
    pub libc: String,
    /// Who counted: it also says which processor it plays.
    pub valgrind: String,
}

/// Instructions of one operation of each path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// With what they were made.
    pub tools: Tools,
    /// By the path's name.
    pub instructions: BTreeMap<String, f64>,
}

/// How a path compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Within the tolerance.
    Same,
    /// Beyond it.
    More,
    /// Below it: a gain that the baseline does not hold yet.
    Less,
    /// The baseline does not have the path.
    Unknown,
}

impl Tools {
    /// Those of this machine.
    ///
    /// # Errors
    /// One of them is missing; the message says which.
    pub fn here() -> Result<Tools> {
        Ok(Tools {
            architecture: std::env::consts::ARCH.to_owned(),
            rustc: first_line("rustc", "--version")?,
            cxx: first_line("c++", "--version")?,
            libc: first_line("getconf", "GNU_LIBC_VERSION")?,
            valgrind: callgrind::version()?,
        })
    }

    /// What differs, for a person; `None` where nothing does.
    #[must_use]
    pub fn difference(&self, here: &Tools) -> Option<String> {
        let pairs = [
            (&self.architecture, &here.architecture),
            (&self.rustc, &here.rustc),
            (&self.cxx, &here.cxx),
            (&self.libc, &here.libc),
            (&self.valgrind, &here.valgrind),
        ];
        let different = pairs.into_iter().filter(|(was, is)| was != is);
        let different: Vec<String> = different
            .map(|(was, is)| format!("{is} in place of {was}"))
            .collect();
        (!different.is_empty()).then(|| different.join(", "))
    }
}

fn first_line(program: &str, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.map_err(|error| format!("{program} cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default().trim();
    if output.status.success() && !line.is_empty() {
        Ok(line.to_owned())
    } else {
        Err(format!("{program} {argument} says nothing of its version").into())
    }
}

impl Baseline {
    /// The committed one.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn load(root: &Path) -> Result<Baseline> {
        let path = root.join(FILE);
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}; `make counts` writes it", path.display()))?;
        let baseline = serde_json::from_str(&text);
        Ok(baseline.map_err(|error| {
            format!("{}: {error}; `make counts` writes it anew", path.display())
        })?)
    }

    /// Puts it in the place of the committed one.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, root: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        Ok(std::fs::write(root.join(FILE), text)?)
    }

    /// How `now` instructions an operation compare.
    #[must_use]
    pub fn judge(&self, path: &HotPath, now: f64) -> Verdict {
        match self.instructions.get(path.name) {
            None => Verdict::Unknown,
            Some(was) if now > was * (1.0 + path.tolerance) => Verdict::More,
            Some(was) if now < was * (1.0 - path.tolerance) => Verdict::Less,
            Some(_) => Verdict::Same,
        }
    }

    /// One line of what was counted.
    #[must_use]
    pub fn line(&self, path: &HotPath, now: f64) -> String {
        let shown = match self.instructions.get(path.name) {
            None => "no baseline".to_owned(),
            Some(was) => {
                let (ratio, tolerance) = (now / was, path.tolerance);
                format!("baseline {}, {ratio:.4} × (± {tolerance:.3})", figure(*was))
            }
        };
        format!(
            "{:<15} {:>12} instructions, {shown}",
            path.name,
            figure(now)
        )
    }

    /// What is wrong with a count, for a person; `None` where nothing is. `profile` is what callgrind wrote of it.
    #[must_use]
    pub fn complaint(&self, path: &HotPath, now: f64, profile: &Path) -> Option<String> {
        let HotPath {
            name, operation, ..
        } = path;
        match self.judge(path, now) {
            Verdict::Same | Verdict::Less => None,
            Verdict::Unknown => Some(format!(
                "{name} has no baseline: run `make counts`, which writes {FILE}, and commit that"
            )),
            Verdict::More => {
                let was = self.instructions.get(*name).copied().unwrap_or(now);
                let (ratio, most) = (now / was, 1.0 + path.tolerance);
                let (now, was, profile) = (figure(now), figure(was), profile.display());
                Some(format!(
                    "{name} takes more instructions than it did: {now} now, {was} in the baseline, {ratio:.3} ×, and {most:.3} × \
                     is allowed\n  an operation: {operation}\n  where they go: callgrind_annotate --inclusive=yes {profile}\n  \
                     if that is worth it: `make counts` rewrites {FILE}; say in the commit what it buys"
                ))
            }
        }
    }

    /// Paths of the baseline that there are not any more.
    #[must_use]
    pub fn left_over(&self, paths: &[HotPath]) -> Vec<&str> {
        let names = self.instructions.keys().map(String::as_str);
        names
            .filter(|name| paths.iter().all(|path| path.name != *name))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        Tools {
            architecture: "x86_64".into(),
            rustc: "rustc 1".into(),
            cxx: "c++ 12".into(),
            libc: "glibc 2".into(),
            valgrind: "valgrind-3".into(),
        }
    }

    const PATH: HotPath = HotPath {
        name: "a",
        operation: "an append",
        tolerance: 0.02,
        run: || Ok(1),
    };

    #[test]
    fn more_than_the_tolerance_is_an_error_that_says_what_to_do() {
        let baseline = Baseline {
            tools: tools(),
            instructions: BTreeMap::from([("a".into(), 1000.0), ("gone".into(), 1.0)]),
        };
        let judged = [1020.0, 1021.0, 980.0, 979.0].map(|now| baseline.judge(&PATH, now));
        let (same, more, less) = (Verdict::Same, Verdict::More, Verdict::Less);
        assert_eq!(judged, [same, more, same, less]);
        assert_eq!(baseline.left_over(&[PATH]), ["gone"]);
        let said = baseline
            .complaint(&PATH, 1100.0, Path::new("a.out.2"))
            .unwrap();
        for part in [
            "1,100 now",
            "1,000 in the baseline",
            "1.100 ×",
            "1.020 ×",
            "an append",
            "a.out.2",
            "make counts",
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
        assert_eq!(baseline.complaint(&PATH, 900.0, Path::new("a")), None);
        let other = HotPath { name: "b", ..PATH };
        let said = baseline.complaint(&other, 1.0, Path::new("b")).unwrap();
        assert!(said.starts_with("b has no baseline"), "{said}");
    }

    #[test]
    fn other_tools_are_named() {
        assert_eq!(tools().difference(&tools()), None);
        let here = Tools {
            cxx: "c++ 13".into(),
            ..tools()
        };
        let said = tools().difference(&here).unwrap();
        assert_eq!(said, "c++ 13 in place of c++ 12");
    }

    #[test]
    fn the_committed_baseline_has_every_path_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let baseline = Baseline::load(root).unwrap();
        let paths = super::super::paths::HOT_PATHS;
        assert_eq!(baseline.left_over(paths), Vec::<&str>::new());
        for path in paths {
            assert!(
                baseline.instructions.contains_key(path.name),
                "{}",
                path.name
            );
        }
    }
}
