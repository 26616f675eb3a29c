//! The servers, plain TCP.

use bench_drive::Result;
use bench_drive::tool::{self, Asked};
use tokio::process::Child;

/// When a server fsyncs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sync {
    /// Before it acknowledges.
    Always,
    /// As it comes: every two minutes.
    Seldom,
}

/// Servers that run. They are killed, each by its own process id, when this is dropped.
pub struct Servers {
    children: Vec<Child>,
    /// Where clients reach each of them.
    pub addresses: Vec<String>,
}

impl Servers {
    /// Starts so many, with what earlier ones have left in the folder.
    pub fn start(asked: &Asked, count: usize, sync: Sync) -> Result<Self> {
        let ports = tool::free_ports(2 * count)?;
        let (clients, routes) = ports.split_at(count);
        let url = |port: &u16| format!("nats://127.0.0.1:{port}");
        let peers: Vec<String> = routes.iter().map(url).collect();
        let always = match sync {
            Sync::Always => ", sync_interval: always",
            Sync::Seldom => "",
        };
        let mut children = Vec::new();
        for n in 0..count {
            let cluster = if count == 1 {
                String::new()
            } else {
                let (route, peers) = (routes[n], peers.join(", "));
                format!("cluster {{ name: c, listen: \"127.0.0.1:{route}\", routes: [{peers}] }}")
            };
            let (client, store) = (clients[n], asked.dir.join(format!("n{n}")));
            let config = format!(
                "server_name: n{n}\nlisten: \"127.0.0.1:{client}\"\n\
                 jetstream {{ store_dir: {store:?}, max_mem: 1G, max_file: 40G{always} }}\n{cluster}\n"
            );
            let file = asked.dir.join(format!("n{n}.conf"));
            std::fs::write(&file, config)?;
            let mut server = tool::server(&asked.server, &asked.dir.join(format!("n{n}.log")))?;
            children.push(server.arg("-c").arg(&file).spawn()?);
        }
        Ok(Self {
            children,
            addresses: clients.iter().map(url).collect(),
        })
    }

    /// Lets each write what it has and end.
    pub async fn stop(self) -> Result<()> {
        for child in self.children {
            tool::stop(child).await?;
        }
        Ok(())
    }

    /// Ends them at once.
    pub async fn kill(mut self) -> Result<()> {
        for child in &mut self.children {
            child.kill().await?;
        }
        Ok(())
    }
}
