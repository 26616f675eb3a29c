//! Three members of an etcd cluster, as it comes: every write in a log that is fsynced before it is acknowledged. Plain TCP.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::Failure;

/// The members that run. They are killed, each by its own process id, when this is dropped or stopped.
pub struct Servers {
    children: Vec<Child>,
    /// Where clients reach each of them.
    pub addresses: Vec<String>,
}

impl Servers {
    /// Starts `count` members with their data in `dir`.
    pub fn start(server: &str, count: usize, dir: &Path) -> Result<Self, Failure> {
        let ports = free_ports(2 * count)?;
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = ports.split_at(count);
        let members: Vec<String> = (0..count)
            .map(|n| format!("n{n}={}", url(&peers[n])))
            .collect();
        let mut children = Vec::new();
        for n in 0..count {
            let (client, peer) = (url(&clients[n]), url(&peers[n]));
            let child = Command::new(server)
                .env_clear()
                .args(["--name", &format!("n{n}")])
                .arg("--data-dir")
                .arg(dir.join(format!("n{n}")))
                .args(["--listen-client-urls", &client])
                .args(["--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &members.join(",")])
                .args(["--initial-cluster-state", "new"])
                .args(["--logger", "zap", "--log-level", "warn"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(dir.join(format!("n{n}.log")))?)
                .kill_on_drop(true)
                .spawn()?;
            children.push(child);
        }
        Ok(Self {
            children,
            addresses: clients.iter().map(url).collect(),
        })
    }

    /// Kills them all and waits until they are gone.
    pub async fn stop(mut self) -> Result<(), Failure> {
        for child in &mut self.children {
            child.kill().await?;
        }
        Ok(())
    }
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()));
    ports.collect()
}
