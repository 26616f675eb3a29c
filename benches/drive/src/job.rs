//! What is to be done, as one program tells another, and what it came to.

use serde::{Deserialize, Serialize};

/// What a system is asked to do. Fields that are not given have a default: `{"publish":{"in_flight":1}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Records without pause.
    Publish(Publish),
    /// One record at a time, and how soon a reader has it.
    Deliver(Deliver),
    /// A topic read over and over.
    Replay(Replay),
    /// A reader that begins far behind writers that go on.
    CatchUp(CatchUp),
}

/// Records published without pause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Requests that wait for their acknowledgement at a time.
    pub in_flight: usize,
    /// Records of each request.
    pub batch: usize,
    /// Topics that get a request in turn.
    pub topics: usize,
    /// How long it goes on before the clock runs.
    pub warm_up_ms: u64,
    /// How long the clock runs.
    pub time_ms: u64,
}

/// Records published one by one to a system that has nothing else to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deliver {
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Records that count; a tenth of them more come first.
    pub records: u64,
    /// Time between a record's delivery and the next one.
    pub pause_ms: u64,
}

/// A topic read from its first record to its last, over and over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Replay {
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Records of the topic.
    pub records: u64,
    /// Readers at a time; each number is measured by itself.
    pub readers: Vec<usize>,
    /// How long they go on before the clock runs.
    pub warm_up_ms: u64,
    /// How long the clock runs.
    pub time_ms: u64,
}

/// Records published without pause to a topic, and a reader that begins at its first record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CatchUp {
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Records that the topic has already.
    pub records: u64,
    /// Requests of one record that wait for their acknowledgement at a time.
    pub in_flight: usize,
    /// How long the writers go on before the clock runs.
    pub warm_up_ms: u64,
    /// How long the writers are measured alone.
    pub time_ms: u64,
    /// How long the reader may take at most; what it has read by then counts.
    pub limit_ms: u64,
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 10,
            in_flight: 256,
            batch: 1,
            topics: 1,
            warm_up_ms: 500,
            time_ms: 1_500,
        }
    }
}

impl Default for Deliver {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 10,
            records: 500,
            pause_ms: 5,
        }
    }
}

impl Default for Replay {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 10,
            records: 1 << 19,
            readers: vec![1, 4],
            warm_up_ms: 300,
            time_ms: 1_500,
        }
    }
}

impl Default for CatchUp {
    fn default() -> Self {
        Self {
            value_bytes: 1 << 10,
            records: 1 << 20,
            in_flight: 256,
            warm_up_ms: 500,
            time_ms: 1_500,
            limit_ms: 6_000,
        }
    }
}

impl Job {
    /// Topics that it publishes to or reads.
    #[must_use]
    pub fn topics(&self) -> usize {
        match self {
            Job::Publish(job) => job.topics,
            _ => 1,
        }
    }

    /// Records that are in the topic before the clock runs, and bytes of each value.
    #[must_use]
    pub fn stored(&self) -> Option<(u64, usize)> {
        match self {
            Job::Replay(job) => Some((job.records, job.value_bytes)),
            Job::CatchUp(job) => Some((job.records, job.value_bytes)),
            _ => None,
        }
    }
}

/// What a job came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// Of [`Job::Publish`].
    Published {
        /// Records acknowledged a second.
        records_per_second: f64,
        /// Milliseconds that half of the requests took at most.
        p50_ms: f64,
        /// The same for all but one in a hundred.
        p99_ms: f64,
    },
    /// Of [`Job::Deliver`]: milliseconds from the call to publish until the reader had the record.
    Delivered {
        /// Half of them took no more.
        p50_ms: f64,
        /// All but one in a hundred took no more.
        p99_ms: f64,
    },
    /// Of [`Job::Replay`].
    Replayed {
        /// MiB of values a second of all readers together, for each number of readers.
        mib_per_second: Vec<f64>,
    },
    /// Of [`Job::CatchUp`].
    CaughtUp {
        /// MiB of values a second that the reader got until it had caught up, or its time was over.
        mib_per_second: f64,
        /// Records a second that the writers had acknowledged before.
        alone_per_second: f64,
        /// The same while it read.
        meanwhile_per_second: f64,
        /// Whether it was at the end in time.
        is_at_end: bool,
    },
}

impl Done {
    /// The figures, in the order of the fields.
    #[must_use]
    pub fn figures(&self) -> Vec<f64> {
        match self {
            Done::Published {
                records_per_second,
                p50_ms,
                p99_ms,
            } => vec![*records_per_second, *p50_ms, *p99_ms],
            Done::Delivered { p50_ms, p99_ms } => vec![*p50_ms, *p99_ms],
            Done::Replayed { mib_per_second } => mib_per_second.clone(),
            Done::CaughtUp {
                mib_per_second,
                alone_per_second,
                meanwhile_per_second,
                ..
            } => vec![*mib_per_second, *alone_per_second, *meanwhile_per_second],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_a_person_types_has_the_rest_by_default() {
        let typed: Job = serde_json::from_str(r#"{"publish":{"in_flight":1}}"#).unwrap();
        let meant = Publish {
            in_flight: 1,
            ..Publish::default()
        };
        assert_eq!(typed, Job::Publish(meant));
        assert!(serde_json::from_str::<Job>(r#"{"publish":{"inflight":1}}"#).is_err());
    }

    #[test]
    fn figures_come_back_in_their_order() {
        let done = Done::CaughtUp {
            mib_per_second: 1.5,
            alone_per_second: 2.0,
            meanwhile_per_second: 3.0,
            is_at_end: true,
        };
        let told: Done = serde_json::from_str(&serde_json::to_string(&done).unwrap()).unwrap();
        assert_eq!(told.figures(), [1.5, 2.0, 3.0]);
    }
}
