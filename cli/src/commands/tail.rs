//! `meshctl tail`: print a topic's records, and follow it.

use std::pin::pin;
use std::time::Duration;

use mesh_net::client::{Client, Start, TailBatch, TailOptions, TailRecord};
use serde_json::Value;
use tokio::time::Instant;

use crate::error::Failure;
use crate::json::{Object, put_bytes, put_header};
use crate::session::Session;
use crate::signals::Interrupt;
use crate::time::{parse_moment, rfc3339};

/// Longest time for which printed records may stay out of the cursor while more of them come.
const CURSOR_LAG_MAX: Duration = Duration::from_millis(200);

/// Print a topic's records, and follow it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl tail commits
  meshctl tail commits --from-offset 24000 --output json
  meshctl tail logs --last 10 --follow
  meshctl tail logs --from-time 10m
  meshctl tail orders --cursor billing

The default is everything from the first record to the end that the topic has now. Text is the value's bytes and
a newline. With --cursor a run begins after the last record that the run before it printed under that name; a
--from option beside it moves the cursor.")]
pub(crate) struct Args {
    /// The topic
    topic: String,
    /// Begin at this offset
    #[arg(long, value_name = "N", group = "start")]
    from_offset: Option<u64>,
    /// Begin at the first record appended at or after this time: RFC 3339, unix milliseconds, or how long ago (10m)
    #[arg(long, value_name = "T", group = "start", value_parser = parse_moment)]
    from_time: Option<u64>,
    /// Begin with the last N records
    #[arg(long, value_name = "N", group = "start")]
    last: Option<u64>,
    /// Wait for more at the end; Ctrl-C ends it
    #[arg(long, short = 'f')]
    follow: bool,
    /// Stop before this offset
    #[arg(long, value_name = "N")]
    until_offset: Option<u64>,
    /// Stop after this many records
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Resume after the last record printed under this name, and remember
    #[arg(long, value_name = "NAME")]
    cursor: Option<String>,
}

impl Args {
    fn start(&self) -> Start {
        match (self.from_offset, self.from_time, self.last, &self.cursor) {
            (Some(offset), ..) => Start::Offset(offset),
            (_, Some(unix_ms), ..) => Start::Time(unix_ms),
            (_, _, Some(count), _) => Start::Last(count),
            (_, _, _, Some(name)) => Start::Cursor(name.clone()),
            _ => Start::First,
        }
    }
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let client = session.connect().await?;
    let mut cursor = args
        .cursor
        .as_deref()
        .map(|name| Cursor::new(&client, &args.topic, name));
    let outcome = print_all(args, &client, &mut cursor, &mut interrupt, session).await;
    // What has been printed counts as read, whatever ended the tail; what could not be printed does not.
    let remembered = match &mut cursor {
        Some(cursor) => cursor.commit().await,
        None => Ok(()),
    };
    client.close().await;
    outcome.and(remembered)
}

async fn print_all(
    args: &Args,
    client: &Client,
    cursor: &mut Option<Cursor<'_>>,
    interrupt: &mut Interrupt,
    session: &mut Session,
) -> Result<(), Failure> {
    let options = TailOptions {
        start: args.start(),
        follow: args.follow,
        until: args.until_offset,
    };
    let mut tail = client.tail(&args.topic, options);
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut told = false;
    while left > 0 {
        let batch = {
            let mut next = pin!(tail.next());
            loop {
                tokio::select! {
                    biased;
                    // The ordinary end of a follower; anything else has not come to its end.
                    signal = interrupt.received() => return if args.follow {
                        Ok(())
                    } else {
                        Err(Failure::failed(format!("stopped by {signal} before the end")))
                    },
                    batch = &mut next => break batch?,
                    () = due(cursor.as_ref()) => commit(cursor).await?,
                }
            }
        };
        if tail.is_leaderless() && !told {
            told = true;
            session
                .out
                .warn("the topic has no leader just now: its end may be further on");
        }
        let Some(TailBatch { mut records }) = batch else {
            break;
        };
        records.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= records.len() as u64;
        for record in &records {
            print(&args.topic, record, session)?;
        }
        session.out.flush()?;
        if let (Some(cursor), Some(last)) = (cursor.as_mut(), records.last()) {
            cursor.printed(last.offset);
        }
    }
    Ok(())
}

fn print(topic: &str, record: &TailRecord, session: &mut Session) -> Result<(), Failure> {
    if !session.out.is_json() {
        return session.out.line(&record.record.value);
    }
    let mut object = Object::new();
    object.insert("topic".to_owned(), topic.into());
    object.insert("offset".to_owned(), record.offset.into());
    object.insert("time".to_owned(), rfc3339(record.append_time_ms).into());
    match &record.record.key {
        Some(key) => put_bytes(&mut object, "key", key),
        None => _ = object.insert("key".to_owned(), Value::Null),
    }
    put_bytes(&mut object, "value", &record.record.value);
    let mut headers = Object::new();
    for (name, value) in &record.record.headers {
        put_header(&mut headers, name, value);
    }
    object.insert("headers".to_owned(), headers.into());
    session.out.json(&object)
}

/// How far a named reader has printed, and how much of that the node knows.
struct Cursor<'a> {
    client: &'a Client,
    topic: &'a str,
    name: &'a str,
    /// The offset to go on from, while the node does not know it yet.
    pending: Option<u64>,
    /// When the pending offset is to be committed.
    due: Instant,
}

impl<'a> Cursor<'a> {
    fn new(client: &'a Client, topic: &'a str, name: &'a str) -> Self {
        Self {
            client,
            topic,
            name,
            pending: None,
            due: Instant::now(),
        }
    }

    fn printed(&mut self, offset: u64) {
        if self.pending.is_none() {
            self.due = Instant::now() + CURSOR_LAG_MAX;
        }
        self.pending = Some(offset + 1);
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        if let Some(next) = self.pending.take() {
            self.client
                .commit_cursor(self.topic, self.name, next)
                .await?;
        }
        Ok(())
    }
}

async fn commit(cursor: &mut Option<Cursor<'_>>) -> Result<(), Failure> {
    match cursor {
        Some(cursor) => cursor.commit().await,
        None => Ok(()),
    }
}

/// Completes when a commit is due; never, where nothing is pending.
async fn due(cursor: Option<&Cursor<'_>>) {
    match cursor {
        Some(Cursor {
            pending: Some(_),
            due,
            ..
        }) => tokio::time::sleep_until(*due).await,
        _ => std::future::pending().await,
    }
}
