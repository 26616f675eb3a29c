//! `meshctl node plan`: what a change of the ring would move.

use std::path::PathBuf;

use clap::Subcommand;
use mesh_net::client::Client;
use mesh_ring::ids::{NodeId, PartitionId};
use mesh_ring::map::ClusterMap;
use mesh_ring::placement::{self, Change, Plan};
use serde_json::{Value, json};

use super::{Candidate, connect_from};
use crate::commands::info::known;
use crate::error::Failure;
use crate::session::Session;
use crate::survey::{Survey, survey};
use crate::units::human_bytes;

/// Show what a change of the ring would move, and change nothing
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl node plan join mesh/n4
  meshctl node plan drain n2 --output json
  meshctl node plan remove n3
  meshctl node plan rebalance")]
pub(crate) struct Args {
    #[command(subcommand)]
    change: PlanCommand,
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// What a node would be given that joins
    #[command(after_help = "Example:\n  meshctl node plan join mesh/n4")]
    Join {
        /// The node's folder, made by `meshctl node new`
        folder: PathBuf,
    },
    /// Where everything would go that a node holds
    #[command(after_help = "Example:\n  meshctl node plan drain n2")]
    Drain {
        /// The node's name
        node: String,
    },
    /// What would be made anew if a node were given up
    #[command(after_help = "Example:\n  meshctl node plan remove n3")]
    Remove {
        /// The node's name
        node: String,
    },
    /// What evening the partitions out would move
    #[command(after_help = "Example:\n  meshctl node plan rebalance")]
    Rebalance,
}

pub(super) async fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    let client = match &args.change {
        PlanCommand::Join { folder } => connect_from(folder, session).await?,
        _ => session.connect().await?,
    };
    let planned = Planned::make(&client, session, &args.change).await?;
    client.close().await;
    if session.out.is_json() {
        return session.out.json(&planned.object());
    }
    planned.print(session)
}

/// A plan, and what is needed to put it into words.
struct Planned {
    plan: Plan,
    survey: Survey,
    /// The node that would join, whom the cluster does not know.
    candidate: Option<Candidate>,
}

impl Planned {
    async fn make(
        client: &Client,
        session: &Session,
        change: &PlanCommand,
    ) -> Result<Self, Failure> {
        let survey = survey(client, session).await?;
        let map: ClusterMap = client.cluster_map().await?;
        let id = |name: &str| Ok::<_, Failure>(known(&survey.cluster, name)?.id);
        let mut candidate = None;
        let change = match change {
            PlanCommand::Join { folder } => {
                let node = candidate.insert(Candidate::load(folder)?);
                Change::Join {
                    node: node.id,
                    name: node.name.clone(),
                    zone: node.zone.clone(),
                }
            }
            PlanCommand::Drain { node } => Change::Drain { node: id(node)? },
            PlanCommand::Remove { node } => Change::Remove { node: id(node)? },
            PlanCommand::Rebalance => Change::Rebalance,
        };
        let plan = placement::plan(&map, &change).map_err(|e| Failure::failed(e.to_string()))?;
        Ok(Self {
            plan,
            survey,
            candidate,
        })
    }

    fn name(&self, id: NodeId) -> String {
        match &self.candidate {
            Some(candidate) if candidate.id == id => candidate.name.clone(),
            _ => self.survey.name(id),
        }
    }

    /// What a copy of this partition sends, about.
    fn bytes(&self, partition: PartitionId) -> u64 {
        let partition = self.survey.cluster.partitions.get(usize::from(partition.0));
        partition.map_or(0, |partition| self.survey.bytes(partition))
    }

    /// Bytes that all moves send together, about.
    fn total(&self) -> u64 {
        let sent = self.plan.moves.iter().filter(|one| one.to.is_some());
        sent.map(|one| self.bytes(one.partition)).sum()
    }

    fn object(&self) -> Value {
        let name = |id: Option<NodeId>| id.map(|id| self.name(id));
        let moves = self.plan.moves.iter().map(|one| {
            json!({
                "partition": one.partition.0,
                "from": name(one.from),
                "to": name(one.to),
                "bytes": if one.to.is_some() { self.bytes(one.partition) } else { 0 },
            })
        });
        json!({
            "moves": moves.collect::<Vec<Value>>(),
            "bytes": self.total(),
            "leaders": numbers(&self.plan.leaders),
            "exposed": numbers(&self.plan.exposed),
        })
    }

    fn print(&self, session: &mut Session) -> Result<(), Failure> {
        let out = &mut session.out;
        let name = |id: Option<NodeId>| id.map_or_else(|| "-".to_owned(), |id| self.name(id));
        let rows: Vec<Vec<String>> = self
            .plan
            .moves
            .iter()
            .map(|one| {
                let bytes = if one.to.is_some() {
                    self.bytes(one.partition)
                } else {
                    0
                };
                vec![
                    one.partition.0.to_string(),
                    name(one.from),
                    name(one.to),
                    human_bytes(bytes),
                ]
            })
            .collect();
        if !rows.is_empty() {
            out.table(&["partition", "from", "to", "size"], &rows)?;
        }
        out.line(format!(
            "{} copies move, about {}; {} partitions change their leader",
            rows.len(),
            human_bytes(self.total()),
            self.plan.leaders.len()
        ))?;
        out.line(self.redundancy())
    }

    /// Who loses redundancy meanwhile.
    fn redundancy(&self) -> String {
        match &self.plan.exposed[..] {
            [] => "every partition keeps all of its copies on the way".to_owned(),
            exposed => {
                let numbers: Vec<String> = exposed.iter().map(|id| id.0.to_string()).collect();
                format!(
                    "{} partitions have fewer copies until it is done: {}",
                    exposed.len(),
                    numbers.join(", ")
                )
            }
        }
    }
}

fn numbers(partitions: &[PartitionId]) -> Vec<u16> {
    partitions.iter().map(|partition| partition.0).collect()
}
