//! Whether the machine is ours alone. On two cores one neighbour that computes makes every wake-up after an fsync wait
//! for a scheduler tick, which costs whoever hands work between threads more than whoever does not.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::children::setting;

/// Part of all cores that other processes and the kernel's own threads may use during a turn.
pub const OTHERS_MAX: f64 = 0.2;

/// Longest wait for a quiet machine before a turn, in seconds, unless `MESHLOG_BENCH_PATIENCE` says otherwise.
const PATIENCE_SECONDS: u64 = 20;

/// Whether figures do not matter, so that nobody waits for a quiet machine.
static FIGURES_DO_NOT_MATTER: AtomicBool = AtomicBool::new(false);

/// From now on nothing waits for a quiet machine, and nothing is called disturbed: only whether all works is looked at.
pub fn ignore_neighbours() {
    FIGURES_DO_NOT_MATTER.store(true, Ordering::Relaxed);
}

/// CPU time so far, in seconds over all cores.
#[derive(Clone, Copy, Debug)]
struct Used {
    everyone: f64,
    ourselves: f64,
}

/// Watches who uses the CPU from when it is made.
pub struct Watch {
    began: Instant,
    used: Used,
    cores: f64,
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// The system does not tell: this is not Linux.
    pub fn start() -> Result<Watch> {
        let cores = std::thread::available_parallelism()?.get() as f64;
        Ok(Watch {
            began: Instant::now(),
            used: used()?,
            cores,
        })
    }

    /// The part of all cores that was used since by others than this process and children that it has waited for.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn others(&self) -> Result<f64> {
        if FIGURES_DO_NOT_MATTER.load(Ordering::Relaxed) {
            return Ok(0.0);
        }
        let now = used()?;
        let others = (now.everyone - self.used.everyone) - (now.ourselves - self.used.ourselves);
        Ok((others / (self.began.elapsed().as_secs_f64() * self.cores)).max(0.0))
    }
}

/// Waits until others leave the machine alone, but not for ever.
///
/// # Errors
/// The system does not tell.
pub fn wait_until_quiet() -> Result<()> {
    let began = Instant::now();
    let patience = patience()?;
    while began.elapsed() < patience && !FIGURES_DO_NOT_MATTER.load(Ordering::Relaxed) {
        let watch = Watch::start()?;
        std::thread::sleep(Duration::from_millis(100));
        if watch.others()? < OTHERS_MAX / 2.0 {
            break;
        }
    }
    Ok(())
}

/// How long a turn may wait for a quiet machine. Zero: figures do not matter, and disturbed turns count as they are.
///
/// # Errors
/// The setting is no number.
pub fn patience() -> Result<Duration> {
    let seconds = setting("MESHLOG_BENCH_PATIENCE", PATIENCE_SECONDS)?;
    Ok(Duration::from_secs(seconds))
}

fn used() -> Result<Used> {
    // Both are in ticks of 10 ms, on every Linux that Rust runs on.
    const TICK: f64 = 0.01;
    let total = fs::read_to_string("/proc/stat")?;
    let everyone = busy_ticks(&total).ok_or("/proc/stat is not understood")?;
    let own = fs::read_to_string("/proc/self/stat")?;
    let ourselves = own_ticks(&own).ok_or("/proc/self/stat is not understood")?;
    Ok(Used {
        everyone: everyone as f64 * TICK,
        ourselves: ourselves as f64 * TICK,
    })
}

/// user, nice, system, irq, softirq and stolen ticks; not idle and waiting for disks.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .map(str::parse::<u64>);
    let fields: Vec<u64> = fields.collect::<std::result::Result<_, _>>().ok()?;
    Some(fields.get(..3)?.iter().sum::<u64>() + fields.get(5..8)?.iter().sum::<u64>())
}

/// utime, stime, cutime and cstime; the program's name before them may hold anything.
fn own_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_added_up() {
        assert_eq!(
            busy_ticks("cpu  1 2 4 100 100 8 16 32 0 0\ncpu0 …"),
            Some(63)
        );
        assert_eq!(
            own_ticks("1 (a) b) S 0 0 0 0 0 0 0 0 0 0 1 2 4 8 99 …"),
            Some(15)
        );
    }

    #[test]
    fn own_work_is_not_counted_as_others() {
        let watch = Watch::start().unwrap();
        assert!(watch.others().unwrap() >= 0.0);
    }
}
