//! `meshctl routes`: where a key or a topic lives.

use std::ffi::OsString;

use bytes::Bytes;
use mesh_net::client::ClusterView;
use mesh_ring::hash::KeyHash;
use mesh_ring::name::{BindingKey, TopicName};
use serde_json::json;

use crate::error::Failure;
use crate::json::{Object, put_bytes};
use crate::session::Session;
use crate::survey::{self, names};
use crate::values;

/// Show where a key or a topic lives
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl routes user:123
  meshctl routes --topic commits --output json

Computed from the name alone: the key or topic need not exist.")]
pub(crate) struct Args {
    /// The key
    #[arg(required_unless_present = "topic")]
    key: Option<OsString>,
    /// The topic
    #[arg(long, value_name = "TOPIC", conflicts_with = "key")]
    topic: Option<String>,
}

impl Args {
    /// What kind of name it is, and the name.
    fn subject(&self) -> Result<(&'static str, Bytes), Failure> {
        let refused = |e: mesh_ring::name::NameError| Failure::usage(e.to_string());
        if let Some(topic) = &self.topic {
            let name = TopicName::new(topic).map_err(refused)?;
            return Ok(("topic", Bytes::copy_from_slice(name.as_bytes())));
        }
        let key = values::argument(self.key.as_deref().unwrap_or_default());
        BindingKey::new(&key).map_err(refused)?;
        Ok(("key", key))
    }
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let (kind, name) = args.subject()?;
    let client = session.connect().await?;
    let cluster = client.cluster().await?;
    client.close().await;
    let hash = KeyHash::of(&name);
    let partition = hash.partition(partition_count(&cluster));
    let held = cluster.partitions.get(usize::from(partition.0));
    let replicas = held
        .map(|held| names(&cluster, &held.replicas))
        .unwrap_or_default();
    let leader = held.and_then(|held| Some(survey::name(&cluster, held.leader?)));
    let epoch = held.map_or(0, |held| held.epoch.0);
    if session.out.is_json() {
        let mut object = Object::new();
        put_bytes(&mut object, kind, &name);
        object.insert("hash".to_owned(), hash.to_string().into());
        object.insert("partition".to_owned(), partition.0.into());
        object.insert("replicas".to_owned(), json!(replicas));
        object.insert("leader".to_owned(), json!(leader));
        object.insert("epoch".to_owned(), epoch.into());
        return session.out.json(&object);
    }
    session.out.facts(&[
        (kind, String::from_utf8_lossy(&name).into_owned()),
        ("hash", hash.to_string()),
        ("partition", partition.to_string()),
        ("replicas", replicas.join(", ")),
        (
            "leader",
            leader.unwrap_or_else(|| "nobody just now".to_owned()),
        ),
        ("epoch", epoch.to_string()),
    ])
}

fn partition_count(cluster: &ClusterView) -> u16 {
    u16::try_from(cluster.partitions.len()).unwrap_or(u16::MAX)
}
