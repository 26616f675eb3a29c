//! openraft's messages, carried by whoever connects the nodes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::ids::NodeId;
use openraft::EmptyNode;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;

use super::raft::{Group, RaftId};
use super::rpc::{self, Request, RpcError};

/// How long a leader leaves a node alone that could not be reached: a node that comes back is to hear of its leader
/// before it campaigns.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);

/// An answer that is on its way.
pub type Call<'a> = Pin<Box<dyn Future<Output = Result<Bytes, CarrierError>> + Send + 'a>>;

/// What carries the group's messages between nodes.
pub trait Carrier: Send + Sync + 'static {
    /// Asks `to`: its [`super::Control::handle`] gets `rpc`, and what that returns comes back. Neither is larger than
    /// [`super::RPC_BYTES_MAX`].
    ///
    /// It fails at once where there is no connection, and may be dropped at any time: the group has its own timeouts.
    fn call(&self, to: NodeId, rpc: Bytes) -> Call<'_>;
}

/// A message did not get through, or its answer did not come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CarrierError(pub String);

/// Makes the way to each member.
pub(super) struct Links(pub(super) Arc<dyn Carrier>);

/// The way to one member.
pub(super) struct Link {
    carrier: Arc<dyn Carrier>,
    to: RaftId,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.to)
    }
}

impl RaftNetworkFactory<Group> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: RaftId, _: &EmptyNode) -> Link {
        Link {
            carrier: Arc::clone(&self.0),
            to: target,
        }
    }
}

/// Sends a request, and reads the answer to it.
pub(super) async fn ask<T: DeserializeOwned>(
    carrier: &dyn Carrier,
    to: NodeId,
    request: Request,
) -> Result<T, RpcError> {
    let kind = request.kind();
    let answer = carrier
        .call(to, request.encode()?)
        .await
        .map_err(|CarrierError(detail)| RpcError(detail))?;
    rpc::read_answer(kind, &answer)
}

type Failure<E> = RPCError<RaftId, EmptyNode, RaftError<RaftId, E>>;

impl Link {
    async fn ask<T, E>(&self, request: Request) -> Result<T, Failure<E>>
    where
        T: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let answer: Result<T, RaftError<RaftId, E>> = ask(&*self.carrier, self.to.0, request)
            .await
            .map_err(|error| Unreachable::new(&error))?;
        answer.map_err(|error| RemoteError::new(self.to, error).into())
    }
}

impl RaftNetwork<Group> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Group>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, Failure<openraft::error::Infallible>> {
        self.ask(Request::Append(rpc)).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Group>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<RaftId>, Failure<InstallSnapshotError>> {
        self.ask(Request::Snapshot(rpc)).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        _: RPCOption,
    ) -> Result<VoteResponse<RaftId>, Failure<openraft::error::Infallible>> {
        self.ask(Request::Vote(rpc)).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}
