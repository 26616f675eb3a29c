//! A real node: `meshctl init` and `meshctl serve`, driven by `meshctl bench`, each a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::Result;
use crate::children::Child;

/// The program, and a cluster's folders that it made.
pub struct Cluster {
    program: PathBuf,
    dir: PathBuf,
}

/// A node that serves.
pub struct Node<'c> {
    cluster: &'c Cluster,
    child: Child,
    address: String,
}

/// What `meshctl bench` measured.
#[derive(Clone, Debug, Deserialize)]
pub struct Measured {
    /// Records a second.
    pub records_per_second: f64,
    /// MiB of values a second.
    pub mib_per_second: f64,
    /// Milliseconds that requests took.
    pub latency_ms: Latency,
}

/// Milliseconds that requests took.
#[derive(Clone, Debug, Deserialize)]
pub struct Latency {
    /// Half of them no more than this.
    pub p50: f64,
    /// All but one in a hundred no more than this.
    pub p99: f64,
}

impl Cluster {
    /// Makes a cluster of one node in `dir`, which does not exist yet, with the `meshctl` of `$MESHCTL`, or else the one
    /// that lies beside this program. [`crate::mesh::Mesh`] has several nodes.
    ///
    /// # Errors
    /// There is no such program, or it says why it cannot.
    pub fn init(dir: &Path) -> Result<Cluster> {
        let cluster = Cluster {
            program: program()?,
            dir: dir.to_owned(),
        };
        let mut init = Command::new(&cluster.program);
        init.arg("init")
            .arg(dir)
            .args(["--nodes", "1", "--port", "0", "--quiet"]);
        output(init)?;
        Ok(cluster)
    }

    /// The node's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.dir.join("n1/data")
    }

    /// The node's identity.
    #[must_use]
    pub fn node_identity(&self) -> PathBuf {
        self.dir.join("n1/identity")
    }

    /// The identity of a client that may do everything.
    #[must_use]
    pub fn client_identity(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// Starts the node and waits until it serves.
    ///
    /// # Errors
    /// It ended instead; it has said why on stderr.
    pub fn serve(&self) -> Result<Node<'_>> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg(self.dir.join("n1")).args([
            "--until-stdin-closes",
            "--log",
            "warn",
        ]);
        let mut child = Child::spawn(command)?;
        let ready = child.line()?;
        let address = ready
            .strip_prefix("ready ")
            .ok_or("the node says something else than that it is ready")?;
        Ok(Node {
            cluster: self,
            address: address.to_owned(),
            child,
        })
    }
}

impl Node<'_> {
    /// Runs `meshctl bench` with these arguments.
    ///
    /// # Errors
    /// It fails, and says why.
    pub fn bench(&self, arguments: &[&str]) -> Result<Measured> {
        let mut bench = Command::new(&self.cluster.program);
        bench
            .arg("--config")
            .arg(self.cluster.client_identity().join("client.toml"));
        bench
            .args([
                "--node",
                &self.address,
                "--output",
                "json",
                "--quiet",
                "bench",
            ])
            .args(arguments);
        Ok(serde_json::from_slice(&output(bench)?)?)
    }

    /// The node's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it cleanly.
    ///
    /// # Errors
    /// It failed on its way out.
    pub fn stop(self) -> Result<()> {
        self.child.finish()
    }
}

/// The `meshctl` of `$MESHCTL`, or else the one that lies beside this program.
pub(crate) fn program() -> Result<PathBuf> {
    let program = match std::env::var_os("MESHCTL") {
        Some(program) => PathBuf::from(program),
        None => std::env::current_exe()?.with_file_name("meshctl"),
    };
    if !program.exists() {
        let what = "build it with `cargo build --release -p meshctl`, or name one with MESHCTL";
        return Err(format!("there is no {}: {what}", program.display()).into());
    }
    Ok(program)
}

/// What a command of `meshctl` prints.
pub(crate) fn output(mut command: Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!(
        "{}: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    )
    .into())
}
