//! Meshlog's measurements: the same work done by its engine and by bare RocksDB, fjall and redb, on the same disk, in the
//! same run, every write fsynced. The figures are ratios, because machines and disks differ and neighbours are noisy.
//!
//! Where things are: `stores` the contenders behind one trait · `payload` what is stored · `work` what is timed ·
//! `rounds` contenders taking turns · `sections` the comparisons of the report · `bars` what must be reached ·
//! `outcome` results as they are kept between runs · `markdown` and `plot` how they are shown · `children` work done
//! in a process of its own · `node` a real `meshctl serve`, `mesh` several, `fleet` very many in one process, `askers` their
//! clients · `load` what is published to them, and every acknowledgement · `traffic` bindings put and read there · `ours` what
//! peers are measured with too (`benches/drive`) · `redis`, `nats`, `etcd` these peers, and `tools` their programs · `growth`
//! the same work at several sizes · `counts` instructions of the hot paths · `bulk` what the transport can do · `place`,
//! `machine`, `process`, `quiet` where it ran.
//!
//! `cargo bench -p mesh-benches` runs the criterion benches in `benches/store`; the binary `report` writes BENCHMARKS.md.

pub mod askers;
pub mod bars;
pub mod bulk;
pub mod children;
pub mod counts;
pub mod etcd;
pub mod fleet;
pub mod growth;
pub mod load;
pub mod machine;
pub mod markdown;
pub mod mesh;
pub mod nats;
pub mod node;
pub mod ours;
pub mod outcome;
pub mod payload;
pub mod place;
pub mod plot;
pub mod process;
pub mod quiet;
pub mod redis;
pub mod rounds;
pub mod sections;
pub mod stores;
pub mod tools;
pub mod traffic;
pub mod work;

/// Whatever stops a measurement; a person reads it and runs the section again.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Tells the person at the terminal what is going on.
#[expect(
    clippy::print_stderr,
    reason = "the report is a program for a terminal; its results go to files"
)]
pub fn say(line: &str) {
    eprintln!("{line}");
}
