//! As much of etcd's protocol as putting and getting a key takes: `etcdserverpb.KV` of its `rpc.proto`. Written out, because
//! a few messages are less to build than their `.proto` files with `protoc`. What else is in an answer is skipped.

use bytes::Bytes;
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    /// What may be stale. Without it a get is linearizable.
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// A connection to one member. Clones share it.
#[derive(Clone, Debug)]
pub struct Member(Channel);

impl Member {
    pub fn new(channel: Channel) -> Self {
        Self(channel)
    }

    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Status> {
        let put = PutRequest { key, value };
        let _: PutResponse = self.ask("/etcdserverpb.KV/Put", put).await?;
        Ok(())
    }

    /// A linearizable get.
    pub async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Status> {
        let get = RangeRequest {
            key,
            serializable: false,
        };
        let found: RangeResponse = self.ask("/etcdserverpb.KV/Range", get).await?;
        Ok(found.kvs.into_iter().next().map(|found| found.value))
    }

    async fn ask<Q, A>(&self, path: &'static str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let codec = ProstCodec::<Q, A>::default();
        let answer = grpc.unary(Request::new(question), path, codec).await?;
        Ok(answer.into_inner())
    }
}
