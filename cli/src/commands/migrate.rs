//! `meshctl migrate`: bring an older data directory to the current format.

use std::path::PathBuf;

use mesh_migrations::{MigrateError, Plan, Progress, Report, StepInfo};
use serde_json::{Value, json};

use crate::error::Failure;
use crate::layout;
use crate::session::Session;

/// Bring an older data directory to the current format
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl migrate mesh/n1 --dry-run
  meshctl migrate mesh/n1

The node must not be running. Before the first step a checkpoint is taken beside the data (hard links: quick, and
no second copy). After a crash run it again: it goes on where it was.")]
pub(crate) struct Args {
    /// The node's folder
    folder: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let data = layout::data(&args.folder);
    let failed = |e: MigrateError| Failure::failed(format!("{}: {e}", args.folder.display()));
    if args.dry_run {
        let plan = mesh_migrations::plan(&data).map_err(failed)?;
        return print_plan(&plan, session);
    }
    // RocksDB alone would take a damaged log for a torn one, and drop what follows.
    mesh_engine::settle_log(&data).map_err(|e| Failure::failed(e.to_string()))?;
    let out = &session.out;
    let report = mesh_migrations::migrate(&data, &mut |progress| {
        if let Some(text) = told(&progress) {
            out.progress(&text);
        }
    });
    print_report(&report.map_err(failed)?, session)
}

fn print_plan(plan: &Plan, session: &mut Session) -> Result<(), Failure> {
    if session.out.is_json() {
        return session.out.json(&json!({
            "found": plan.found,
            "current": plan.current,
            "steps": plan.steps.iter().map(step).collect::<Vec<_>>(),
            "interrupted": plan.interrupted,
        }));
    }
    if plan.steps.is_empty() {
        return session.out.line(format!(
            "format {} is the current one: nothing to do",
            plan.found
        ));
    }
    session
        .out
        .line(format!("from format {} to {}:", plan.found, plan.current))?;
    for step in &plan.steps {
        session.out.line(format!(
            "  {} to {}: {}, {}",
            step.from, step.to, step.name, step.what
        ))?;
    }
    if plan.interrupted {
        session
            .out
            .line("the first step has begun before and goes on where it was")?;
    }
    Ok(())
}

fn print_report(report: &Report, session: &mut Session) -> Result<(), Failure> {
    let checkpoint = report
        .checkpoint
        .as_ref()
        .map(|path| path.display().to_string());
    if session.out.is_json() {
        return session.out.json(&json!({
            "found": report.found,
            "now": report.now,
            "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
            "checkpoint": checkpoint,
        }));
    }
    if report.steps.is_empty() {
        return session.out.confirm(format!(
            "format {} is the current one: nothing to do",
            report.now
        ));
    }
    session
        .out
        .confirm(format!("from format {} to {}", report.found, report.now))?;
    match checkpoint {
        Some(path) => session.out.confirm(format!(
            "what was there before is kept in {path}; delete it once it is no longer wanted"
        )),
        None => Ok(()),
    }
}

fn step(step: &StepInfo) -> Value {
    json!({"from": step.from, "to": step.to, "name": step.name, "what": step.what})
}

/// What a person is told while it runs; batches are too many to tell.
fn told(progress: &Progress) -> Option<String> {
    match progress {
        Progress::Checkpointed { path } => Some(format!("checkpoint in {}", path.display())),
        Progress::StepStarted { step, resumed } => {
            let verb = if *resumed {
                "going on with"
            } else {
                "beginning"
            };
            Some(format!(
                "{verb} {} (format {} to {})",
                step.name, step.from, step.to
            ))
        }
        Progress::Batch { .. } => None,
        Progress::StepFinished { step } => Some(format!("done with {}", step.name)),
    }
}
