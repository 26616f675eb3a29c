//! Three members of an etcd cluster, as it comes: every write in a log that is fsynced before it is acknowledged. Plain TCP.

use std::path::Path;

use bench_drive::tool;
use tokio::process::Child;

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
        let ports = tool::free_ports(2 * count)?;
        let url = |port: &u16| format!("http://127.0.0.1:{port}");
        let (clients, peers) = ports.split_at(count);
        let members: Vec<String> = (0..count)
            .map(|n| format!("n{n}={}", url(&peers[n])))
            .collect();
        let mut children = Vec::new();
        for n in 0..count {
            let (client, peer) = (url(&clients[n]), url(&peers[n]));
            let child = tool::server(server.as_ref(), &dir.join(format!("n{n}.log")))?
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
