//! Nodes that are let in, drained and removed.

use mesh_net::client::{ClientError, ClusterChange};

use super::{Cluster, server::free_addresses};
use crate::support::within;

impl Cluster {
    /// Lets a new node in, with more lines in its node.toml; it is not running yet.
    pub(crate) async fn admit(&mut self, more: &str) -> usize {
        let node = self.add(free_addresses(1)[0]);
        self.prepare(node, None, more);
        let server = &self.servers[node];
        self.change(ClusterChange::Admit {
            node: server.identity.node,
            name: server.identity.name.clone(),
            address: server.addr.to_string(),
            zone: String::new(),
        })
        .await;
        node
    }

    /// Changes the ring, through whichever node answers.
    pub(crate) async fn change(&self, change: ClusterChange) {
        let client = self.any_client().await;
        // Without an answer it may have been done; every change may be asked for again.
        let changing = async {
            loop {
                match client.change_cluster(change.clone()).await {
                    Err(ClientError::Unavailable(_)) => {}
                    changed => return changed,
                }
            }
        };
        within(changing).await.unwrap();
        client.close().await;
    }
}
