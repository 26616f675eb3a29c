//! Bare connections, for what no client would send.

use std::net::SocketAddr;

use mesh_net::{
    identity::{CredentialFiles, Credentials, NODE_SERVER_NAME},
    quic::{Tuning, client_endpoint},
    wire::{
        frame::{FrameReader, FrameWriter},
        proto::{Reply, Request, reply, request},
    },
};
use quinn::Connection;

use super::within;

pub(crate) async fn connect(addr: SocketAddr, files: &CredentialFiles) -> Connection {
    connect_tuned(addr, files, &Tuning::default()).await
}

pub(crate) async fn connect_tuned(
    addr: SocketAddr,
    files: &CredentialFiles,
    tuning: &Tuning,
) -> Connection {
    let credentials = Credentials::load(files).unwrap();
    let endpoint = client_endpoint(addr, &credentials, tuning).unwrap();
    within(endpoint.connect(addr, NODE_SERVER_NAME).unwrap())
        .await
        .unwrap()
}

/// Sends one request as it is and returns the first reply.
pub(crate) async fn ask(connection: &Connection, kind: request::Kind) -> reply::Kind {
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut writer = FrameWriter::new(send);
    writer.header(&Request::new(kind)).await.unwrap();
    writer.finish();
    let (reply, _) = within(FrameReader::new(receive).frame::<Reply>())
        .await
        .unwrap()
        .unwrap();
    reply.kind.unwrap()
}
