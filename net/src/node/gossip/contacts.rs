//! The way to the first other node: addresses and names from the configuration.
//!
//! One node that answers is enough; gossip tells of the others. A name may stand for all nodes, as that of a headless
//! service does, and is resolved anew each time, because nodes come and go behind it.

use std::{net::SocketAddr, time::Duration};

use mesh_ring::swim::Contact;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{Life, Lives};
use crate::node::peers::Peers;

/// The pause after a round in which nobody answered, doubled each time up to [`ALONE_PAUSE_MAX`].
const ALONE_PAUSE_MIN: Duration = Duration::from_millis(250);
const ALONE_PAUSE_MAX: Duration = Duration::from_secs(10);
/// The pause while others are alive: contacts may lead to nodes that those do not know.
const TOGETHER_PAUSE: Duration = Duration::from_secs(60);
/// Most addresses that are tried in one round, over all contacts.
const ADDRESSES_MAX: usize = 256;

/// Looks for other nodes, for ever.
pub(super) async fn look(
    peers: Peers,
    contacts: Vec<String>,
    mut lives: watch::Receiver<Lives>,
    found: mpsc::Sender<Contact>,
) {
    let mut pause = ALONE_PAUSE_MIN;
    // A different place to begin each time, so that one address that swallows packets does not hide the rest.
    let mut turn = 0_usize;
    let mut told = String::new();
    loop {
        match round(&peers, &contacts, turn).await {
            Ok(contact) => {
                pause = ALONE_PAUSE_MIN;
                told.clear();
                if found.send(contact).await.is_err() {
                    return;
                }
            }
            Err(cause) if is_alone(&lives.borrow()) && cause != told => {
                tracing::warn!(cause, "none of the configured contacts answers; trying on");
                told = cause;
            }
            Err(_) => {}
        }
        turn = turn.wrapping_add(1);
        // While nobody is alive, the pause is short; it ends when that changes.
        let alone = is_alone(&lives.borrow_and_update());
        tokio::select! {
            () = sleep(if alone { pause } else { TOGETHER_PAUSE }) => {}
            () = left_alone(&mut lives), if !alone => pause = ALONE_PAUSE_MIN,
        }
        pause = (pause * 2).min(ALONE_PAUSE_MAX);
    }
}

fn is_alone(lives: &Lives) -> bool {
    !lives.values().any(|life| *life == Life::Alive)
}

async fn left_alone(lives: &mut watch::Receiver<Lives>) {
    if lives.wait_for(is_alone).await.is_err() {
        // Gossip has ended, and this task is about to.
        std::future::pending::<()>().await;
    }
}

/// Tries every address of every contact until another node answers.
async fn round(peers: &Peers, contacts: &[String], turn: usize) -> Result<Contact, String> {
    let mut cause = "no address".to_owned();
    let mut addresses: Vec<(&str, SocketAddr)> = Vec::new();
    for contact in contacts {
        match Peers::resolve(contact).await {
            Ok(found) => {
                addresses.extend(found.into_iter().map(|addr| (contact.as_str(), addr)));
            }
            Err(error) => cause = error.to_string(),
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    let middle = turn % addresses.len().max(1);
    addresses.rotate_left(middle);
    for (contact, addr) in addresses {
        match peers.greet_at(contact, addr).await {
            Ok(contact) => return Ok(contact),
            Err(error) => cause = error.to_string(),
        }
    }
    Err(cause)
}
