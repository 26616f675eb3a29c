//! Copies compared because a test asks for it.

use mesh_net::client::{NodeRepair, RepairReport};

use super::Cluster;
use crate::support::within;

/// For node.toml: nothing is compared or healed unless somebody asks for it.
pub(crate) const NEVER: &str = "repair_every_seconds = 0\n";

impl Cluster {
    /// Everything compared, by everyone with everyone: again, where a node does not know yet that another one is back. What all
    /// attempts did is in the report.
    pub(crate) async fn repair(&self) -> RepairReport {
        let client = self.any_client().await;
        let mut all = RepairReport::default();
        self.eventually("every copy is compared", async || {
            let report = within(client.repair(None)).await.unwrap();
            let whole = report.silent.is_empty() && report.missed.is_empty();
            all.nodes.extend(report.nodes);
            whole
        })
        .await;
        client.close().await;
        all
    }
}

/// What all nodes have done of something.
pub(crate) fn sum(report: &RepairReport, of: impl Fn(&NodeRepair) -> u64) -> u64 {
    report.nodes.iter().map(of).sum()
}
