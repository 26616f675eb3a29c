//! Clients of a cluster, and what its nodes tell them about it.

use std::time::Duration;

use mesh_net::client::{Client, ClientConfig, ClusterView, NodeState, NodeStatus};
use quinn::Connection;

use super::{Cluster, partition};
use crate::support::{connect, within};

impl Cluster {
    /// What an administrator who knows these nodes connects with.
    fn config(&self, nodes: &[usize]) -> ClientConfig {
        let addresses = nodes
            .iter()
            .map(|node| self.servers[*node].addr.to_string());
        ClientConfig::new(addresses.collect(), self.admin.clone())
    }

    /// A client that is told of these nodes only; it learns of the others by itself.
    pub(crate) async fn client(&self, nodes: &[usize]) -> Client {
        self.client_with(nodes, |_| {}).await
    }

    pub(crate) async fn client_with(
        &self,
        nodes: &[usize],
        change: impl FnOnce(&mut ClientConfig),
    ) -> Client {
        let mut config = self.config(nodes);
        change(&mut config);
        within(Client::connect(config)).await.unwrap()
    }

    /// A client that gives up soon.
    pub(crate) async fn hasty_client(&self, nodes: &[usize]) -> Client {
        let soon = Duration::from_millis(1_500);
        self.client_with(nodes, |config| config.timeout = soon)
            .await
    }

    pub(crate) async fn any_client(&self) -> Client {
        let running: Vec<_> = self.running().collect();
        self.client(&running).await
    }

    /// A bare connection, for what is asked of this very node.
    pub(crate) async fn connection(&self, node: usize) -> Connection {
        connect(self.servers[node].addr, &self.admin).await
    }

    /// The map as a node has it.
    pub(crate) async fn view(&self, node: usize) -> ClusterView {
        let client = self.client(&[node]).await;
        let view = within(client.cluster()).await.unwrap();
        client.close().await;
        view
    }

    pub(crate) async fn status(&self, node: usize) -> NodeStatus {
        let client = self.client(&[node]).await;
        let status = within(client.node_status()).await.unwrap();
        client.close().await;
        status
    }

    pub(super) async fn view_and_status(&self, node: usize) -> (ClusterView, NodeStatus) {
        let client = self.client(&[node]).await;
        let view = within(client.cluster()).await.unwrap();
        let status = within(client.node_status()).await.unwrap();
        client.close().await;
        (view, status)
    }

    pub(crate) fn state_in(&self, view: &ClusterView, node: usize) -> Option<NodeState> {
        view.node(self.id(node)).map(|node| node.state)
    }

    /// The node that leads a topic's partition, as the map of some running node has it.
    pub(crate) async fn leader_of(&self, topic: &str) -> usize {
        let some = self.running().next().unwrap();
        let view = self.view(some).await;
        self.number(partition(&view, topic).leader.unwrap())
    }

    /// A topic that `node` leads.
    pub(crate) async fn topic_led_by(&self, node: usize) -> String {
        let view = self.view(node).await;
        let led = |topic: &String| partition(&view, topic).leader == Some(self.id(node));
        let topics = (0..1_000).map(|number| format!("topic-{number}"));
        topics.into_iter().find(led).unwrap()
    }
}
