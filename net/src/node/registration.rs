//! A start of this node is registered in the cluster map before the node takes part in anything.
//!
//! What it presents is what its disk says of its earlier starts. A disk that is an old copy does not know of the latest
//! one, and is refused: what it had acknowledged since is not on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mesh_ring::control::ControlCommand;
use mesh_ring::map::{Boot, ClusterMap};
use tokio::time::Instant;

use super::Shared;
use super::control::ProposeError;
use super::peers::Peers;
use crate::wire::proto::{GetMap, Request, request};

/// The pause between two attempts while the control plane has no majority.
const AGAIN: Duration = Duration::from_millis(100);

/// How long one contact may take to answer.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// Registers this start; tries until the control plane has answered. `Err`: it refused, and the node must not take part.
pub(super) async fn register(shared: &Arc<Shared>) -> Result<(), String> {
    let of_disk = |boot: mesh_engine::Boot| Boot {
        count: boot.count,
        token: boot.token,
    };
    let command = ControlCommand::Register {
        node: shared.me(),
        boot: of_disk(shared.engine.boot_token()),
        previous: shared.engine.earlier_boots().map(of_disk).collect(),
        address: shared.address.clone(),
        zone: shared.zone.clone(),
    };
    loop {
        let proposed = tokio::select! {
            proposed = shared.control.propose(command.clone()) => proposed,
            () = shared.tasks.stopping() => return Ok(()),
        };
        match proposed {
            Ok(_) => break,
            Err(ProposeError::Refused(error)) => return Err(error.to_string()),
            Err(error) => tracing::debug!(%error, "not registered yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = shared.tasks.stopping() => return Ok(()),
        }
    }
    tracing::info!(boot = shared.engine.boot(), "registered in the cluster map");
    Ok(())
}

/// The map of the cluster to which `contact` belongs.
pub(super) async fn map_of(peers: &Peers, contact: &str) -> Result<ClusterMap, String> {
    let request = Request::new(request::Kind::Map(GetMap {
        known: 0,
        exact: true,
    }));
    let deadline = Instant::now() + CONTACT_TIMEOUT;
    let asked = peers.ask_at(contact, &request, Bytes::new(), deadline);
    let (_, mut answers) = asked.await.map_err(|error| error.to_string())?;
    let (_, body) = answers.pop().ok_or("an empty answer")?;
    serde_json::from_slice(&body).map_err(|error| format!("not a cluster map: {error}"))
}
