//! `counts`: instructions of the hot paths, held against the committed `benches/counts.json`.
//!
//! ```sh
//! counts check            # counts every path, and fails where one takes more than it did
//! counts check binding-put
//! counts rewrite          # counts every path and writes the baseline anew
//! counts spread 10        # counts every path ten times, and tells how far apart the counts lie
//! counts list             # what there is
//! ```
//!
//! `scripts/counts` builds it optimised and runs it; `make test` and `make counts` do that.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_benches::counts::baseline::{Baseline, FILE, Tools, Verdict};
use mesh_benches::counts::paths::HOT_PATHS;
use mesh_benches::counts::{HotPath, callgrind};
use mesh_benches::{Result, say};

/// A path that seems to take more is counted so often in all, and the lowest count holds: chance only adds.
const TRIES: usize = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["work", name] => work(name),
        ["check", ref names @ ..] => check(names),
        ["rewrite"] => rewrite(),
        ["spread", times] => spread(times),
        ["list"] => {
            list();
            Ok(())
        }
        _ => Err("usage: counts check [PATH…] | rewrite | spread TIMES | list".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Does a path's work and says how many operations that was, for the process that counts.
#[expect(clippy::print_stdout, reason = "the other process reads it there")]
fn work(name: &str) -> Result<()> {
    println!("{}", (named(name)?.run)()?);
    Ok(())
}

fn list() {
    for path in HOT_PATHS {
        say(&format!("{:<15} {}", path.name, path.operation));
    }
}

fn named(name: &str) -> Result<&'static HotPath> {
    let path = HOT_PATHS.iter().find(|path| path.name == name);
    Ok(path.ok_or_else(|| format!("{name} is no path; `counts list` shows them"))?)
}

fn check(names: &[&str]) -> Result<()> {
    let named = names.iter().map(|name| named(name));
    let mut paths: Vec<&HotPath> = named.collect::<Result<_>>()?;
    if paths.is_empty() {
        paths = HOT_PATHS.iter().collect();
    }
    let (root, here) = (root()?, Tools::here()?);
    let baseline = Baseline::load(root)?;
    if let Some(difference) = baseline.tools.difference(&here) {
        not_comparable(&difference);
        return Ok(());
    }
    let dir = profiles()?;
    let mut complaints: Vec<String> = Vec::new();
    for (path, mut now) in paths.iter().zip(count_all(&paths, &dir)?) {
        for _ in 1..TRIES {
            if baseline.judge(path, now) != Verdict::More {
                break;
            }
            now = now.min(callgrind::count(path.name, &dir)?.each());
        }
        say(&baseline.line(path, now));
        if baseline.judge(path, now) == Verdict::Less {
            say("  fewer than it did: `make counts` keeps the gain");
        }
        complaints.extend(baseline.complaint(path, now, &callgrind::profile(&dir, path.name)?));
    }
    complaints.extend(
        baseline
            .left_over(HOT_PATHS)
            .into_iter()
            .map(|name| format!("{name} is in {FILE} and is no path any more: run `make counts`")),
    );
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\nerror: ").into())
}

/// Another compiler's instructions are no regression; nor is it one that a machine was given a newer compiler.
fn not_comparable(difference: &str) {
    say(&format!(
        "warning: {FILE} was counted with other tools than there are here ({difference}), so nothing was compared: run \
         `make counts` on a state that is known to be good, and commit the file"
    ));
}

fn rewrite() -> Result<()> {
    let (root, tools) = (root()?, Tools::here()?);
    let paths: Vec<&HotPath> = HOT_PATHS.iter().collect();
    let dir = profiles()?;
    let mut lowest = count_all(&paths, &dir)?;
    for _ in 1..TRIES {
        let again = count_all(&paths, &dir)?;
        lowest = lowest.iter().zip(again).map(|(a, b)| a.min(b)).collect();
    }
    let baseline = Baseline {
        tools,
        instructions: paths
            .iter()
            .zip(lowest)
            .map(|(path, each)| (path.name.to_owned(), rounded(each)))
            .collect(),
    };
    if let Ok(before) = Baseline::load(root) {
        for path in &paths {
            say(&before.line(path, baseline.instructions[path.name]));
        }
    }
    baseline.save(root)?;
    say(&format!("wrote {FILE}"));
    Ok(())
}

/// What the tolerances are taken from.
fn spread(times: &str) -> Result<()> {
    let times: usize = times.parse()?;
    let paths: Vec<&HotPath> = HOT_PATHS.iter().collect();
    let dir = profiles()?;
    let mut rounds = Vec::new();
    for _ in 0..times {
        rounds.push(count_all(&paths, &dir)?);
    }
    for (at, path) in paths.iter().enumerate() {
        let counts = rounds.iter().map(|round| round[at]);
        let low = counts.clone().fold(f64::INFINITY, f64::min);
        let high = counts.fold(0.0, f64::max);
        say(&format!(
            "{:<15} {low:>12.1} to {high:>12.1}, {:.3} % apart",
            path.name,
            (high / low - 1.0) * 100.0
        ));
    }
    Ok(())
}

/// A tenth of an instruction is exact enough, and reads better in a diff.
fn rounded(each: f64) -> f64 {
    (each * 10.0).round() / 10.0
}

/// Instructions of an operation of each path, as many paths at a time as there are cores: they do not disturb each other.
fn count_all(paths: &[&HotPath], dir: &Path) -> Result<Vec<f64>> {
    let workers = std::thread::available_parallelism()?.get();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..workers.min(paths.len()) {
            scope.spawn(|| {
                while let Some((at, path)) = take(paths, &next) {
                    let counted = callgrind::count(path.name, dir);
                    let mut found = found
                        .lock()
                        .unwrap_or_else(std::sync::PoisonError::into_inner);
                    found.push((at, counted));
                }
            });
        }
    });
    let mut found = found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort_by_key(|(at, _)| *at);
    found
        .into_iter()
        .map(|(_, counted)| Ok(counted?.each()))
        .collect()
}

fn take<'a>(paths: &[&'a HotPath], next: &AtomicUsize) -> Option<(usize, &'a HotPath)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    paths.get(at).map(|path| (at, *path))
}

fn root() -> Result<&'static Path> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Ok(root.ok_or("the crate has no folder around it")?)
}

/// What callgrind writes lies beside this program, to be looked at afterwards.
fn profiles() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let folder = program
        .parent()
        .ok_or("the program has no folder around it")?;
    Ok(folder.join("counts-profiles"))
}
