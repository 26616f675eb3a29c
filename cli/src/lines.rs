//! Cuts input into records, one a line, and records into batches that never wait for more input.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;

use bytes::Bytes;
use mesh_net::client::Record;
use mesh_ring::limits::{RECORD_BYTES_MAX, RECORD_HEADERS_MAX};
use tokio::sync::mpsc;

use crate::error::Failure;
use crate::time::now_ms;

/// Where a batch is closed even though more input is at hand: large enough to share an fsync, small enough to pipeline.
const BATCH_BYTES: usize = 256 << 10;
/// The same in records, so that tiny lines do not make giant batches.
const BATCH_RECORDS: usize = 4096;
/// Batches read ahead of the one that is being sent.
const BATCHES_AHEAD: usize = 4;

/// Key and headers that every record of one `publish` carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    pub(crate) key: Option<Bytes>,
    pub(crate) headers: Vec<(String, Bytes)>,
}

impl Template {
    fn size(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len());
        self.key.as_ref().map_or(0, Bytes::len) + headers.sum::<usize>()
    }

    fn record(&self, value: Bytes) -> Record {
        Record {
            key: self.key.clone(),
            value,
            headers: self.headers.clone(),
            timestamp_ms: i64::try_from(now_ms()).unwrap_or(i64::MAX),
        }
    }
}

/// Records that are to be published together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) records: Vec<Record>,
    /// How much input it took, line ends included.
    pub(crate) input_bytes: u64,
}

/// The batches of an input, in order. An error is the last item; what came before it is delivered.
pub(crate) type Batches = mpsc::Receiver<Result<Batch, Failure>>;

/// Cuts `input` into records, one a line, on a thread of its own.
pub(crate) fn batches(
    input: impl Read + Send + 'static,
    template: Template,
) -> Result<Batches, Failure> {
    deliver(Cutter::new(Lines::new(input), "line", template))
}

/// Makes a record of each value.
pub(crate) fn batches_of(values: Vec<Bytes>, template: Template) -> Result<Batches, Failure> {
    deliver(Cutter::new(Values(values.into_iter()), "value", template))
}

fn deliver(mut cutter: Cutter<impl Source + Send + 'static>) -> Result<Batches, Failure> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    thread::Builder::new()
        .name("input".to_owned())
        .spawn(move || {
            while let Some(batch) = cutter.next_batch().transpose() {
                let last = batch.is_err();
                if sender.blocking_send(batch).is_err() || last {
                    return;
                }
            }
        })
        .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
    Ok(receiver)
}

/// Where values come from, one after the other.
trait Source {
    /// The next value and how much input it took. A value longer than `bytes_max` may be cut, but not to that length.
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<(Bytes, u64)>>;
    /// Whether the next value is there without waiting for it.
    fn is_ready(&self) -> bool;
}

/// The lines of a stream.
struct Lines<R>(BufReader<R>);

impl<R: Read> Lines<R> {
    fn new(input: R) -> Self {
        Self(BufReader::with_capacity(BATCH_BYTES, input))
    }
}

impl<R: Read> Source for Lines<R> {
    /// A line without its end. A last line need not have an end.
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<(Bytes, u64)>> {
        let mut value = Vec::new();
        // One byte more for the line end, one to see that the line goes on beyond the limit.
        let read = (&mut self.0)
            .take(bytes_max as u64 + 2)
            .read_until(b'\n', &mut value)?;
        if read == 0 {
            return Ok(None);
        }
        if value.last() == Some(&b'\n') {
            value.pop();
        }
        Ok(Some((value.into(), read as u64)))
    }

    fn is_ready(&self) -> bool {
        self.0.buffer().contains(&b'\n')
    }
}

/// Values that are all there.
struct Values(std::vec::IntoIter<Bytes>);

impl Source for Values {
    fn next(&mut self, _bytes_max: usize) -> io::Result<Option<(Bytes, u64)>> {
        Ok(self.0.next().map(|value| {
            let length = value.len() as u64;
            (value, length)
        }))
    }

    fn is_ready(&self) -> bool {
        true
    }
}

/// Makes batches of records.
struct Cutter<S> {
    source: S,
    /// What a value of this source is called in errors.
    what: &'static str,
    template: Template,
    /// The most that a value may hold beside the template.
    value_max: usize,
    number: u64,
    failure: Option<Failure>,
}

impl<S: Source> Cutter<S> {
    fn new(source: S, what: &'static str, template: Template) -> Self {
        Self {
            source,
            what,
            value_max: RECORD_BYTES_MAX.saturating_sub(template.size()),
            template,
            number: 0,
            failure: None,
        }
    }

    /// The next batch; `None` at the end of the input. After an error nothing more may be asked.
    fn next_batch(&mut self) -> Result<Option<Batch>, Failure> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut batch = Batch {
            records: Vec::new(),
            input_bytes: 0,
        };
        let mut bytes = 0;
        while bytes < BATCH_BYTES && batch.records.len() < BATCH_RECORDS {
            match self.next_value() {
                Ok(Some((value, read))) => {
                    bytes += value.len() + self.template.size();
                    batch.input_bytes += read;
                    batch.records.push(self.template.record(value));
                }
                Ok(None) => break,
                Err(failure) if batch.records.is_empty() => return Err(failure),
                Err(failure) => {
                    self.failure = Some(failure);
                    break;
                }
            }
            // A pipe whose writer pauses would hold back what is here: that goes first.
            if !self.source.is_ready() {
                break;
            }
        }
        Ok((!batch.records.is_empty()).then_some(batch))
    }

    fn next_value(&mut self) -> Result<Option<(Bytes, u64)>, Failure> {
        self.number += 1;
        let (what, number) = (self.what, self.number);
        let next = self.source.next(self.value_max);
        match next.map_err(|e| Failure::failed(format!("cannot read {what} {number}: {e}")))? {
            Some((value, _)) if value.len() > self.value_max => Err(Failure::usage(format!(
                "{what} {number} is over the limit of {RECORD_BYTES_MAX} bytes a record (key, value and headers \
                 together): nothing from it on was published"
            ))),
            next => Ok(next),
        }
    }
}

/// Parses `--header k=v`.
pub(crate) fn parse_header(text: &str) -> Result<(String, Bytes), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => {
            Ok((name.to_owned(), Bytes::copy_from_slice(value.as_bytes())))
        }
        _ => Err("write a header as NAME=VALUE".to_owned()),
    }
}

/// Refuses more headers than a record may have.
pub(crate) fn check_headers(count: usize) -> Result<(), Failure> {
    if count > RECORD_HEADERS_MAX {
        return Err(Failure::usage(format!(
            "{count} headers are over the limit of {RECORD_HEADERS_MAX} a record"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn cut(input: impl Read) -> (Vec<Vec<Bytes>>, Option<Failure>) {
        let mut cutter = Cutter::new(Lines::new(input), "line", Template::default());
        let mut batches = Vec::new();
        loop {
            match cutter.next_batch() {
                Ok(Some(batch)) => {
                    batches.push(batch.records.into_iter().map(|r| r.value).collect())
                }
                Ok(None) => return (batches, None),
                Err(failure) => return (batches, Some(failure)),
            }
        }
    }

    #[test]
    fn every_line_is_a_record_byte_for_byte() {
        let (batches, failure) = cut(&b"a\n\nb\r\n\xff\xfe\nlast"[..]);
        assert!(failure.is_none());
        let lines: Vec<Bytes> = batches.concat();
        assert_eq!(lines, [&b"a"[..], b"", b"b\r", b"\xff\xfe", b"last"]);
    }

    #[test]
    fn no_line_waits_for_the_next() {
        // Each read of a pipe gives what is there; a batch must go out before the next read could block.
        struct Pipe(Vec<&'static [u8]>);
        impl Read for Pipe {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let Some(chunk) = self.0.pop() else {
                    return Ok(0);
                };
                into[..chunk.len()].copy_from_slice(chunk);
                Ok(chunk.len())
            }
        }
        let (batches, _) = cut(Pipe(vec![b"le\n", b"c\nd\nhal", b"a\nb\n"]));
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(batches[2][0], &b"halle"[..]);
    }

    #[test]
    fn large_input_is_cut_into_bounded_batches() {
        let (batches, _) = cut("x\n".repeat(10_000).as_bytes());
        assert_eq!(
            batches.iter().map(Vec::len).collect::<Vec<_>>(),
            [4096, 4096, 1808]
        );
    }

    #[test]
    fn a_line_over_the_limit_is_named_and_what_precedes_it_is_kept() {
        let mut input = b"one\ntwo\n".to_vec();
        input.extend(std::iter::repeat_n(b'x', RECORD_BYTES_MAX));
        input.push(b'\n');
        let (batches, failure) = cut(&input[..]);
        assert!(
            failure.is_none(),
            "a record of exactly the limit is allowed"
        );
        assert_eq!(batches.concat().len(), 3);

        input.insert(8, b'x');
        input.extend(b"after\n");
        let (batches, failure) = cut(&input[..]);
        assert_eq!(batches.concat(), [&b"one"[..], b"two"]);
        let Some(Failure::Told { exit, message }) = failure else {
            panic!("{failure:?}")
        };
        assert_eq!(exit, Exit::Usage);
        assert!(
            message.contains("line 3") && message.contains("1048576"),
            "{message}"
        );
    }

    #[test]
    fn headers() {
        assert_eq!(
            parse_header("a=b=c"),
            Ok(("a".to_owned(), Bytes::from_static(b"b=c")))
        );
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), Bytes::new())));
        assert!(parse_header("a").is_err());
        assert!(parse_header("=b").is_err());
    }
}
