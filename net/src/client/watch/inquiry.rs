//! What a watch has to ask beside its streams: where things are, and whether a key is gone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::cover::WatchMap;
use crate::client::ClientError;
use crate::client::links::Links;
use crate::client::unary::Repeat;
use crate::wire::proto::{self, reply, request};

/// How often, and how soon, a newer map is asked for again.
const NEWER_TRIES_MAX: usize = 20;
const NEWER_PAUSE: Duration = Duration::from_millis(20);
/// How long the answer about a key is kept back that nobody could give.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(1);

/// What was found.
#[derive(Debug)]
pub(super) enum Found {
    Map(Result<WatchMap, ClientError>),
    /// Whether there is a value under the key; `None`: it could not be told.
    Key(Bytes, Option<bool>),
}

/// Asks for the cluster map, best one of version `wanted`: the first node that answers may not have it yet.
pub(super) async fn map(links: Arc<Links>, wanted: u64, found: mpsc::Sender<Found>) {
    let mut map = ask_map(&links).await;
    for _ in 0..NEWER_TRIES_MAX {
        if !matches!(&map, Ok(map) if map.version < wanted) {
            break;
        }
        sleep(NEWER_PAUSE).await;
        map = ask_map(&links).await;
    }
    // The watch may have ended.
    let _ = found.send(Found::Map(map)).await;
}

async fn ask_map(links: &Links) -> Result<WatchMap, ClientError> {
    // What a stream does about a node that is silent depends on whether there are others.
    let _ = links.learn(Instant::now() + links.timeout).await;
    let asked = request::Kind::Map(proto::GetMap {
        known: 0,
        exact: false,
    });
    let answer = links
        .ask("watch", Repeat::Safe, asked, Bytes::new())
        .await?;
    let (reply::Kind::Map(_), body) = answer.one()? else {
        return Err(ClientError::protocol("another kind of answer"));
    };
    let map =
        proto::ClusterMap::decode(body).map_err(|_| ClientError::protocol("an ill-formed map"))?;
    let contacts = links.contacts();
    let near = contacts.first().map(|link| link.address().clone());
    WatchMap::of(&map, near)
}

/// Asks a majority whether there is a value under the key.
pub(super) async fn key(links: Arc<Links>, key: Bytes, found: mpsc::Sender<Found>) {
    let has_value = ask_key(&links, &key).await.ok();
    if has_value.is_none() {
        sleep(UNKNOWN_PAUSE).await;
    }
    let _ = found.send(Found::Key(key, has_value)).await;
}

async fn ask_key(links: &Links, key: &Bytes) -> Result<bool, ClientError> {
    let get = request::Kind::Get(proto::Get {
        key: key.clone(),
        read: None,
    });
    let answer = links.ask("watch", Repeat::Safe, get, Bytes::new()).await?;
    let mut replies = answer.replies.iter();
    Ok(replies
        .any(|(kind, _)| matches!(kind, reply::Kind::Values(part) if !part.values.is_empty())))
}
