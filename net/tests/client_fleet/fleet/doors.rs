//! Connections and requests that come to a node.

use bytes::Bytes;
use mesh_net::{
    identity::Peer,
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{self, ErrorCode, MapIs, Reply, Request, reply, request},
    },
};
use prost::Message;
use quinn::{Endpoint, RecvStream};
use tokio::task::JoinSet;

use super::{
    Shared, appends, tails,
    world::{World, error, topic_id},
};

pub(super) async fn accept(endpoint: Endpoint, node: usize, shared: Shared) {
    let mut tasks = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        let shared = shared.clone();
        tasks.spawn(async move {
            let Ok(connection) = incoming.await else {
                return;
            };
            {
                let mut world = shared.0.lock().unwrap();
                let peer = Peer::of_connection(&connection).unwrap();
                world.came.push(peer.fingerprint);
                world.connections[node].push(connection.clone());
            }
            let mut streams = JoinSet::new();
            while let Ok((send, receive)) = connection.accept_bi().await {
                let (writer, reader) = (FrameWriter::new(send), FrameReader::new(receive));
                streams.spawn(serve(node, shared.clone(), reader, writer));
            }
        });
    }
}

async fn serve(
    node: usize,
    shared: Shared,
    mut reader: FrameReader<RecvStream>,
    mut writer: FrameWriter,
) {
    let Ok(Some((request, _))) = reader.frame::<Request>().await else {
        return;
    };
    let (kind, body) = match request.kind.unwrap() {
        request::Kind::Append(_) => return appends::serve(node, shared, reader, writer).await,
        request::Kind::Tail(open) => {
            let _ = tails::serve(node, &shared, &mut writer, open).await;
            writer.finish();
            return writer.delivered().await;
        }
        kind => answer(node, &shared, kind),
    };
    let _ = writer.frame(&Reply { kind: Some(kind) }, [body]).await;
    writer.finish();
    writer.delivered().await;
}

fn answer(node: usize, shared: &Shared, kind: request::Kind) -> (reply::Kind, Bytes) {
    let mut world = shared.0.lock().unwrap();
    let kind = match kind {
        request::Kind::Map(asked) => {
            let version = world.version;
            let map = (asked.known < version).then(|| world.map().encode_to_vec().into());
            return (reply::Kind::Map(MapIs { version }), map.unwrap_or_default());
        }
        request::Kind::CreateTopic(create) if world.topics.contains_key(&create.name) => {
            reply::Kind::Error(error(ErrorCode::TopicExists))
        }
        request::Kind::CreateTopic(create) => {
            world.created[node] += 1;
            world.topic(&create.name);
            described(&world, node, &create.name)
        }
        request::Kind::DescribeTopic(describe) => described(&world, node, &describe.name),
        request::Kind::Info(_) => reply::Kind::Info(proto::Info {
            name: format!("n{node}"),
            node: Bytes::from(vec![node as u8; 16]),
            cluster: Bytes::from(vec![1; 16]),
            ..Default::default()
        }),
        _ => reply::Kind::Error(error(ErrorCode::Internal)),
    };
    (kind, Bytes::new())
}

fn described(world: &World, node: usize, name: &str) -> reply::Kind {
    match world.topics.get(name) {
        Some(topic) => reply::Kind::Topic(proto::Topic {
            name: name.into(),
            topic: Some(topic_id(0, topic.id)),
            next: topic.next,
            leader: format!("n{node}"),
            ..Default::default()
        }),
        None => reply::Kind::Error(error(ErrorCode::TopicNotFound)),
    }
}
