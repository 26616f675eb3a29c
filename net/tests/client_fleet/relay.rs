//! A wire that can be cut: datagrams between clients and one node pass through here, or do not.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{net::UdpSocket, task::JoinSet};

/// Largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The wire to one node.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    is_cut: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(node: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let addr = front.local_addr().unwrap();
        let is_cut = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(forward(front, node, is_cut.clone()));
        Self {
            addr,
            is_cut,
            _tasks: tasks,
        }
    }

    /// Nothing passes any more, as if the node had died without a word.
    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

async fn forward(front: Arc<UdpSocket>, node: SocketAddr, is_cut: Arc<AtomicBool>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut backs: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answers = JoinSet::new();
    loop {
        // An ICMP error of an earlier datagram is no reason to stop.
        let Ok((length, client)) = front.recv_from(&mut buffer).await else {
            continue;
        };
        if is_cut.load(Ordering::Relaxed) {
            continue;
        }
        let back = match backs.get(&client) {
            Some(back) => back.clone(),
            None => {
                let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
                back.connect(node).await.unwrap();
                answers.spawn(answer(back.clone(), front.clone(), client, is_cut.clone()));
                backs.insert(client, back.clone());
                back
            }
        };
        let _ = back.send(&buffer[..length]).await;
    }
}

async fn answer(
    back: Arc<UdpSocket>,
    front: Arc<UdpSocket>,
    client: SocketAddr,
    is_cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(length) = back.recv(&mut buffer).await else {
            continue;
        };
        if !is_cut.load(Ordering::Relaxed) {
            let _ = front.send_to(&buffer[..length], client).await;
        }
    }
}
