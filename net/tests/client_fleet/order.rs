//! Whatever leaders do, each record is there once and in order.

use std::{collections::BTreeMap, time::Duration};

use mesh_net::client::{Producer, ProducerOptions};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    TIMEOUT,
    fleet::{Fleet, PARTITIONS},
    support::{Dice, record},
};

/// How much each publisher publishes while leaders move: about two seconds' worth.
const NUMBERS: u64 = 1_500;

/// What one topic's publisher saw: each number and where it was acknowledged, if it was.
type Seen = Vec<(u64, Option<u64>)>;

async fn publish_numbers(producer: Producer, topic: String, count: u64) -> (String, Seen) {
    let mut seen = Vec::new();
    let mut calls = JoinSet::new();
    for number in 0..count {
        let (producer, topic) = (producer.clone(), topic.clone());
        // In the order of the numbers: a call takes its place before its first wait.
        let mut call = Box::pin(async move {
            let published = producer.publish(&topic, record(number.to_string())).await;
            (number, published.ok().map(|published| published.first))
        });
        if let Some(done) = poll_once(&mut call).await {
            seen.push(done);
        } else {
            calls.spawn(call);
        }
        if number % 5 == 0 {
            sleep(Duration::from_millis(7)).await;
        }
    }
    while let Some(done) = calls.join_next().await {
        seen.push(done.unwrap());
    }
    seen.sort_unstable();
    (topic, seen)
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// Leaders move in every manner.
struct Unrest {
    dice: Dice,
    /// The node that cannot be reached.
    cut: Option<usize>,
}

impl Unrest {
    async fn strike(&mut self, fleet: &Fleet) {
        let moved = self.dice.below(u64::from(PARTITIONS)) as u16;
        let to = self.dice.below(3) as usize;
        match self.dice.below(6) {
            0 | 1 => fleet.lead(moved, Some(to)),
            2 => self.depose(fleet, moved, to).await,
            3 => fleet.hang_up(to),
            4 => {
                let hints = self.dice.below(2) == 0;
                fleet.world().hints = hints;
            }
            _ => self.cut_or_mend(fleet, to),
        }
    }

    /// The old leader goes on for a while, denies it, and what it took is there.
    async fn depose(&mut self, fleet: &Fleet, moved: u16, to: usize) {
        let old = fleet.world().leaders[usize::from(moved)];
        fleet.lead(moved, None);
        if let Some(old) = old {
            fleet.world().deposed.insert(moved, old);
        }
        sleep(Duration::from_millis(self.dice.below(60))).await;
        fleet.lead(moved, Some(to));
    }

    /// At most one node is cut off at a time; what it led is led by another.
    fn cut_or_mend(&mut self, fleet: &Fleet, node: usize) {
        if let Some(cut) = self.cut.take() {
            fleet.relays[cut].mend();
        } else if self.dice.below(3) == 0 {
            fleet.relays[node].cut();
            self.cut = Some(node);
            let mut world = fleet.world();
            world.version += 1;
            for leader in &mut world.leaders {
                if *leader == Some(node) {
                    *leader = Some((node + 1) % 3);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_leaders_do_each_record_is_there_once_and_in_order() {
    let seed = std::env::var("MESHLOG_SEED").map_or_else(
        |_| std::process::id().into(),
        |seed| seed.parse::<u64>().unwrap(),
    );
    println!("MESHLOG_SEED={seed}");
    let mut unrest = Unrest {
        dice: Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        cut: None,
    };
    let fleet = Fleet::start(3).await;
    let client = fleet.client(&[0, 1, 2], TIMEOUT).await;
    let producer = client.producer(ProducerOptions::default());
    let mut publishers = JoinSet::new();
    for number in 0..12 {
        publishers.spawn(publish_numbers(
            producer.clone(),
            format!("t{number}"),
            NUMBERS,
        ));
    }
    let mut seen = BTreeMap::new();
    while !publishers.is_empty() {
        unrest.strike(&fleet).await;
        let pause = sleep(Duration::from_millis(unrest.dice.below(50)));
        tokio::select! {
            () = pause => {}
            Some(done) = publishers.join_next() => {
                let (topic, numbers) = done.unwrap();
                seen.insert(topic, numbers);
            }
        }
    }
    assert_eq!(seen.len(), 12);
    for (topic, numbers) in seen {
        check(
            &fleet.values(&topic),
            numbers,
            &format!("seed {seed}: {topic}"),
        );
    }
}

/// What is there is what was published: all of it, once, in order, and where it was acknowledged.
fn check(values: &[String], numbers: Seen, case: &str) {
    let values: Vec<u64> = values.iter().map(|value| value.parse().unwrap()).collect();
    assert!(
        values.is_sorted_by(|a, b| a < b),
        "{case} is out of order or repeats: {values:?}"
    );
    for (number, offset) in numbers {
        let offset = offset.unwrap_or_else(|| panic!("{case}: {number} was not taken"));
        assert_eq!(values[offset as usize], number, "{case}");
    }
    assert_eq!(values.len() as u64, NUMBERS, "{case}");
}
