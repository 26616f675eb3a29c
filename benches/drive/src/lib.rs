//! The load that Meshlog and its peers are measured with. Whoever is measured only says how a record is published and read
//! ([`System`]); what is in flight, when the clock runs and what is counted is the same code for all.
//!
//! Where things are: `job` what is to be done and what it came to · `system` who does it · `values` what is published ·
//! `publish`, `deliver`, `replay`, `catch_up` the loops · `tool` the program of a peer: it starts servers that end with it.

mod catch_up;
mod deliver;
mod job;
mod publish;
mod replay;
mod system;
pub mod tool;
mod values;

pub use job::{CatchUp, Deliver, Done, Job, Publish, Replay};
pub use system::{Reader, System, Visit};
pub use values::Values;

use tokio::runtime::{Builder, Runtime};

/// Whatever stops a measurement; a person reads it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The threads that a job's client has: one, which leaves the other core of a small machine to the server and hands nothing over
/// between threads; and two where several readers would wait for each other.
///
/// # Errors
/// The system's.
pub fn runtime(job: &Job) -> Result<Runtime> {
    let mut runtime = match job {
        Job::Publish(_) | Job::Deliver(_) => Builder::new_current_thread(),
        Job::Replay(_) | Job::CatchUp(_) => Builder::new_multi_thread(),
    };
    Ok(runtime.worker_threads(2).enable_all().build()?)
}

/// Puts in what the job finds stored, where it wants that. No clock runs, so it need not be durable yet.
///
/// # Errors
/// The system's.
pub async fn prepare<S: System>(system: &S, job: &Job) -> Result<()> {
    system.make_topics(job.topics()).await?;
    match job.stored() {
        Some((records, value_bytes)) => publish::fill(system, records, value_bytes).await,
        None => Ok(()),
    }
}

/// Does a job on a system that [`prepare`] has made ready for it.
///
/// # Errors
/// The system's; it gave back something else than was published.
pub async fn measure<S: System>(system: &S, job: &Job) -> Result<Done> {
    match job {
        Job::Publish(job) => publish::measure(system, job).await,
        Job::Deliver(job) => deliver::measure(system, job).await,
        Job::Replay(job) => replay::measure(system, job).await,
        Job::CatchUp(job) => catch_up::measure(system, job).await,
    }
}
