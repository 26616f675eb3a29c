//! `meshctl publish`: append records to a topic.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::future::Future;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use mesh_net::client::{ClientError, Compression, Producer, ProducerOptions, Published};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::error::Failure;
use crate::lines::{self, Batches, Template, parse_header};
use crate::session::Session;
use crate::signals::Interrupt;
use crate::values;

/// Batches that may wait for their acknowledgement at a time.
const BATCHES_IN_FLIGHT: usize = 8;

/// Append records to a topic
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl publish events 'first' 'second'
  meshctl publish commits --file commits.ndjson
  tail -f app.log | meshctl publish logs --compress lz4
  meshctl publish ledger 'credit 10' --expect-offset 41 --key account:7

Without VALUE and --file, stdin is read: one record a line. An offset is printed only once its record is
durable. Text is the offset, or FIRST..LAST (inclusive).")]
pub(crate) struct Args {
    /// The topic; it is created where it is missing
    topic: String,
    /// Records, one each
    #[arg(allow_negative_numbers = true)]
    values: Vec<OsString>,
    /// Publish the lines of this file (`-`: stdin)
    #[arg(long, value_name = "FILE", conflicts_with = "values")]
    file: Option<PathBuf>,
    /// The key of every record
    #[arg(long, value_name = "KEY")]
    key: Option<OsString>,
    /// A header of every record (repeatable)
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, Bytes)>,
    /// Append only if the first record gets this offset; otherwise exit with 5 and write nothing
    #[arg(long, value_name = "OFFSET")]
    expect_offset: Option<u64>,
    /// Compress batches
    #[arg(long, value_enum, default_value_t = Codec::None, value_name = "CODEC")]
    compress: Codec,
    /// Fail with exit code 3 where the topic is missing
    #[arg(long)]
    no_create: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Codec {
    None,
    Lz4,
    Zstd,
}

pub(crate) async fn run(mut args: Args, session: &mut Session) -> Result<(), Failure> {
    lines::check_headers(args.headers.len())?;
    let mut interrupt = Interrupt::listen()?;
    let (mut input, progress) = open_input(&mut args, session)?;
    let client = session.connect().await?;
    let producer = client.producer(ProducerOptions {
        compression: match args.compress {
            Codec::None => Compression::None,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        },
        create: !args.no_create,
    });
    let mut pipeline = Pipeline {
        producer,
        topic: args.topic,
        expected: args.expect_offset,
        waiting: VecDeque::new(),
        printer: Printer::default(),
    };
    let sent = pipeline
        .send_all(&mut input, &mut interrupt, session, &progress)
        .await;
    progress.finish_and_clear();
    // Whatever ended the input, the records before it are on their way: their offsets are facts.
    let acknowledged = pipeline.drain(session).await;
    let printed = pipeline.printer.finish(session);
    client.close().await;
    sent.and(acknowledged).and(printed)
}

/// The batches to publish, whether they come from operands, a file or stdin.
fn open_input(args: &mut Args, session: &Session) -> Result<(Batches, ProgressBar), Failure> {
    let template = Template {
        key: args.key.take().map(|key| key.into_vec().into()),
        headers: std::mem::take(&mut args.headers),
    };
    let hidden = ProgressBar::hidden();
    if !args.values.is_empty() {
        let values = std::mem::take(&mut args.values)
            .into_iter()
            .map(|value| value.into_vec().into())
            .collect();
        return Ok((lines::batches_of(values, template)?, hidden));
    }
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let file = values::open(path)?;
            let length = file
                .metadata()
                .map_err(|e| Failure::file("read", path, &e))?
                .len();
            let progress = if session.out.is_quiet() || !io::stderr().is_terminal() {
                hidden
            } else {
                bar(length)
            };
            Ok((lines::batches(file, template)?, progress))
        }
        _ => {
            if io::stdin().is_terminal() {
                session
                    .out
                    .progress("reading records from the terminal, one a line; Ctrl-D ends");
            }
            Ok((lines::batches(io::stdin(), template)?, hidden))
        }
    }
}

fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:40} {bytes}/{total_bytes} {binary_bytes_per_sec} eta {eta}",
    );
    let bar = ProgressBar::new(length);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Batches on their way, oldest first.
struct Pipeline {
    producer: Producer,
    topic: String,
    /// The offset that the next batch must get, where the user asked for one.
    expected: Option<u64>,
    waiting: VecDeque<JoinHandle<Result<Published, ClientError>>>,
    printer: Printer,
}

impl Pipeline {
    /// Sends every batch of the input, printing acknowledgements as they come.
    async fn send_all(
        &mut self,
        input: &mut Batches,
        interrupt: &mut Interrupt,
        session: &mut Session,
        progress: &ProgressBar,
    ) -> Result<(), Failure> {
        loop {
            // An acknowledgement that is there is printed even while the input pauses.
            let batch = tokio::select! {
                biased;
                signal = interrupt.received() => return Err(self.interrupted(signal)),
                done = settled(self.waiting.front_mut()) => {
                    self.waiting.pop_front();
                    self.printer.print(&self.topic, done?, session)?;
                    continue;
                }
                batch = input.recv(), if self.has_room() => batch,
            };
            let Some(batch) = batch.transpose()? else {
                return Ok(());
            };
            self.send(batch.records).await;
            progress.inc(batch.input_bytes);
        }
    }

    fn has_room(&self) -> bool {
        // The first batch may create the topic, and a conditional one decides about those behind it: these go alone.
        let alone = self.expected.is_some() || self.printer.records == 0;
        self.waiting.len() < if alone { 1 } else { BATCHES_IN_FLIGHT }
    }

    async fn send(&mut self, records: Vec<mesh_net::client::Record>) {
        let (producer, topic, expected) =
            (self.producer.clone(), self.topic.clone(), self.expected);
        self.expected = expected.map(|offset| offset + records.len() as u64);
        let mut call: Pin<Box<dyn Future<Output = _> + Send>> =
            Box::pin(async move { producer.publish_batch(&topic, records, expected).await });
        // Its first poll puts the batch into the producer's queue: polled here, in the order of the input, and
        // only then handed to a task.
        let first = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        self.waiting.push_back(match first {
            Poll::Ready(done) => tokio::spawn(std::future::ready(done)),
            Poll::Pending => tokio::spawn(call),
        });
    }

    /// Waits for everything in flight. The first failure is returned, after all that succeeded has been printed.
    async fn drain(&mut self, session: &mut Session) -> Result<(), Failure> {
        let mut outcome = Ok(());
        while let Some(call) = self.waiting.pop_front() {
            let done = joined(call.await);
            let printed =
                done.and_then(|published| self.printer.print(&self.topic, published, session));
            outcome = outcome.and(printed);
        }
        outcome
    }

    fn interrupted(&self, signal: &str) -> Failure {
        Failure::failed(format!(
            "stopped by {signal}: the offsets printed are published, the rest of the input is not"
        ))
    }
}

/// The outcome of the oldest batch; pending for ever where there is none.
async fn settled(
    oldest: Option<&mut JoinHandle<Result<Published, ClientError>>>,
) -> Result<Published, Failure> {
    match oldest {
        Some(call) => joined(call.await),
        None => std::future::pending().await,
    }
}

fn joined(
    done: Result<Result<Published, ClientError>, tokio::task::JoinError>,
) -> Result<Published, Failure> {
    match done {
        Ok(done) => Ok(done?),
        Err(e) => Err(Failure::failed(format!(
            "the publishing task ended early: {e}"
        ))),
    }
}

/// Prints acknowledgements: JSON as they come, text joined into ranges without gaps.
#[derive(Default)]
struct Printer {
    open: Option<(u64, u64)>,
    records: u64,
}

impl Printer {
    fn print(
        &mut self,
        topic: &str,
        batch: Published,
        session: &mut Session,
    ) -> Result<(), Failure> {
        self.records += batch.last - batch.first + 1;
        if session.out.is_json() {
            session.out.json(&json!({
                "topic": topic,
                "first_offset": batch.first,
                "last_offset": batch.last,
                "epoch": batch.epoch,
                "synced": &batch.synced[..],
            }))?;
            return session.out.flush();
        }
        match &mut self.open {
            Some((_, last)) if *last + 1 == batch.first => *last = batch.last,
            _ => {
                self.finish(session)?;
                self.open = Some((batch.first, batch.last));
            }
        }
        Ok(())
    }

    /// Prints the range that is still open.
    fn finish(&mut self, session: &mut Session) -> Result<(), Failure> {
        match self.open.take() {
            Some((first, last)) if first == last => session.out.line(first.to_string()),
            Some((first, last)) => session.out.line(format!("{first}..{last}")),
            None => Ok(()),
        }
    }
}
