//! What is not of the protocol: answered or dropped, and the node stays up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::net::UdpSocket;

use bytes::Bytes;
use mesh_engine::batch::{BatchBuilder, Compression};
use mesh_net::{
    client::{ClientError, ProducerOptions},
    identity::{Grants, Validity},
    quic::Tuning,
    wire::{
        FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES_MAX, PROTOCOL_VERSION,
        frame::{FrameReader, FrameWriter, encode_head},
        proto::{self, ErrorCode, Reply, Request, reply, request},
    },
};
use quinn::Connection;
use support::{Mesh, connect_tuned, noise, record, within};

/// Sends bytes on a stream of their own; returns the error that the node answers with, if it answers.
async fn send(connection: &Connection, bytes: &[u8]) -> Option<ErrorCode> {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    // The node may refuse before it has read all.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    match within(FrameReader::new(receive).frame::<Reply>()).await {
        Ok(Some((
            Reply {
                kind: Some(reply::Kind::Error(error)),
            },
            _,
        ))) => Some(error.code()),
        Ok(Some(other)) => panic!("{other:?}"),
        Ok(None) | Err(_) => None,
    }
}

fn lengths(header: u32, body: u32) -> Vec<u8> {
    [header.to_be_bytes(), body.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_frames_are_refused_and_harm_nobody() {
    let mesh = Mesh::start().await;
    let connection = mesh.connection().await;
    let (header, body) = (FRAME_HEADER_BYTES_MAX as u32, FRAME_BODY_BYTES_MAX as u32);
    let mut unknown_kind = lengths(2, 0);
    unknown_kind.extend([8, PROTOCOL_VERSION as u8]);
    let malformed = [
        lengths(header + 1, 0),
        lengths(0, body + 1),
        lengths(u32::MAX, u32::MAX),
        [lengths(4, 0), vec![0xff; 4]].concat(),
        [lengths(8, 0), vec![0; 2]].concat(),
        unknown_kind,
    ];
    for bytes in malformed {
        assert_eq!(
            send(&connection, &bytes).await,
            Some(ErrorCode::Malformed),
            "{bytes:?}"
        );
    }
    let newer = Request {
        version: PROTOCOL_VERSION + 1,
        ..Request::new(request::Kind::Info(proto::GetInfo {}))
    };
    let newer = encode_head(&newer, 0).unwrap();
    assert_eq!(
        send(&connection, &newer).await,
        Some(ErrorCode::UnsupportedVersion)
    );
    for seed in 1..200 {
        let bytes = noise(seed, 1 + seed as usize * 7);
        send(&connection, &bytes).await;
        // The same behind lengths that fit, so that the message itself is decoded.
        send(
            &connection,
            &[lengths(bytes.len() as u32, 0), bytes].concat(),
        )
        .await;
    }
    assert!(
        connection.close_reason().is_none(),
        "other streams of the connection are not affected"
    );
    mesh.assert_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_no_answers_holds_up_nobody() {
    let mesh = Mesh::start().await;
    let files = mesh.identity(&Grants::all(), Validity::days(1));
    // Not one answer may be sent.
    let tuning = Tuning {
        stream_window_bytes: 1,
        ..Tuning::default()
    };
    let connection = connect_tuned(mesh.addr, &files, &tuning).await;
    let (send, _unread) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    let open = proto::AppendOpen {
        writer: Bytes::from_static(b"deaf"),
    };
    writer
        .header(&Request::new(request::Kind::Append(open)))
        .await
        .unwrap();
    let mut builder = BatchBuilder::new(Compression::None);
    builder
        .push_parts(None, &vec![7; 512 << 10], &[], 0)
        .unwrap();
    let batch = Bytes::from(builder.finish(None).unwrap());
    // Several times what a node holds of requests at a time.
    for request in 0..160 {
        let header = proto::Append {
            request,
            topic: "deaf".into(),
            create: true,
            ..Default::default()
        };
        within(writer.frame(&header, [batch.clone()]))
            .await
            .unwrap();
    }
    mesh.assert_serves().await;
    let client = mesh.client().await;
    let producer = client.producer(ProducerOptions {
        create: true,
        ..Default::default()
    });
    within(producer.publish("other", record("v")))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_an_append_stream_writes_nothing() {
    let mesh = Mesh::start().await;
    let connection = mesh.connection().await;
    for seed in 1..50 {
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut writer = FrameWriter::new(send);
        let open = proto::AppendOpen {
            writer: Bytes::copy_from_slice(&seed_name(seed)),
        };
        writer
            .header(&Request::new(request::Kind::Append(open)))
            .await
            .unwrap();
        // A frame whose batch is noise, and one whose batch is right but for a bit.
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push_parts(None, b"value", &[], 0).unwrap();
        let mut flipped = builder.finish(None).unwrap();
        let bit = seed as usize * 5 % (60 * 8);
        flipped[bit / 8] ^= 1 << (bit % 8);
        let header = |request| proto::Append {
            request,
            topic: "t".into(),
            create: true,
            ..Default::default()
        };
        writer
            .frame(&header(1), [Bytes::from(noise(seed, 300))])
            .await
            .unwrap();
        writer
            .frame(&header(2), [Bytes::from(flipped)])
            .await
            .unwrap();
        writer.frame(&header(3), [Bytes::new()]).await.unwrap();
        writer.finish();
        let mut reader = FrameReader::new(receive);
        let mut refused = 0;
        while let Some((answers, _)) = within(reader.frame::<proto::Appends>()).await.unwrap() {
            assert_eq!(answers.fatal, None, "seed {seed}");
            for answer in answers.appended {
                assert_eq!(
                    answer.error.expect("refused").code(),
                    ErrorCode::Invalid,
                    "seed {seed}"
                );
                refused += 1;
            }
        }
        assert_eq!(refused, 3, "seed {seed}");
    }
    let client = mesh.client().await;
    // Not even the topic.
    let told = client.describe_topic("t").await;
    assert!(matches!(told, Err(ClientError::NotFound(_))), "{told:?}");
}

fn seed_name(seed: u64) -> [u8; 8] {
    seed.to_be_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_on_the_port_leave_the_node_up() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for seed in 1..2_000_u64 {
        let mut bytes = noise(seed, 1 + (seed as usize * 37) % 1_400);
        // Often enough something that looks like QUIC: a long or short header of version 1.
        match seed % 3 {
            0 => bytes[0] |= 0xc0,
            1 => bytes[0] = (bytes[0] & 0x3f) | 0x40,
            _ => {}
        }
        if seed % 6 == 0 && bytes.len() > 5 {
            bytes[1..5].copy_from_slice(&1_u32.to_be_bytes());
        }
        socket.send_to(&bytes, mesh.addr).unwrap();
    }
    // The connection that was there still is, and new ones are taken.
    client
        .put(b"k", "v".into(), Default::default())
        .await
        .unwrap();
    mesh.assert_serves().await;
}
