//! What a command runs with: the common flags, stdout, and on demand a client.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_net::client::{Client, ClientConfig};
use tracing_subscriber::EnvFilter;

use crate::args::Common;
use crate::error::Failure;
use crate::output::Output;

/// One run of one command.
pub(crate) struct Session {
    pub(crate) common: Common,
    pub(crate) out: Output,
}

impl Session {
    pub(crate) fn open(common: Common) -> Result<Self, Failure> {
        let out = Output::open(common.output, common.quiet)?;
        Ok(Self { common, out })
    }

    /// Sends logs to stderr: `--log`, or else `default`.
    pub(crate) fn log(&self, default: &str) -> Result<(), Failure> {
        let filter = self.common.log.as_deref().unwrap_or(default);
        let filter = EnvFilter::try_new(filter).map_err(|e| {
            Failure::usage(format!(
                "--log {filter}: {e}; write a level, or TARGET=LEVEL,…"
            ))
        })?;
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init()
            .map_err(|e| Failure::failed(format!("cannot start logging: {e}")))
    }

    /// A client of the cluster that the flags, the environment or the default files name.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.client_config()?).await?)
    }

    /// A client of the node at this address.
    pub(crate) async fn connect_to(&self, address: &str) -> Result<Client, Failure> {
        let mut config = self.client_config()?;
        config.nodes = vec![address.to_owned()];
        Ok(Client::connect(config).await?)
    }

    /// Takes this configuration, where it is there and the user has named none.
    pub(crate) fn prefer_config(&mut self, path: &Path) {
        if self.common.config.is_none() && path.is_file() {
            self.common.config = Some(path.to_owned());
        }
    }

    /// Waits a moment for a file that is not there: `meshctl init mesh && meshctl serve mesh/n1 &` has the next command
    /// typed before `init` is through.
    fn await_config_path(&self) -> Result<PathBuf, Failure> {
        let deadline = Instant::now() + CONFIG_PATIENCE;
        loop {
            let home = std::env::var_os("HOME").map(PathBuf::from);
            match config_path(self.common.config.as_deref(), home) {
                Err(_) if Instant::now() < deadline => std::thread::sleep(CONFIG_LOOK_EVERY),
                found => return found,
            }
        }
    }

    pub(crate) fn client_config(&self) -> Result<ClientConfig, Failure> {
        let path = self.await_config_path()?;
        let mut config = ClientConfig::load(&path).map_err(|e| Failure::usage(e.to_string()))?;
        if !self.common.nodes.is_empty() {
            config.nodes.clone_from(&self.common.nodes);
        }
        if let Some(timeout) = self.common.timeout {
            config.timeout = timeout;
        }
        Ok(config)
    }
}

/// How long a command waits for its configuration to appear, and how often it looks.
const CONFIG_PATIENCE: Duration = Duration::from_millis(400);
const CONFIG_LOOK_EVERY: Duration = Duration::from_millis(10);

/// The file that was named, or the first of the two default ones that is there.
fn config_path(named: Option<&Path>, home: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        if !path.is_file() {
            return Err(Failure::usage(format!(
                "no client configuration at {}: `meshctl init DIR` writes one to DIR/client/client.toml",
                path.display()
            )));
        }
        return Ok(path.to_owned());
    }
    let mut places = vec![PathBuf::from("mesh/client/client.toml")];
    places.extend(home.map(|home| home.join(".config/meshctl/client.toml")));
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let places: Vec<String> = places
        .iter()
        .map(|place| place.display().to_string())
        .collect();
    Err(Failure::usage(format!(
        "no client configuration ({}): name one with --config or MESHCTL_CONFIG, or make a cluster with `meshctl init mesh`",
        places.join(", ")
    )))
}
