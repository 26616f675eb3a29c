//! Appends that happen once: what a topic remembers of one producer.
//!
//! A producer numbers its batches for a topic 0, 1, 2 … and sends a batch again, under its number, when it does not
//! know what became of it. The topic remembers where the last [`PRODUCER_WINDOW_BATCHES`] of them went. A producer
//! that was restarted raises its epoch and starts at 0 again, which shuts out the older one.

use std::collections::VecDeque;

use thiserror::Error;

use crate::codec::{DecodeError, Reader, put_varint};
use crate::ids::Offset;
use crate::limits::PRODUCER_WINDOW_BATCHES;

const FORMAT: u8 = 1;

/// What to do with a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is the next one: append it, then [`ProducerWindow::record`] it.
    Next,
    /// It is in the topic already: answer with its offsets and append nothing.
    Duplicate {
        /// The offset of its first record.
        first: Offset,
        /// The offset of its last record.
        last: Offset,
    },
}

/// Why a batch is refused. It was not appended by this request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum SequenceError {
    /// A batch before it is missing. Send that one first.
    #[error("a batch is missing before this one; the next sequence is {expected}")]
    Gap {
        /// The sequence that is next.
        expected: u32,
    },
    /// A newer instance of the producer has taken over. Stop.
    #[error("a newer instance of this producer, with epoch {current}, has taken over")]
    Fenced {
        /// The epoch of the newer instance.
        current: u32,
    },
    /// The batch is older than what is remembered, or all was forgotten: whether it was appended is not known.
    #[error(
        "the topic no longer remembers this batch; at most {PRODUCER_WINDOW_BATCHES} are remembered of a producer"
    )]
    Unknown,
}

/// What one topic remembers of one producer. The default is a producer that the topic has not met.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProducerWindow {
    epoch: u32,
    /// The sequence of the newest batch; 0 while there is none.
    sequence: u32,
    /// The newest batches, the oldest of them first: at most [`PRODUCER_WINDOW_BATCHES`], in ascending offsets.
    batches: VecDeque<Extent>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Extent {
    first: Offset,
    last: Offset,
}

impl ProducerWindow {
    /// Decides about the batch that has this epoch and sequence. Changes nothing.
    ///
    /// A topic that has not met the producer, or has forgotten it, takes only sequence 0.
    ///
    /// # Errors
    /// [`SequenceError`]: the batch must not be appended.
    pub fn check(&self, epoch: u32, sequence: u32) -> Result<Verdict, SequenceError> {
        if self.batches.is_empty() {
            return if sequence == 0 {
                Ok(Verdict::Next)
            } else {
                Err(SequenceError::Unknown)
            };
        }
        if epoch < self.epoch {
            return Err(SequenceError::Fenced {
                current: self.epoch,
            });
        }
        if epoch > self.epoch {
            return if sequence == 0 {
                Ok(Verdict::Next)
            } else {
                Err(SequenceError::Gap { expected: 0 })
            };
        }
        if sequence > self.sequence {
            let expected = self.sequence + 1;
            return if sequence == expected {
                Ok(Verdict::Next)
            } else {
                Err(SequenceError::Gap { expected })
            };
        }
        let age = usize::try_from(self.sequence - sequence).map_err(|_| SequenceError::Unknown)?;
        match self.batches.iter().rev().nth(age) {
            Some(&Extent { first, last }) => Ok(Verdict::Duplicate { first, last }),
            None => Err(SequenceError::Unknown),
        }
    }

    /// Remembers that the batch was appended at `first..=last`, and forgets the oldest beyond the window.
    ///
    /// The caller has had [`Verdict::Next`] for it. A batch that does not follow the newest one starts the window
    /// again: it never claims batches of which it does not know. After sequence `u32::MAX` only a newer epoch appends.
    pub fn record(&mut self, epoch: u32, sequence: u32, first: Offset, last: Offset) {
        if !self.is_followed_by(epoch, sequence, first) {
            self.batches.clear();
        }
        self.epoch = epoch;
        self.sequence = sequence;
        self.batches.push_back(Extent {
            first,
            last: last.max(first),
        });
        if self.batches.len() > PRODUCER_WINDOW_BATCHES {
            self.batches.pop_front();
        }
    }

    /// The epoch of the newest batch; `None` if the topic has not met the producer.
    #[must_use]
    pub fn epoch(&self) -> Option<u32> {
        self.batches.back().map(|_| self.epoch)
    }

    /// The last offset of the newest batch; `None` if the topic has not met the producer.
    #[must_use]
    pub fn last_offset(&self) -> Option<Offset> {
        self.batches.back().map(|batch| batch.last)
    }

    fn is_followed_by(&self, epoch: u32, sequence: u32, first: Offset) -> bool {
        epoch == self.epoch
            && self.sequence.checked_add(1) == Some(sequence)
            && self
                .batches
                .back()
                .is_some_and(|newest| newest.last < first)
    }

    /// The canonical bytes: version 1 | epoch u32 BE | newest sequence u32 BE | number of batches u8 | for each, from
    /// the oldest: offsets of others since the batch before, varint | number of records - 1, varint.
    ///
    /// Two bytes a batch are usual: the window is written again with every group of appends.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(self.epoch.to_be_bytes());
        out.extend(self.sequence.to_be_bytes());
        // At most PRODUCER_WINDOW_BATCHES, which the decoder's test keeps within a byte.
        out.push(self.batches.len() as u8);
        let mut end = 0;
        for batch in &self.batches {
            put_varint(&mut out, batch.first - end);
            put_varint(&mut out, batch.last - batch.first);
            end = batch.last.saturating_add(1);
        }
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`DecodeError`]: any other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        const MALFORMED: DecodeError = DecodeError::NotCanonical {
            what: "the producer window",
        };
        let mut reader = Reader::versioned(bytes, FORMAT)?;
        let epoch = reader.u32()?;
        let sequence = reader.u32()?;
        let count = usize::from(reader.u8()?);
        if count > PRODUCER_WINDOW_BATCHES {
            let max = PRODUCER_WINDOW_BATCHES as u64;
            return Err(DecodeError::TooMany {
                what: "batches",
                count: count as u64,
                max,
            });
        }
        let impossible = if count == 0 {
            (epoch, sequence) != (0, 0)
        } else {
            count as u64 - 1 > sequence.into()
        };
        if impossible {
            return Err(MALFORMED);
        }
        let mut batches = VecDeque::with_capacity(count);
        let mut end = Some(0_u64);
        for _ in 0..count {
            let gap = reader.varint()?;
            let first = end.and_then(|end| end.checked_add(gap)).ok_or(MALFORMED)?;
            let last = first.checked_add(reader.varint()?).ok_or(MALFORMED)?;
            batches.push_back(Extent { first, last });
            end = last.checked_add(1);
        }
        reader.end()?;
        Ok(Self {
            epoch,
            sequence,
            batches,
        })
    }
}

const _: () = assert!(
    PRODUCER_WINDOW_BATCHES <= u8::MAX as usize,
    "the number of batches is one byte"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(batches: &[(u32, u32, Offset, Offset)]) -> ProducerWindow {
        let mut window = ProducerWindow::default();
        for &(epoch, sequence, first, last) in batches {
            assert_eq!(window.check(epoch, sequence), Ok(Verdict::Next));
            window.record(epoch, sequence, first, last);
        }
        window
    }

    #[test]
    fn a_retry_gets_the_offsets_of_the_first_append() {
        let window = window(&[(3, 0, 10, 19), (3, 1, 25, 25)]);
        assert_eq!(
            window.check(3, 0),
            Ok(Verdict::Duplicate {
                first: 10,
                last: 19
            })
        );
        assert_eq!(
            window.check(3, 1),
            Ok(Verdict::Duplicate {
                first: 25,
                last: 25
            })
        );
        assert_eq!(window.check(3, 2), Ok(Verdict::Next));
        assert_eq!(window.check(3, 3), Err(SequenceError::Gap { expected: 2 }));
    }

    #[test]
    fn a_newer_epoch_starts_at_zero_and_fences_the_older() {
        let mut window = window(&[(3, 0, 10, 19)]);
        assert_eq!(window.check(4, 1), Err(SequenceError::Gap { expected: 0 }));
        assert_eq!(
            window.check(2, 0),
            Err(SequenceError::Fenced { current: 3 })
        );
        assert_eq!(window.check(4, 0), Ok(Verdict::Next));
        window.record(4, 0, 20, 20);
        assert_eq!(
            window.check(3, 0),
            Err(SequenceError::Fenced { current: 4 })
        );
        assert_eq!(
            window.check(3, 1),
            Err(SequenceError::Fenced { current: 4 })
        );
        assert_eq!(
            window.check(4, 0),
            Ok(Verdict::Duplicate {
                first: 20,
                last: 20
            })
        );
        assert_eq!((window.epoch(), window.last_offset()), (Some(4), Some(20)));
    }

    #[test]
    fn a_stranger_starts_at_zero() {
        let window = ProducerWindow::default();
        assert_eq!(window.check(9, 0), Ok(Verdict::Next));
        assert_eq!(window.check(9, 1), Err(SequenceError::Unknown));
        assert_eq!((window.epoch(), window.last_offset()), (None, None));
    }

    #[test]
    fn a_retry_older_than_the_window_is_unknown_and_never_next() {
        let mut window = ProducerWindow::default();
        for n in 0..=PRODUCER_WINDOW_BATCHES as u32 {
            window.record(0, n, n.into(), n.into());
        }
        assert_eq!(window.check(0, 0), Err(SequenceError::Unknown));
        assert_eq!(
            window.check(0, 1),
            Ok(Verdict::Duplicate { first: 1, last: 1 })
        );
    }

    #[test]
    fn the_last_sequence_is_followed_only_by_a_newer_epoch() {
        let mut window = ProducerWindow::default();
        window.record(0, u32::MAX, 5, 5);
        assert_eq!(
            window.check(0, u32::MAX),
            Ok(Verdict::Duplicate { first: 5, last: 5 })
        );
        assert_eq!(window.check(0, 0), Err(SequenceError::Unknown));
        assert_eq!(window.check(1, 0), Ok(Verdict::Next));
    }

    #[test]
    fn a_batch_out_of_order_starts_the_window_again() {
        for (epoch, sequence, first) in [(3, 5, 90), (3, 1, 10), (4, 1, 90)] {
            let mut window = window(&[(3, 0, 10, 19)]);
            window.record(epoch, sequence, first, first);
            assert_eq!(
                window.check(epoch, sequence),
                Ok(Verdict::Duplicate { first, last: first })
            );
            assert_eq!(window.check(epoch, 0), Err(SequenceError::Unknown));
            assert_eq!(ProducerWindow::decode(&window.encode()), Ok(window));
        }
    }

    #[test]
    fn window_bytes() {
        assert_eq!(
            ProducerWindow::default().encode(),
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        let window = window(&[(3, 0, 300, 309), (3, 1, 310, 310), (3, 2, 313, 313)]);
        assert_eq!(
            window.encode(),
            [1, 0, 0, 0, 3, 0, 0, 0, 2, 3, 0xac, 2, 9, 0, 0, 2, 0]
        );
        assert_eq!(ProducerWindow::decode(&window.encode()), Ok(window));
    }

    #[test]
    fn impossible_windows_are_refused() {
        let malformed = Err(DecodeError::NotCanonical {
            what: "the producer window",
        });
        assert_eq!(
            ProducerWindow::decode(&[1, 0, 0, 0, 3, 0, 0, 0, 2, 0]),
            malformed
        );
        assert_eq!(
            ProducerWindow::decode(&[1, 0, 0, 0, 3, 0, 0, 0, 0, 2, 0, 0, 0, 0]),
            malformed
        );
        let too_many = DecodeError::TooMany {
            what: "batches",
            count: 65,
            max: 64,
        };
        assert_eq!(
            ProducerWindow::decode(&[1, 0, 0, 0, 3, 0, 0, 0, 99, 65]),
            Err(too_many)
        );
        let newer = DecodeError::UnknownVersion { found: 2, known: 1 };
        assert_eq!(ProducerWindow::decode(&[2]), Err(newer));
        assert_eq!(ProducerWindow::decode(&[]), Err(DecodeError::Truncated));
    }

    /// Remembers every batch for ever, and searches.
    #[derive(Default)]
    struct Model(Vec<(u32, u32, Offset, Offset)>);

    impl Model {
        fn check(&self, epoch: u32, sequence: u32) -> Result<Verdict, SequenceError> {
            let Some(current) = self.0.iter().map(|batch| batch.0).max() else {
                return if sequence == 0 {
                    Ok(Verdict::Next)
                } else {
                    Err(SequenceError::Unknown)
                };
            };
            if epoch < current {
                return Err(SequenceError::Fenced { current });
            }
            let of_epoch: Vec<_> = self.0.iter().filter(|batch| batch.0 == epoch).collect();
            let expected = of_epoch.len() as u32;
            match of_epoch.iter().position(|batch| batch.1 == sequence) {
                Some(at) if at + PRODUCER_WINDOW_BATCHES < of_epoch.len() => {
                    Err(SequenceError::Unknown)
                }
                Some(at) => Ok(Verdict::Duplicate {
                    first: of_epoch[at].2,
                    last: of_epoch[at].3,
                }),
                None if sequence == expected => Ok(Verdict::Next),
                None => Err(SequenceError::Gap { expected }),
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_model_that_never_forgets(
            steps in prop::collection::vec((0_u32..100, -70_i64..3, 0_u64..3, 0_u64..9), 0..300)
        ) {
            let (mut window, mut model) = (ProducerWindow::default(), Model::default());
            let (mut epoch, mut sequence, mut end) = (0_u32, -1_i64, 0_u64);
            for (luck, back, gap, more) in steps {
                // Mostly the next batch; sometimes a retry, a gap, a newer or an older epoch.
                let (try_epoch, try_sequence) = match luck {
                    0 => (epoch + 1, 0),
                    1 => (epoch.saturating_sub(1), sequence.max(0)),
                    2..20 => (epoch, (sequence + back).max(0)),
                    _ => (epoch, sequence + 1),
                };
                let try_sequence = try_sequence as u32;
                let verdict = window.check(try_epoch, try_sequence);
                prop_assert_eq!(verdict, model.check(try_epoch, try_sequence));
                if verdict == Ok(Verdict::Next) {
                    let (first, last) = (end + gap, end + gap + more);
                    window.record(try_epoch, try_sequence, first, last);
                    model.0.push((try_epoch, try_sequence, first, last));
                    (epoch, sequence, end) = (try_epoch, i64::from(try_sequence), last + 1);
                }
                let encoded = window.encode();
                prop_assert!(encoded.len() <= 10 + PRODUCER_WINDOW_BATCHES * 4);
                prop_assert_eq!(ProducerWindow::decode(&encoded), Ok(window.clone()));
            }
        }

        #[test]
        fn any_bytes_are_refused_or_canonical(tail in prop::collection::vec(any::<u8>(), 0..40), count in 0_u8..8) {
            let mut bytes = vec![FORMAT, 0, 0, 0, 1, 0, 0, 0, 9, count];
            bytes.extend(tail);
            if let Ok(window) = ProducerWindow::decode(&bytes) {
                prop_assert_eq!(window.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_at_all_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ProducerWindow::decode(&bytes);
        }
    }
}
