//! `report`: measures the engine beside its peers and writes BENCHMARKS.md with its plots.
//!
//! ```sh
//! cargo run --release -p mesh-benches --bin report                    # every short section
//! cargo run --release -p mesh-benches --bin report -- append replay   # only these
//! cargo run --release -p mesh-benches --bin report -- --versus        # whole systems side by side: Redis, NATS, etcd
//! cargo run --release -p mesh-benches --bin report -- --long          # every section, also those and those of 2, 5 and 10 GiB
//! cargo run --release -p mesh-benches --bin report -- --quick         # small, to see that all works; keeps nothing
//!                                    # (MESHLOG_BENCH_DIVISOR=1: as large as it is measured, for a moment each)
//! cargo run --release -p mesh-benches --bin report -- --render        # only the page, from what was kept
//! ```
//!
//! Turns wait up to 20 s for a quiet machine; `MESHLOG_BENCH_PATIENCE=0` has them not wait, to see that all works.
//!
//! The sections `wire`, `ring-…`, `versus-…` and most of `bindings-…` need `meshctl` beside this program, or in `$MESHCTL`: real
//! nodes on the loopback, at ports that the system chooses.
//!
//! | section | measures | takes about |
//! |---|---|---|
//! | `ring-publish` | three nodes beside one, and beside NATS JetStream where `make bench-nats-tools` has installed it | 8 min |
//! | `ring-failover` | 20 SIGKILLs of a leader under load, 10 SIGTERMs; nothing acknowledged is lost | 4 min |
//! | `ring-tail` | publish to a follower's tail in an idle cluster | 1 min |
//! | `ring-idle` | CPU of three nodes with 64 partitions each | 2 min |
//! | `ring-join` | a fourth node joins 2 GiB (with `--long`) | 3 min |
//! | `ring-lookup` | the map and bindings from any of 100 nodes (`MESHLOG_BENCH_NODES`) in one process | 3 min |
//! | `bindings-ring` | bindings on three nodes, beside etcd where `make bench-etcd-tools` has installed it | 6 min |
//! | `bindings-repair` | bytes on the wire when copies of 1,000,000 bindings are compared | 5 min |
//! | `bindings-leaves` | what Merkle leaves cost a put, in the engine alone | 2 min |
//! | `bindings-hints` | 100,000 hints delivered to a node that returns, three times | 4 min |
//! | `growth-size` | the same work at 1, 10 and 40 GiB (with `--long`; `MESHLOG_BENCH_GROWTH_GIB`) | 25 min |
//! | `growth-topics` | the same at 10, 10,000 and 1,000,000 topics (with `--long`; `MESHLOG_BENCH_GROWTH_TOPICS`) | 15 min |
//! | `growth-nodes` | the same on 3, 10 and 100 nodes in one process (with `--long`; `MESHLOG_BENCH_GROWTH_NODES`) | 10 min |
//! | `bindings-watch` | put to the event of a watch in an idle cluster | 1 min |
//! | `versus-publish` | one node beside Redis and NATS by what is in flight, and beside bare RocksDB | 6 min |
//! | `versus-sizes` | likewise, by the size of a record | 3 min |
//! | `versus-topics` | likewise, 1, 200 and 10,000 topics | 4 min |
//! | `versus-replicas` | three nodes beside NATS with three replicas | 6 min |
//! | `versus-delivered` | publish to delivered, nothing else going on | 4 min |
//! | `versus-replay` | one reader and four, beside quinn's bulk transfer | 5 min |
//! | `versus-behind` | a reader catches up 1 GiB while writers go on | 3 min |
//!
//! The sections `versus-…` need what `make versus-tools` installs; a peer that is not there is named and left out.
//!
//! Results are kept in `benches/results`, a file a section; the page is made from the latest of each.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use mesh_benches::children::setting;
use mesh_benches::machine::{Machine, date};
use mesh_benches::outcome::{Kept, keep, kept};
use mesh_benches::place::Place;
use mesh_benches::quiet::ignore_neighbours;
use mesh_benches::sections::{Run, SECTIONS, Section, is_versus};
use mesh_benches::{Result, children, markdown, plot, say};

const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_millis(1500);

/// By what `--quick` divides sizes; 1 shows that all works as large as it is measured.
const DIVISOR: &str = "MESHLOG_BENCH_DIVISOR";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == "child" => children::work(rest),
        _ => report(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What was asked for.
struct Asked {
    sections: Vec<&'static Section>,
    is_quick: bool,
}

fn report(arguments: &[String]) -> Result<()> {
    let asked = parse(arguments)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .ok_or("the crate has no folder around it")?;
    if asked.is_quick {
        ignore_neighbours();
    }
    let place = Place::new()?;
    let machine = Machine::this(&place)?;
    say(&format!(
        "{} · {} · {} · data in {}",
        machine.cpu,
        machine.kernel,
        machine.file_system,
        place.path().display()
    ));
    let mut failures = Vec::new();
    for section in &asked.sections {
        say(&format!("==> {} ({})", section.name, section.title));
        // What stops one section, such as a peer that does not come up, does not stop the others.
        if let Err(error) = measure(section, &asked, root, &place, &machine) {
            say(&format!("  failed: {error}"));
            failures.push(format!("section {}: {error}", section.name));
        }
    }
    if !asked.is_quick {
        render(root)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(failures.join("; ").into())
}

/// Measures one section and keeps what it found, unless it was only to be seen that all works.
fn measure(
    section: &Section,
    asked: &Asked,
    root: &Path,
    place: &Place,
    machine: &Machine,
) -> Result<()> {
    let (rounds, turn, divisor) = if asked.is_quick {
        (1, Duration::from_millis(200), setting(DIVISOR, 64)?)
    } else {
        (ROUNDS, TURN, 1)
    };
    let findings = (section.run)(&Run {
        place,
        rounds,
        turn,
        divisor,
    })?;
    if asked.is_quick {
        return Ok(());
    }
    let kept = Kept {
        date: date(),
        machine: machine.clone(),
        findings,
    };
    keep(&results(root), section.name, &kept)
}

fn parse(arguments: &[String]) -> Result<Asked> {
    let (mut named, mut is_long, mut is_quick, mut renders) = (Vec::new(), false, false, false);
    for argument in arguments {
        match argument.as_str() {
            "--long" => is_long = true,
            "--versus" => named.extend(SECTIONS.iter().filter(|section| is_versus(section))),
            "--quick" => is_quick = true,
            "--render" => renders = true,
            name => match SECTIONS.iter().find(|section| section.name == name) {
                Some(section) => named.push(section),
                None => return Err(usage(name).into()),
            },
        }
    }
    if named.is_empty() && !renders {
        named = SECTIONS
            .iter()
            .filter(|section| is_long || !section.is_long)
            .collect();
    }
    Ok(Asked {
        sections: named,
        is_quick,
    })
}

fn usage(unknown: &str) -> String {
    let names: Vec<&str> = SECTIONS.iter().map(|section| section.name).collect();
    format!(
        "{unknown} is no section: give any of {}, --versus, --long, --quick or --render",
        names.join(", ")
    )
}

fn results(root: &Path) -> PathBuf {
    root.join("benches/results")
}

/// Writes the page and the plots from what was kept of every section.
fn render(root: &Path) -> Result<()> {
    let plots = root.join("docs/plots");
    std::fs::create_dir_all(&plots)?;
    let mut sections = Vec::new();
    for section in SECTIONS {
        let kept = kept(&results(root), section.name)?;
        if let Some(kept) = &kept {
            let picture = plot::picture(section.title, &kept.findings.comparisons);
            std::fs::write(plots.join(format!("{}.svg", section.name)), picture)?;
        }
        sections.push((section, kept));
    }
    std::fs::write(root.join("BENCHMARKS.md"), markdown::page(&sections))?;
    say("wrote BENCHMARKS.md and docs/plots");
    Ok(())
}
