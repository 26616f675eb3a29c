//! Requests that share a stream: answered in any order, each once, and refused from a place on that the node names.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use mesh_net::{
    client::{Client, ClientError},
    wire::{
        PROTOCOL_VERSION,
        frame::{FrameReader, FrameWriter},
        proto::{
            self, Error, ErrorCode, PipelineOpen, PipelinedReply, PipelinedRequest, Reply, Request,
            reply, request,
        },
    },
};
use quinn::{Connection, RecvStream};
use support::{Mesh, noise, within};
use tokio::task::JoinSet;

struct Pipeline {
    writer: FrameWriter,
    reader: FrameReader<RecvStream>,
}

/// What came back.
#[derive(Default)]
struct Heard {
    answers: BTreeMap<u64, Vec<reply::Kind>>,
    /// Requests beyond this were not taken, and why.
    taken: Option<(u64, Error)>,
}

impl Heard {
    fn code(&self, number: u64) -> Option<ErrorCode> {
        match self.answers[&number].last() {
            Some(reply::Kind::Error(error)) => Some(error.code()),
            _ => None,
        }
    }
}

impl Pipeline {
    async fn open(connection: &Connection) -> Self {
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        let open = Request::new(request::Kind::Pipeline(PipelineOpen {}));
        writer.header(&open).await.unwrap();
        Self {
            writer,
            reader: FrameReader::new(receive),
        }
    }

    async fn send(&mut self, number: u64, request: Request, body: Bytes) {
        let frame = PipelinedRequest {
            number,
            request: Some(request),
        };
        // The node may have stopped reading.
        let _ = self.writer.frame(&frame, [body]).await;
    }

    /// Everything until the node ends the stream, or the connection with it.
    async fn all(mut self) -> Heard {
        self.writer.finish();
        let mut heard = Heard::default();
        while let Ok(Some((frame, _))) = within(self.reader.frame::<PipelinedReply>()).await {
            if let Some(error) = frame.error {
                assert!(heard.taken.is_none(), "said twice");
                heard.taken = Some((frame.taken, error));
                continue;
            }
            let kind = frame.reply.unwrap().kind.unwrap();
            heard.answers.entry(frame.number).or_default().push(kind);
        }
        heard
    }
}

fn put(key: &str) -> Request {
    Request::new(request::Kind::Put(proto::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..proto::Put::default()
    }))
}

fn get(key: &str) -> Request {
    Request::new(request::Kind::Get(proto::Get {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..proto::Get::default()
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_answered_once_whatever_it_is() {
    let mesh = Mesh::start().await;
    let mut pipeline = Pipeline::open(&mesh.connection().await).await;
    let info = Request::new(request::Kind::Info(proto::GetInfo {}));
    let nested = Request::new(request::Kind::Pipeline(PipelineOpen {}));
    let mut forged = put("k");
    if let Some(request::Kind::Put(put)) = &mut forged.kind {
        put.ttl_ms = Some(0);
    }
    pipeline.send(1, put("k"), "v".into()).await;
    pipeline.send(2, get("k"), Bytes::new()).await;
    pipeline.send(3, info, Bytes::new()).await;
    pipeline.send(4, nested, Bytes::new()).await;
    pipeline.send(5, forged, "v".into()).await;
    let heard = pipeline.all().await;
    assert_eq!(heard.taken, None, "the caller ended it");
    assert!(matches!(heard.answers[&1][..], [reply::Kind::Written(_)]));
    assert!(matches!(heard.answers[&2][..], [reply::Kind::Values(_)]));
    assert!(matches!(heard.answers[&3][..], [reply::Kind::Info(_)]));
    assert_eq!(heard.code(4), Some(ErrorCode::Internal));
    assert_eq!(heard.code(5), Some(ErrorCode::Invalid));
    assert_eq!(heard.answers.len(), 5);
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_ends_it_behind_what_was_taken() {
    let mesh = Mesh::start().await;
    let connection = mesh.connection().await;
    let mut newer = get("k");
    newer.version = PROTOCOL_VERSION + 1;
    let mut passed_on = get("k");
    passed_on.forwarded = true;
    let bad = [
        // Out of order, of another version, passed on by a client, of no kind.
        (5, get("k"), ErrorCode::Malformed),
        (2, get("k"), ErrorCode::Malformed),
        (3, newer, ErrorCode::UnsupportedVersion),
        (3, passed_on, ErrorCode::Malformed),
        (
            3,
            Request {
                kind: None,
                ..get("k")
            },
            ErrorCode::Malformed,
        ),
    ];
    for (number, request, code) in bad {
        let mut pipeline = Pipeline::open(&connection).await;
        pipeline.send(1, put("before"), "v".into()).await;
        pipeline.send(2, get("before"), Bytes::new()).await;
        pipeline.send(number, request, Bytes::new()).await;
        pipeline.send(4, put("behind"), "v".into()).await;
        let heard = pipeline.all().await;
        let (taken, error) = heard.taken.as_ref().unwrap();
        assert_eq!((*taken, error.code()), (2, code));
        assert_eq!(heard.answers.len(), 2, "what came behind is not done");
        assert!(matches!(heard.answers[&1][..], [reply::Kind::Written(_)]));
    }
    for seed in 1..100 {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        let open = Request::new(request::Kind::Pipeline(PipelineOpen {}));
        let head = mesh_net::wire::frame::encode_head(&open, 0).unwrap();
        send.write_all(&head).await.unwrap();
        let _ = send.write_all(&noise(seed, 1 + seed as usize * 5)).await;
        let _ = send.finish();
        // Refused or dropped, and never taken for a request.
        if let Ok(Some((frame, _))) =
            within(FrameReader::new(receive).frame::<PipelinedReply>()).await
        {
            assert!(frame.error.is_some() && frame.taken == 0, "seed {seed}");
        }
    }
    assert!(connection.close_reason().is_none());
    let client = mesh.client().await;
    assert_eq!(client.get(b"behind", None).await.unwrap(), None);
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_what_it_took_and_names_the_rest() {
    let mut mesh = Mesh::start().await;
    let mut pipeline = Pipeline::open(&mesh.connection().await).await;
    pipeline.send(1, put(&key(1)), "v".into()).await;
    let first = within(pipeline.reader.frame::<PipelinedReply>()).await;
    assert_eq!(first.unwrap().unwrap().0.number, 1, "it serves");
    let node = mesh.take_node();
    let stopping = tokio::spawn(async move { node.shutdown().await });
    let mut last = 1;
    while !stopping.is_finished() {
        last += 1;
        pipeline.send(last, put(&key(last)), "v".into()).await;
    }
    let heard = pipeline.all().await;
    stopping.await.unwrap().unwrap();
    let (taken, error) = heard.taken.as_ref().expect("said where it stopped");
    assert_eq!(error.code(), ErrorCode::Stopping);
    assert!(*taken < last, "the node took all of {last} and stopped?");
    let numbers: Vec<u64> = heard.answers.keys().copied().collect();
    let all: Vec<u64> = (2..=*taken).collect();
    assert_eq!(numbers, all, "each that was taken is answered, no other");
    mesh.start_again().await;
    let there = keys(&mesh.client().await).await;
    for (number, answer) in &heard.answers {
        if let [reply::Kind::Written(_)] = answer[..] {
            assert!(there.contains(&key(*number)), "{number} was acknowledged");
        }
    }
    let mut refused = *taken + 1..=last;
    assert!(refused.all(|number| !there.contains(&key(number))));
}

fn key(number: u64) -> String {
    format!("k{number:06}")
}

/// All keys that have a value.
async fn keys(client: &Client) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    loop {
        let after: Option<&String> = all.last();
        let after = after.map(String::as_bytes);
        let page = within(client.list(b"k", after, 1_000)).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(
            page.iter()
                .map(|key| String::from_utf8_lossy(key).into_owned()),
        );
    }
}

/// Who asks and does not read is not answered for ever: what waits for him is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_nothing_fills_no_memory() {
    const ASKED: u64 = 8_000;
    const VALUE_BYTES: usize = 512 << 10;
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let value = Bytes::from(noise(1, VALUE_BYTES));
    let options = Default::default();
    client.put(b"long", value, options).await.unwrap();
    let before = resident_bytes();
    let mut pipeline = Pipeline::open(&mesh.connection().await).await;
    for number in 1..=ASKED {
        pipeline.send(number, get("long"), Bytes::new()).await;
    }
    // He reads now: all is there, a piece after the other.
    let (mut answered, mut most) = (0, 0);
    while answered < ASKED / 4 {
        let frame = within(pipeline.reader.frame::<PipelinedReply>()).await;
        let (frame, body) = frame.unwrap().unwrap();
        assert!(frame.error.is_none());
        assert_eq!(body.len(), VALUE_BYTES);
        answered += 1;
        if answered % 100 == 1 {
            most = most.max(resident_bytes());
        }
    }
    // All answers together would be 4 GiB.
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 1_024, "{grown} MiB more");
    mesh.assert_serves().await;
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes: usize = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap()
        .parse()
        .unwrap();
    kibibytes << 10
}

/// Values too long for a pipeline go by themselves, beside those that are not; nothing is mixed up.
#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_its_own_answer() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let mut calls = JoinSet::new();
    for number in 0_u64..300 {
        let client = client.clone();
        calls.spawn(async move {
            let key = format!("key-{number}");
            let long = number % 50 == 0;
            let value = Bytes::from(noise(number + 1, if long { 300_000 } else { 10 }));
            let options = Default::default();
            client.put(key.as_bytes(), value.clone(), options).await?;
            let got = client.get(key.as_bytes(), None).await?.unwrap();
            assert_eq!(got.values.len(), 1);
            assert_eq!(got.values[0].value, value, "{key}");
            Ok::<_, ClientError>(())
        });
    }
    for result in within(calls.join_all()).await {
        result.unwrap();
    }
    client.close().await;
}

/// Who gives up costs nobody else an answer, and what he asked may be done.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_harms_no_other() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    for number in 0..200_u32 {
        let key = format!("key-{number}");
        let options = Default::default();
        let hasty = client.put(key.as_bytes(), "hasty".into(), options);
        let _ = tokio::time::timeout(Duration::from_micros(u64::from(number) * 10), hasty).await;
        client
            .put(b"patient", key.clone().into(), Default::default())
            .await
            .unwrap();
        let got = client.get(b"patient", None).await.unwrap().unwrap();
        assert_eq!(&got.values[0].value[..], key.as_bytes());
    }
    client.close().await;
}

/// The opening of another stream is an error of that stream alone.
#[tokio::test(flavor = "multi_thread")]
async fn other_streams_go_on_beside_it() {
    let mesh = Mesh::start().await;
    let connection = mesh.connection().await;
    let mut pipeline = Pipeline::open(&connection).await;
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.frame(&put("k"), [Bytes::from("v")]).await.unwrap();
    writer.finish();
    let reply = within(FrameReader::new(receive).frame::<Reply>()).await;
    let (reply, _) = reply.unwrap().unwrap();
    assert!(matches!(reply.kind, Some(reply::Kind::Written(_))));
    pipeline.send(1, get("k"), Bytes::new()).await;
    let heard = pipeline.all().await;
    assert!(matches!(heard.answers[&1][..], [reply::Kind::Values(_)]));
}
