//! `meshctl watch`: what keys hold, and every change of it.

use std::ffi::OsString;

use mesh_net::client::{WatchEvent, WatchKind, WatchTarget};
use serde_json::Value;

use crate::error::Failure;
use crate::json::{Object, put_bytes};
use crate::session::Session;
use crate::signals::Interrupt;
use crate::time::rfc3339;
use crate::values;

/// Watch a key, or all keys that begin alike
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl watch user:123
  meshctl watch 'user:*' --output json
  meshctl watch '*' --limit 10

A line for each event, until Ctrl-C: new, changed, deleted, or moved where other nodes keep the key now. The first lines
are what is there already, as new. The watch goes on through failures, joins and drains, tells nothing twice and never
misses the latest value; of several changes in short order it may tell the last only. A * at the end stands for any end;
\\* is a star. Quote it, so that the shell leaves it alone. Text is the event, the key, the value, the node and the time,
with tabs between them; --output json keeps any bytes.")]
pub(crate) struct Args {
    /// A key, or what keys begin with and a *
    #[arg(value_name = "KEY|PREFIX*")]
    key: OsString,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

pub(crate) async fn run(args: &Args, session: &mut Session) -> Result<(), Failure> {
    let mut interrupt = Interrupt::listen()?;
    let client = session.connect().await?;
    let mut watch = client.watch(target(&values::argument(&args.key)));
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut outcome = Ok(());
    while left > 0 && outcome.is_ok() {
        outcome = tokio::select! {
            biased;
            _ = interrupt.received() => break,
            event = watch.next() => match event {
                Ok(event) => {
                    left -= 1;
                    print(&event, session).and_then(|()| session.out.flush())
                }
                Err(error) => Err(error.into()),
            },
        };
    }
    client.close().await;
    outcome
}

/// `user:*` is a prefix, `user:\*` a key that ends with a star.
fn target(typed: &[u8]) -> WatchTarget {
    let owned = |bytes: &[u8]| bytes.to_vec().into();
    match typed.strip_suffix(b"*") {
        None => WatchTarget::Key(owned(typed)),
        Some(before) => match before.strip_suffix(b"\\") {
            Some(before) => WatchTarget::Key([before, b"*"].concat().into()),
            None => WatchTarget::Prefix(owned(before)),
        },
    }
}

fn word(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::New => "new",
        WatchKind::Changed => "changed",
        WatchKind::Deleted => "deleted",
        WatchKind::Moved => "moved",
    }
}

fn print(event: &WatchEvent, session: &mut Session) -> Result<(), Failure> {
    if session.out.is_json() {
        return session.out.json(&object(event));
    }
    let value = match event.kind {
        WatchKind::Moved => event.replicas.join(",").into_bytes(),
        _ => event.value.as_deref().map_or_else(Vec::new, on_one_line),
    };
    let time = event.time_ms.map(rfc3339);
    let fields: [&[u8]; 5] = [
        word(event.kind).as_bytes(),
        &on_one_line(&event.key),
        &value,
        event.node.as_deref().unwrap_or("-").as_bytes(),
        time.as_deref().unwrap_or("-").as_bytes(),
    ];
    session.out.line(fields.join(&b'\t'))
}

/// Text as it is, unless it would end the field or the line, or play tricks on the terminal.
fn on_one_line(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => bytes.to_vec(),
        Ok(text) => {
            let escape = |c: char| match c.is_control() {
                true => c.escape_default().to_string(),
                false => c.to_string(),
            };
            text.chars().map(escape).collect::<String>().into_bytes()
        }
        Err(_) => bytes.escape_ascii().to_string().into_bytes(),
    }
}

fn object(event: &WatchEvent) -> Object {
    let mut object = Object::new();
    object.insert("event".to_owned(), word(event.kind).into());
    put_bytes(&mut object, "key", &event.key);
    match &event.value {
        Some(value) => put_bytes(&mut object, "value", value),
        None => _ = object.insert("value".to_owned(), Value::Null),
    }
    object.insert("node".to_owned(), event.node.clone().into());
    object.insert("time".to_owned(), event.time_ms.map(rfc3339).into());
    match event.kind {
        WatchKind::Moved => object.insert("replicas".to_owned(), event.replicas.clone().into()),
        _ => object.insert("siblings".to_owned(), event.siblings.into()),
    };
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_at_the_end_is_any_end() {
        let key = |key: &'static str| WatchTarget::Key(key.into());
        let prefix = |prefix: &'static str| WatchTarget::Prefix(prefix.into());
        for (typed, wanted) in [
            ("k", key("k")),
            ("user:*", prefix("user:")),
            ("*", prefix("")),
            ("a*b", key("a*b")),
            ("a**", prefix("a*")),
            ("a\\*", key("a*")),
        ] {
            assert_eq!(target(typed.as_bytes()), wanted, "{typed}");
        }
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(on_one_line("ключ *".as_bytes()), "ключ *".as_bytes());
        assert_eq!(on_one_line(b"a\tb\nc\x1b[0m"), b"a\\tb\\nc\\u{1b}[0m");
        assert_eq!(on_one_line(b"\xff\n"), b"\\xff\\n");
    }
}
