//! `meshctl verify`: whether all replicas of a topic hold the same bytes.

use std::fmt::Write;
use std::time::Duration;

use mesh_net::client::{Client, ClientConfig, ClientError, NodeState, TopicDescription, TopicHash};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::error::Failure;
use crate::session::Session;
use crate::survey::name;
use crate::units::grouped;

/// Longest time that a node is asked which the cluster takes for dead.
const DOWN_ANSWER_MAX: Duration = Duration::from_secs(3);

/// Compare what all replicas of a topic hold, and read every record again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl verify commits
  meshctl verify commits --output json

Each replica reads its own copy from the disk, checks every record, and gives the root of their hashes. Exits with 1
where two replicas differ or a record is damaged, and with 4 where a replica cannot be asked.")]
pub(crate) struct Args {
    /// The topic
    topic: String,
}

/// One replica's answer.
struct Verdict {
    node: String,
    hash: Result<TopicHash, ClientError>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let topic = client.describe_topic(&args.topic).await?;
    let verdicts = ask_replicas(&client, session, &topic).await?;
    client.close().await;
    let roots: Vec<[u8; 32]> = answered(&verdicts).map(|hash| hash.root).collect();
    let damaged: u64 = answered(&verdicts).map(|hash| hash.damaged).sum();
    let identical = roots.windows(2).all(|pair| pair[0] == pair[1]) && damaged == 0;
    print(&topic, &verdicts, identical, session)?;
    let silent = verdicts
        .iter()
        .find_map(|verdict| Some((verdict, verdict.hash.as_ref().err()?)));
    if !identical {
        return Err(Failure::failed(format!(
            "the replicas of {} do not hold the same, whole records: `meshctl repair` heals what one of them cannot read; `meshctl status` and the nodes' logs say more",
            topic.name
        )));
    }
    match silent {
        None => Ok(()),
        Some((verdict, cause)) => Err(Failure::unavailable(format!(
            "{} could not be compared: {cause}",
            verdict.node
        ))),
    }
}

/// All replicas at the same time, over the same offsets.
async fn ask_replicas(
    client: &Client,
    session: &Session,
    topic: &TopicDescription,
) -> Result<Vec<Verdict>, Failure> {
    let cluster = client.cluster().await?;
    let Some(partition) = cluster.partitions.get(usize::from(topic.partition)) else {
        return Err(Failure::failed(
            "the cluster map lacks the topic's partition",
        ));
    };
    let mut asking = JoinSet::new();
    for (place, id) in partition.replicas.iter().enumerate() {
        let mut config = session.client_config()?;
        let node = name(&cluster, *id);
        let Some(known) = cluster.node(*id) else {
            continue;
        };
        config.nodes = vec![known.address.clone()];
        if known.state == NodeState::Down {
            // It may be on its way back.
            config.timeout = config.timeout.min(DOWN_ANSWER_MAX);
        }
        let topic = topic.clone();
        asking.spawn(async move {
            let hash = ask(config, &topic).await;
            (place, Verdict { node, hash })
        });
    }
    let mut verdicts = asking.join_all().await;
    verdicts.sort_by_key(|(place, _)| *place);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

async fn ask(config: ClientConfig, topic: &TopicDescription) -> Result<TopicHash, ClientError> {
    let client = Client::connect(config).await?;
    let hash = client.hash_topic(topic, topic.first, topic.next).await;
    client.close().await;
    hash
}

fn answered(verdicts: &[Verdict]) -> impl Iterator<Item = &TopicHash> {
    verdicts
        .iter()
        .filter_map(|verdict| verdict.hash.as_ref().ok())
}

fn print(
    topic: &TopicDescription,
    verdicts: &[Verdict],
    identical: bool,
    session: &mut Session,
) -> Result<(), Failure> {
    if session.out.is_json() {
        let replica = |verdict: &Verdict| match &verdict.hash {
            Ok(hash) => json!({
                "node": verdict.node,
                "root": hex(&hash.root),
                "records": hash.records,
                "damaged": hash.damaged,
            }),
            Err(error) => json!({
                "node": verdict.node,
                "root": null,
                "records": null,
                "damaged": null,
                "error": error.to_string(),
            }),
        };
        let replicas: Vec<Value> = verdicts.iter().map(replica).collect();
        return session.out.json(&json!({
            "topic": topic.name,
            "first_offset": topic.first,
            "next_offset": topic.next,
            "replicas": replicas,
            "identical": identical,
        }));
    }
    let row = |verdict: &Verdict| {
        let cells = match &verdict.hash {
            Ok(hash) => [
                hex(&hash.root),
                grouped(hash.records),
                grouped(hash.damaged),
            ],
            Err(_) => ["-".to_owned(), "-".to_owned(), "-".to_owned()],
        };
        [vec![verdict.node.clone()], cells.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = verdicts.iter().map(row).collect();
    session
        .out
        .table(&["replica", "root", "records", "damaged"], &rows)?;
    let count = answered(verdicts).count();
    if identical && count == verdicts.len() {
        return session.out.line(match count {
            1 => "the only replica is whole".to_owned(),
            _ => format!("all {count} replicas are identical"),
        });
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
