//! Who lives is found out, in time and without false alarms.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use mesh_net::node::{
    GossipTuning,
    gossip::{Contact, Gossip, Life, Lives},
};
use tokio::{runtime::Runtime, sync::watch};

use crate::{
    station::{Cluster, Station, deadline, id},
    support::{noise, within},
};

/// Waits until gossip says this of a node.
async fn until(lives: &mut watch::Receiver<Lives>, number: u8, life: Life) {
    let said = lives.wait_for(|lives| lives.get(&id(number)) == Some(&life));
    within(said).await.unwrap();
}

/// A node in a runtime of its own, which can end without a word as a killed process does.
struct Process {
    runtime: Runtime,
    station: Station,
    gossip: Gossip,
}

impl Process {
    fn start(cluster: &Cluster, number: u8, boot: u32, contacts: &[String]) -> Self {
        Self::start_with(cluster, number, boot, contacts, GossipTuning::default())
    }

    fn start_with(
        cluster: &Cluster,
        number: u8,
        boot: u32,
        contacts: &[String],
        tuning: GossipTuning,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let entered = runtime.enter();
        let station = Station::start(cluster, number);
        let gossip = station.gossip(boot, contacts, tuning);
        drop(entered);
        Self {
            runtime,
            station,
            gossip,
        }
    }

    fn member(&self) -> Contact {
        (&self.station.contact()).into()
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }
}

fn introduce(processes: &[Process]) {
    let contacts: Vec<_> = processes.iter().map(|p| p.station.contact()).collect();
    let members: Vec<_> = processes.iter().map(Process::member).collect();
    for process in processes {
        process.station.peers.set_members(contacts.clone());
        process.gossip.set_members(members.clone());
    }
}

/// Three nodes, each of which takes both others for alive.
async fn three(cluster: &Cluster) -> [Process; 3] {
    three_with(cluster, GossipTuning::default()).await
}

async fn three_with(cluster: &Cluster, tuning: GossipTuning) -> [Process; 3] {
    let processes = [1, 2, 3].map(|number| Process::start_with(cluster, number, 1, &[], tuning));
    introduce(&processes);
    for (at, process) in processes.iter().enumerate() {
        let mut lives = process.gossip.lives();
        for number in (1..=3).filter(|number| *number != at as u8 + 1) {
            until(&mut lives, number, Life::Alive).await;
        }
    }
    processes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_is_found_out_and_so_is_a_return() {
    let cluster = Cluster::new();
    let [a, b, c] = three(&cluster).await;
    let mut seen = [a.gossip.lives(), b.gossip.lives()];
    let killed = Instant::now();
    c.kill();
    for lives in &mut seen {
        until(lives, 3, Life::Dead).await;
    }
    let took = killed.elapsed();
    println!("found out after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(a.gossip.lives().borrow()[&id(2)], Life::Alive);
    // It is dialled all the time, but nobody waits for that.
    let began = Instant::now();
    let answer = a
        .station
        .peers
        .control_call(id(3), Bytes::new(), deadline())
        .await;
    assert!(answer.is_err());
    assert!(began.elapsed() < Duration::from_secs(1));
    // Its next start, at another address that only itself knows, is believed at once.
    let c = Process::start(&cluster, 3, 2, &[]);
    c.gossip
        .set_members(vec![a.member(), b.member(), c.member()]);
    let contacts = [&a, &b, &c].map(|process| process.station.contact());
    c.station.peers.set_members(contacts.clone());
    a.station.peers.set_members(contacts.clone());
    b.station.peers.set_members(contacts);
    for lives in &mut seen {
        until(lives, 3, Life::Alive).await;
    }
    for process in [a, b, c] {
        process.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farewell_is_believed_without_proof() {
    let cluster = Cluster::new();
    // Nobody would be found dead by its silence within this test.
    let patient = GossipTuning {
        suspect_after: Duration::from_secs(600),
        ..GossipTuning::default()
    };
    let [a, b, c] = three_with(&cluster, patient).await;
    c.gossip.leave().await;
    for process in [&a, &b] {
        until(&mut process.gossip.lives(), 3, Life::Dead).await;
    }
    for process in [a, b, c] {
        process.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_machine_kills_nobody() {
    let cluster = Cluster::new();
    let processes = three(&cluster).await;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
            for process in &processes {
                let lives = process.gossip.lives();
                let dead = lives.borrow().values().any(|life| *life == Life::Dead);
                if dead {
                    stop.store(true, Ordering::Relaxed);
                }
                assert!(!dead, "{:?}", lives.borrow());
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    for process in processes {
        process.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_contact_leads_to_all() {
    let cluster = Cluster::new();
    let a = Process::start(&cluster, 1, 1, &[]);
    // A name with several addresses of which one or none may answer, the own address, and one where nobody is.
    let contacts = [
        format!("localhost:{}", a.station.addr.port()),
        "127.0.0.1:9".to_owned(),
    ];
    let b = Process::start(&cluster, 2, 1, &contacts[..1]);
    let mut of_b = b.gossip.lives();
    until(&mut of_b, 1, Life::Alive).await;
    until(&mut a.gossip.lives(), 2, Life::Alive).await;
    let c = Process::start(&cluster, 3, 1, &contacts);
    let mut of_c = c.gossip.lives();
    until(&mut of_c, 1, Life::Alive).await;
    until(&mut of_c, 2, Life::Alive).await;
    until(&mut of_b, 3, Life::Alive).await;
    for process in [a, b, c] {
        process.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_datagrams_do_no_harm() {
    let cluster = Cluster::new();
    let processes = three(&cluster).await;
    let [a, b, _] = &processes;
    let mut sent = 0;
    for seed in 1..5_000_u64 {
        let length = seed as usize % 1151;
        let mut noise = noise(seed, length);
        // Often enough of the right version and a kind that there is.
        if seed % 2 == 0 && length > 2 {
            (noise[0], noise[1]) = (1, 1 + (seed % 11) as u8);
        }
        sent += usize::from(a.station.peers.send_datagram(id(2), noise.into()).is_ok());
        if seed % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(sent > 1_000, "{sent}");
    let mut lives = b.gossip.lives();
    for number in [1, 3] {
        until(&mut lives, number, Life::Alive).await;
    }
    let invented = lives
        .borrow()
        .keys()
        .filter(|node| ![id(1), id(3)].contains(node))
        .count();
    assert_eq!(invented, 0, "no node was made up");
    for process in processes {
        process.kill();
    }
}
