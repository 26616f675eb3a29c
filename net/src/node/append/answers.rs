//! What becomes of the batches of one stream, gathered until it is written: many answers to a frame.

use std::sync::{Arc, Mutex, MutexGuard};

use mesh_engine::AppendError;
use mesh_ring::ids::{NodeId, TopicKey};
use prost::Message;
use tokio::sync::{Notify, Semaphore};
use tokio::task::yield_now;

use super::{STREAM_BATCHES_MAX, lock};
use crate::node::partition::{Appended, Refusal};
use crate::node::{Shared, reply};
use crate::wire::FRAME_HEADER_BYTES_MAX;
use crate::wire::frame::FrameWriter;
use crate::wire::proto::{self, Appends, Error};

/// What an answer takes in its frame's header beside itself: its tag and its length, in bytes.
const ANSWER_FIELD_BYTES: usize = 8;

/// What became of one batch.
pub(super) struct Answer {
    pub(super) request: u64,
    /// Where it went, if it came so far.
    pub(super) topic: Option<TopicKey>,
    pub(super) result: Result<Appended, Error>,
}

impl Answer {
    /// It never came to its partition.
    pub(super) fn refused(request: u64, error: Error) -> Answer {
        Answer {
            request,
            topic: None,
            result: Err(error),
        }
    }
}

/// Answers that wait to be written, and whether more will come.
pub(super) struct Outbox {
    pub(super) shared: Arc<Shared>,
    /// One for each batch that may still begin.
    places: Semaphore,
    state: Mutex<OutboxState>,
    changed: Notify,
}

#[derive(Default)]
struct OutboxState {
    ready: Vec<Answer>,
    in_flight: usize,
    /// Reading has ended, with an error to pass on or without.
    ended: Option<Option<Error>>,
}

impl Outbox {
    pub(super) fn new(shared: &Arc<Shared>) -> Outbox {
        Outbox {
            shared: Arc::clone(shared),
            places: Semaphore::new(STREAM_BATCHES_MAX),
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        lock(&self.state)
    }

    /// A batch is taken up, once few enough are not answered.
    pub(super) async fn begin(&self) {
        let place = match self.places.try_acquire() {
            Ok(place) => Ok(place),
            Err(_) => self.places.acquire().await,
        };
        // It is never closed. The place comes back with the answer, or is lost with the stream.
        if let Ok(place) = place {
            place.forget();
        }
        self.lock().in_flight += 1;
    }

    /// A batch that began will not be answered: the stream ends.
    pub(super) fn withdraw(&self) {
        self.lock().in_flight -= 1;
    }

    pub(super) fn answer(&self, answer: Answer) {
        let mut state = self.lock();
        state.in_flight -= 1;
        state.ready.push(answer);
        // Whoever takes them takes all.
        let is_first = state.ready.len() == 1;
        drop(state);
        if is_first {
            self.changed.notify_one();
        }
    }

    pub(super) fn end(&self, error: Option<Error>) {
        self.lock().ended = Some(error);
        self.changed.notify_one();
    }

    /// All answers that are ready, at least one; `Err` once there will be none, with the error that ended it all.
    async fn take(&self) -> Result<Vec<Answer>, Option<Error>> {
        loop {
            {
                let mut state = self.lock();
                if !state.ready.is_empty() {
                    return Ok(std::mem::take(&mut state.ready));
                }
                if let (Some(ended), 0) = (&state.ended, state.in_flight) {
                    return Err(ended.clone());
                }
            }
            self.changed.notified().await;
            // Partitions that the same fsync has woken answer first, and their answers share a frame.
            yield_now().await;
        }
    }
}

pub(super) async fn write_answers(outbox: &Outbox, mut writer: FrameWriter) {
    let ended = loop {
        match outbox.take().await {
            Ok(ready) => {
                let count = ready.len();
                for answers in frames(ready, |nodes| outbox.shared.names_of(nodes)) {
                    // Where the stream is lost, the answers are too; what was accepted is still written and counted.
                    let _ = writer.header(&answers).await;
                }
                outbox.places.add_permits(count);
            }
            Err(ended) => break ended,
        }
    };
    if let Some(error) = ended {
        let fatal = Appends {
            fatal: Some(error),
            ..Appends::default()
        };
        let _ = writer.header(&fatal).await;
    }
    writer.finish();
    writer.delivered().await;
}

/// Puts answers into frames, each of which fits. What the first says of replicas is said once a frame, for all that say the same.
fn frames(answers: Vec<Answer>, names_of: impl Fn(&[NodeId]) -> Vec<String>) -> Vec<Appends> {
    let appended = |answer: &Answer| answer.result.as_ref().ok().cloned();
    let common = answers.iter().find_map(appended);
    let mut common = common.map(|appended| appended.synced).unwrap_or_default();
    // An answer that has nobody to name must not be taken to mean those of the frame.
    let names_nobody = |answer: &Answer| {
        let appended = answer.result.as_ref().ok();
        appended.is_some_and(|own| own.synced != common && names_of(&own.synced).is_empty())
    };
    if answers.iter().any(names_nobody) {
        common = Arc::default();
    }
    let empty = Appends {
        synced: names_of(&common),
        ..Appends::default()
    };
    let empty_bytes = empty.encoded_len();
    let (mut parts, mut part, mut bytes) = (Vec::new(), empty.clone(), empty_bytes);
    for answer in answers {
        let answer = encoded(answer, &common, &names_of);
        let more = answer.encoded_len() + ANSWER_FIELD_BYTES;
        if bytes + more > FRAME_HEADER_BYTES_MAX {
            parts.push(std::mem::replace(&mut part, empty.clone()));
            bytes = empty_bytes;
        }
        bytes += more;
        part.appended.push(answer);
    }
    parts.push(part);
    parts
}

fn encoded(
    answer: Answer,
    common: &[NodeId],
    names_of: impl Fn(&[NodeId]) -> Vec<String>,
) -> proto::Appended {
    match answer.result {
        Ok(appended) => proto::Appended {
            request: answer.request,
            error: None,
            first: appended.first,
            last: appended.last,
            epoch: appended.epoch.0,
            synced: if *appended.synced == *common {
                Vec::new()
            } else {
                names_of(&appended.synced)
            },
            duplicate: appended.duplicate,
            topic: answer.topic.map(Into::into),
        },
        Err(error) => proto::Appended {
            request: answer.request,
            error: Some(error),
            ..proto::Appended::default()
        },
    }
}

/// A partition's refusal in the words of the wire.
pub(super) fn refused(shared: &Shared, topic: TopicKey, refusal: Refusal<AppendError>) -> Error {
    match refusal {
        Refusal::Decided(error) => reply::of_append(&error),
        Refusal::NotLeading => shared.not_leader(topic.partition),
        Refusal::TooFew => shared.leaderless(topic.partition),
        Refusal::Unknown => shared.uncommitted(topic.partition),
        Refusal::Failed(cause) => reply::partition_failed(topic.partition, &cause),
    }
}

#[cfg(test)]
mod tests {
    use mesh_ring::ids::Epoch;

    use super::*;

    fn names_of(nodes: &[NodeId]) -> Vec<String> {
        nodes.iter().map(|node| format!("n{}", node.0[0])).collect()
    }

    fn written(request: u64, synced: &[u8]) -> Answer {
        Answer {
            request,
            topic: None,
            result: Ok(Appended {
                first: request,
                last: request,
                epoch: Epoch(1),
                duplicate: false,
                synced: synced.iter().map(|node| NodeId([*node; 16])).collect(),
            }),
        }
    }

    #[test]
    fn many_answers_are_split_so_that_each_part_fits_a_frame() {
        let refusal = |number| Answer::refused(number, reply::invalid("x".repeat(300)));
        let most = STREAM_BATCHES_MAX as u64;
        let mut answers: Vec<_> = (0..most).map(refusal).collect();
        answers.push(written(most, &[1, 2, 3]));
        let parts = frames(answers, names_of);
        assert!(parts.len() > 1);
        let said = parts.iter().flat_map(|part| &part.appended);
        assert!(said.map(|answer| answer.request).eq(0..=most));
        for part in &parts {
            assert!(part.encoded_len() <= FRAME_HEADER_BYTES_MAX);
        }
        assert_eq!(frames(vec![refusal(0)], names_of).len(), 1);
    }

    #[test]
    fn an_answer_that_names_nobody_is_not_given_the_names_of_others() {
        let parts = frames(vec![written(1, &[1, 2]), written(2, &[])], names_of);
        assert_eq!(parts.len(), 1);
        assert!(parts[0].synced.is_empty());
        assert_eq!(parts[0].appended[0].synced, ["n1", "n2"]);
        assert!(parts[0].appended[1].synced.is_empty());
    }

    #[test]
    fn each_answer_names_its_replicas_or_its_frame_does() {
        let refusal = Answer::refused(7, reply::invalid("no"));
        let answers = vec![
            refusal,
            written(8, &[1, 2]),
            written(9, &[1, 2]),
            written(10, &[1, 3]),
        ];
        let parts = frames(answers, names_of);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].synced, ["n1", "n2"]);
        let own: Vec<_> = parts[0]
            .appended
            .iter()
            .map(|answer| answer.synced.clone())
            .collect();
        assert_eq!(
            own,
            [
                vec![],
                vec![],
                vec![],
                vec!["n1".to_owned(), "n3".to_owned()]
            ]
        );
    }
}
