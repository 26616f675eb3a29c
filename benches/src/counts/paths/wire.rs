//! Frames, without a network.

use bytes::{Bytes, BytesMut};
use mesh_net::wire::frame::{Chunks, FrameReader, encode_head};
use mesh_net::wire::proto::{self, reply, request};
use prost::Message;

use super::engine::{RECORD_BYTES, Stage};
use crate::Result;
use crate::counts::measured;
use crate::payload::Payload;

const FRAMES: u64 = 2048;
/// Records of a batch that a busy producer gathers.
const GATHERED: usize = 16;

fn append(number: u64) -> proto::Append {
    proto::Append {
        request: 1_000_000 + number,
        topic: "orders/eu/1".into(),
        create: false,
        expected_offset: None,
        incarnation: Some(proto::TopicId {
            partition: 7,
            id: 4711,
        }),
    }
}

pub(super) fn write() -> Result<u64> {
    let payload = Payload::new(RECORD_BYTES);
    let bodies: Vec<Bytes> = (0..FRAMES)
        .map(|number| Bytes::copy_from_slice(payload.value(number)))
        .collect();
    measured(&mut || {
        let mut chunks = Chunks::default();
        for (number, body) in (0..).zip(&bodies) {
            chunks.push_frame(&append(number), [body.clone()])?;
        }
        std::hint::black_box(chunks.bytes());
        Ok(())
    })?;
    Ok(FRAMES)
}

pub(super) fn read() -> Result<u64> {
    let payload = Payload::new(RECORD_BYTES);
    let mut stream = BytesMut::new();
    for number in 0..FRAMES {
        stream.extend_from_slice(&encode_head(&append(number), RECORD_BYTES)?);
        stream.extend_from_slice(payload.value(number));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    measured(&mut || {
        runtime.block_on(async {
            let mut reader = FrameReader::new(&stream[..]);
            let mut frames = 0;
            while let Some((append, length)) = reader.header::<proto::Append>().await? {
                let body = reader.body_vec(length).await?;
                std::hint::black_box((append, body));
                frames += 1;
            }
            all(frames, FRAMES)
        })
    })?;
    Ok(FRAMES)
}

pub(super) fn request() -> Result<u64> {
    let payload = Payload::new(100);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    measured(&mut || {
        runtime.block_on(async {
            for number in 0..FRAMES {
                let (asked, value) = there(&put(number), payload.value(number)).await?;
                std::hint::black_box((asked, value));
                let (told, _): (proto::Reply, _) = there(&written(), &[]).await?;
                std::hint::black_box(told);
            }
            Ok(())
        })
    })?;
    Ok(FRAMES)
}

/// What a client and a node do for a publish between their transports: encoded, framed, read, checked, ordered, made
/// durable, answered. QUIC is not in it: how many packets it sends depends on timers, and so on how busy the machine is.
pub(super) fn publish() -> Result<u64> {
    const PUBLISHES: u64 = 256;
    const WARM: u64 = 32;
    let stage = Stage::new(RECORD_BYTES)?;
    let topic = stage.topic(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let publish = |number: u64| {
        let batch = stage.batch(number * GATHERED as u64, GATHERED)?;
        let appended = runtime.block_on(async {
            let (sent, body) = there(&append(number), &batch).await?;
            let batch = body.to_vec();
            let done = stage.engine.append(mesh_engine::Append {
                topic,
                batch,
                expected: sent.expected_offset,
            })?;
            let answer = proto::Appends {
                fatal: None,
                appended: vec![appended(sent.request, done)],
                synced: vec!["n1".into(), "n2".into()],
            };
            let (answer, _) = there(&answer, &[]).await?;
            Ok::<_, crate::Error>(answer.appended)
        })?;
        all(appended.len() as u64, 1)
    };
    (0..WARM).try_for_each(publish)?;
    measured(&mut || (WARM..WARM + PUBLISHES).try_for_each(publish))?;
    Ok(PUBLISHES)
}

fn appended(request: u64, done: mesh_engine::Appended) -> proto::Appended {
    proto::Appended {
        request,
        first: done.first,
        last: done.last,
        epoch: done.epoch.0,
        synced: Vec::new(),
        duplicate: done.duplicate,
        ..proto::Appended::default()
    }
}

/// Lays a message and its body on a stream, and reads it there.
async fn there<M: Message + Default>(message: &M, body: &[u8]) -> Result<(M, Bytes)> {
    let mut stream = BytesMut::new();
    stream.extend_from_slice(&encode_head(message, body.len())?);
    stream.extend_from_slice(body);
    let frame = FrameReader::new(&stream[..]).frame().await?;
    Ok(frame.ok_or("a frame is missing")?)
}

fn put(number: u64) -> proto::Request {
    proto::Request::new(request::Kind::Put(proto::Put {
        key: crate::work::key(number).to_vec().into(),
        write: Some(2),
        ..proto::Put::default()
    }))
}

fn written() -> proto::Reply {
    proto::Reply {
        kind: Some(reply::Kind::Written(proto::Written {
            context: vec![7; 60].into(),
            acknowledged: vec!["n1".into(), "n2".into()],
            hinted: Vec::new(),
            version: "0202020202020202.3.123456".into(),
        })),
    }
}

fn all(found: u64, wanted: u64) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{found} of {wanted} frames or answers came").into())
    }
}
