//! What a node says to another one, said by the test in its name.

use bytes::Bytes;
use mesh_net::identity::CredentialFiles;
use mesh_net::wire::frame::{FrameReader, FrameWriter};
use mesh_net::wire::proto::{
    AskTombstones, Error, ErrorCode, FetchBinding, Reply, Request, StateStamp, StoreBinding,
    VoidRound, reply::Kind as Answer, request::Kind,
};
use mesh_ring::binding::Binding;
use mesh_ring::ids::{NodeId, PartitionId};
use quinn::Connection;

use crate::cluster::Cluster;
use crate::support::{connect, within};

/// A connection to one node as another one would make it.
pub(crate) struct AsNode(Connection);

impl AsNode {
    pub(crate) async fn connect(cluster: &Cluster, to: usize, from: usize) -> AsNode {
        let view = cluster.view(to).await;
        let addr = view.node(cluster.id(to)).unwrap().address.parse().unwrap();
        let data = cluster.data(from);
        let files = CredentialFiles::in_dir(&data.parent().unwrap().join("identity"));
        AsNode(connect(addr, &files).await)
    }

    /// Sends one request, and returns the answer with its body.
    pub(crate) async fn ask(&self, kind: Kind, body: Bytes) -> (Answer, Bytes) {
        let (send, receive) = within(self.0.open_bi()).await.unwrap();
        let mut writer = FrameWriter::new(send);
        let request = Request {
            forwarded: true,
            ..Request::new(kind)
        };
        writer.frame(&request, [body]).await.unwrap();
        writer.finish();
        let answer = within(FrameReader::new(receive).frame::<Reply>()).await;
        let (reply, body) = answer.unwrap().unwrap();
        (reply.kind.unwrap(), body)
    }

    /// What the node holds of a key, and of when that is.
    pub(crate) async fn fetch(&self, key: &str) -> (Bytes, StateStamp) {
        let fetch = FetchBinding {
            key: Bytes::copy_from_slice(key.as_bytes()),
            stands_in: false,
        };
        match self.ask(Kind::FetchBinding(fetch), Bytes::new()).await {
            (Answer::BindingIs(is), state) => (state, is.stamp.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    /// Whether the node knows anything of a key, be it that it was deleted. One that does not keep the key knows nothing.
    pub(crate) async fn holds(&self, key: &str) -> bool {
        let fetch = FetchBinding {
            key: Bytes::copy_from_slice(key.as_bytes()),
            stands_in: false,
        };
        match self.ask(Kind::FetchBinding(fetch), Bytes::new()).await {
            (Answer::BindingIs(_), state) => Binding::decode(&state).unwrap() != Binding::default(),
            (Answer::Error(error), _) if error.code() == ErrorCode::NotReplica => false,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a state of a key, for the node itself or as a hint for another one.
    pub(crate) async fn store(
        &self,
        key: &str,
        home: Option<NodeId>,
        (state, stamp): (&Bytes, StateStamp),
    ) -> Result<(), Error> {
        let store = StoreBinding {
            key: Bytes::copy_from_slice(key.as_bytes()),
            stands_in_for: home.map(|home| Bytes::copy_from_slice(&home.0)),
            stamp: Some(stamp),
        };
        of_answer(self.ask(Kind::StoreBinding(store), state.clone()).await.0)
    }

    /// Asks the node in a round about nothing, which raises its fence, by whichever map it has; what is in the way of that. Where
    /// the map changes while it looks, its fence is as high already when it is asked again, and that is as good.
    pub(crate) async fn raise(&self, id: PartitionId, fence: u64) -> Option<VoidRound> {
        let mut map_version = 1;
        loop {
            let asked = AskTombstones {
                partition: id.0.into(),
                map_version,
                fence,
                tombstones: Vec::new(),
            };
            let void = match self.ask(Kind::AskTombstones(asked), Bytes::new()).await.0 {
                Answer::Tombstones(said) => said.void_round,
                other => panic!("{other:?}"),
            };
            match void.as_ref().and_then(|void| void.map_version) {
                Some(known) => map_version = known,
                None => return void.filter(|void| void.fence != Some(fence)),
            }
        }
    }
}

pub(crate) fn of_answer(answer: Answer) -> Result<(), Error> {
    match answer {
        Answer::Done(_) => Ok(()),
        Answer::Error(error) => Err(error),
        other => panic!("{other:?}"),
    }
}
