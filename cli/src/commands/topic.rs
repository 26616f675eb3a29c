//! `meshctl topic`: create, describe, delete, list and trim topics.

use std::time::Duration;

use clap::Subcommand;
use mesh_net::client::{Client, TopicConfig, TopicDescription};
use serde_json::json;

use crate::error::Failure;
use crate::session::Session;
use crate::time::{human_duration, parse_duration};
use crate::units::{grouped, human_bytes, parse_bytes};

/// Names asked for at a time.
const PAGE: u32 = 1000;

/// Create, describe, delete, list and trim topics
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl topic create audit --retention-age 30d --retention-bytes 10GiB
  meshctl topic describe audit
  meshctl topic list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    Create(Create),
    Describe(Describe),
    Delete(Delete),
    List(List),
    Trim(Trim),
}

/// Create a topic
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl topic create audit
  meshctl topic create metrics --retention-age 7d --retention-bytes 1GiB --if-not-exists

Without retention a topic keeps its records for ever. Publishing creates a missing topic, too.")]
struct Create {
    /// The topic, up to 255 bytes
    topic: String,
    /// Drop records older than this, such as 12h or 7d
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    retention_age: Option<Duration>,
    /// Drop the oldest records beyond this size, such as 500MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    retention_bytes: Option<u64>,
    /// Succeed, and change nothing, where the topic is already there
    #[arg(long)]
    if_not_exists: bool,
}

/// Show a topic's offsets, size and place
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl topic describe audit --output json")]
struct Describe {
    /// The topic
    topic: String,
}

/// Delete a topic and its records
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl topic delete audit

A topic made again under the same name is another one: it starts at offset 0.")]
struct Delete {
    /// The topic
    topic: String,
}

/// List topics in order
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl topic list
  meshctl topic list metrics. --limit 20")]
struct List {
    /// Only topics that begin with this
    #[arg(default_value = "")]
    prefix: String,
    /// Stop after this many topics
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Drop the records before an offset
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshctl topic trim audit --before 20000

The records are gone for every reader at once; their disk space follows within a while.")]
struct Trim {
    /// The topic
    topic: String,
    /// The first offset to keep
    #[arg(long, value_name = "OFFSET")]
    before: u64,
}

pub(crate) async fn run(args: Args, session: &mut Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    match args.command {
        TopicCommand::Create(args) => create(&args, &client, session).await?,
        TopicCommand::Describe(args) => describe(&args, &client, session).await?,
        TopicCommand::Delete(args) => delete(&args, &client, session).await?,
        TopicCommand::List(args) => list(&args, &client, session).await?,
        TopicCommand::Trim(args) => trim(&args, &client, session).await?,
    }
    client.close().await;
    Ok(())
}

async fn create(args: &Create, client: &Client, session: &mut Session) -> Result<(), Failure> {
    let config = TopicConfig {
        retention_age_ms: args
            .retention_age
            .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        retention_bytes: args.retention_bytes,
    };
    let topic = client
        .create_topic(&args.topic, config, args.if_not_exists)
        .await?;
    if session.out.is_json() {
        return session.out.json(&object(&topic));
    }
    session
        .out
        .confirm(format!("topic {} is there", topic.name))
}

async fn describe(args: &Describe, client: &Client, session: &mut Session) -> Result<(), Failure> {
    let topic = client.describe_topic(&args.topic).await?;
    if session.out.is_json() {
        return session.out.json(&object(&topic));
    }
    let for_ever = || "for ever".to_owned();
    let age = topic.config.retention_age_ms.map(human_duration);
    let size = topic.config.retention_bytes.map(human_bytes);
    session.out.facts(&[
        ("topic", topic.name.clone()),
        ("partition", topic.partition.to_string()),
        ("first offset", topic.first.to_string()),
        ("next offset", topic.next.to_string()),
        ("records", grouped(topic.next.saturating_sub(topic.first))),
        (
            "bytes",
            format!("{} ({})", topic.bytes, human_bytes(topic.bytes)),
        ),
        ("leader", topic.leader.clone()),
        ("epoch", topic.epoch.to_string()),
        ("replicas", topic.replicas.join(", ")),
        ("kept, by age", age.unwrap_or_else(for_ever)),
        ("kept, by size", size.unwrap_or_else(for_ever)),
    ])
}

async fn delete(args: &Delete, client: &Client, session: &mut Session) -> Result<(), Failure> {
    client.delete_topic(&args.topic).await?;
    if session.out.is_json() {
        return session
            .out
            .json(&json!({"topic": args.topic, "deleted": true}));
    }
    session
        .out
        .confirm(format!("topic {} is deleted", args.topic))
}

async fn list(args: &List, client: &Client, session: &mut Session) -> Result<(), Failure> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after: Option<String> = None;
    while left > 0 {
        let limit = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let names = client
            .list_topics(&args.prefix, after.as_deref(), limit)
            .await?;
        for name in &names {
            if session.out.is_json() {
                session.out.json(&json!({"topic": name}))?;
            } else {
                session.out.line(name)?;
            }
        }
        left -= (names.len() as u64).min(left);
        match names.into_iter().next_back() {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    Ok(())
}

async fn trim(args: &Trim, client: &Client, session: &mut Session) -> Result<(), Failure> {
    let first = client.trim_topic(&args.topic, args.before).await?;
    if session.out.is_json() {
        return session
            .out
            .json(&json!({"topic": args.topic, "first_offset": first}));
    }
    session
        .out
        .confirm(format!("topic {} now begins at offset {first}", args.topic))
}

fn object(topic: &TopicDescription) -> serde_json::Value {
    json!({
        "topic": topic.name,
        "partition": topic.partition,
        "first_offset": topic.first,
        "next_offset": topic.next,
        "bytes": topic.bytes,
        "leader": topic.leader,
        "epoch": topic.epoch,
        "replicas": topic.replicas,
        "retention_age_ms": topic.config.retention_age_ms,
        "retention_bytes": topic.config.retention_bytes,
    })
}
