//! Publishers who note what they were promised, and the check that it was kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_net::client::{Client, ClientError, ProducerOptions, TailRecord};
use tokio::{sync::watch, task::JoinSet};

use crate::support::{record, within};

/// Publishes to one topic until it is told to end.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: watch::Receiver<u64>,
    writers: JoinSet<Vec<Sent>>,
}

/// What one call of a writer came to.
pub(crate) struct Sent {
    value: String,
    /// `None`: the call has failed, and may have been carried out.
    offset: Option<u64>,
    took: Duration,
}

impl Load {
    /// One writer for each of the clients, each with a call under way at all times.
    pub(crate) fn start(clients: &[Client], topic: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (note, acknowledged) = watch::channel(0);
        let note = Arc::new(note);
        let mut writers = JoinSet::new();
        for (writer, client) in clients.iter().enumerate() {
            let producer = client.producer(ProducerOptions::default());
            let (stop, note, topic) = (Arc::clone(&stop), Arc::clone(&note), topic.to_owned());
            writers.spawn(async move {
                let mut sent = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let value = format!("{writer}-{}", sent.len());
                    let began = Instant::now();
                    let offset = match producer.publish(&topic, record(value.clone())).await {
                        Ok(published) => {
                            note.send_modify(|count| *count += 1);
                            Some(published.first)
                        }
                        Err(ClientError::Unavailable(_)) => None,
                        Err(error) => panic!("{value}: {error:?}"),
                    };
                    let took = began.elapsed();
                    sent.push(Sent {
                        value,
                        offset,
                        took,
                    });
                }
                sent
            });
        }
        Load {
            stop,
            acknowledged,
            writers,
        }
    }

    /// Waits until so many more calls were acknowledged.
    pub(crate) async fn goes_on(&mut self, more: u64) {
        let now = *self.acknowledged.borrow_and_update();
        within(self.acknowledged.wait_for(|count| *count >= now + more))
            .await
            .expect("the writers have ended");
    }

    pub(crate) async fn finish(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        within(self.writers.join_all())
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The longest that a call waited.
pub(crate) fn longest(sent: &[Sent]) -> Duration {
    sent.iter().map(|sent| sent.took).max().unwrap_or_default()
}

/// What is there is what was sent: what was acknowledged at its offset, everything at most once, each writer's records in
/// its order, and no offset without a record.
pub(crate) fn check(all: &[TailRecord], sent: &[Sent]) {
    let mut places = BTreeMap::new();
    let mut last = BTreeMap::<String, u64>::new();
    let known: BTreeSet<&str> = sent.iter().map(|sent| sent.value.as_str()).collect();
    for (offset, found) in (0..).zip(all) {
        assert_eq!(found.offset, offset, "offsets are dense");
        let value = std::str::from_utf8(&found.record.value).unwrap();
        assert!(known.contains(value), "{value} at {offset} was never sent");
        let (writer, number) = value.split_once('-').unwrap();
        let number: u64 = number.parse().unwrap();
        let before = last.insert(writer.to_owned(), number);
        assert!(
            before.is_none_or(|before| before < number),
            "{value} at {offset} is late"
        );
        assert_eq!(
            places.insert(value.to_owned(), offset),
            None,
            "{value} is there twice"
        );
    }
    for Sent { value, offset, .. } in sent {
        if let Some(offset) = offset {
            assert_eq!(
                places.get(value),
                Some(offset),
                "{value} was acknowledged at {offset}"
            );
        }
    }
}
