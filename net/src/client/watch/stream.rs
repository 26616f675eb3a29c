//! One watch stream at one node, from its request to its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::state::{State, states};
use crate::client::ClientError;
use crate::client::error::Lost;
use crate::client::line::Line;
use crate::client::link::Link;
use crate::client::links::Links;
use crate::quic::STREAM_GIVEN_UP;
use crate::wire::frame::{FrameReader, FrameWriter};
use crate::wire::proto::{self, ErrorCode, Moved, Request, WatchFrame, request, watch_frame::Kind};

/// How long a node may take to begin; it may have to hear of the newest map first.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a node says.
#[derive(Debug)]
pub(super) enum Said {
    /// What follows is everything, as of the map of this version.
    SnapshotBegin(u64),
    SnapshotEnd,
    States(Vec<State>),
    Moved(Moved),
    /// No more comes.
    Ended(End),
}

/// Why no more comes.
#[derive(Debug)]
pub(super) enum End {
    /// Another node, or this one later, may go on.
    Passing(ClientError),
    /// The same, and the connection is of no more use.
    Lost(ClientError),
    /// What another attempt does not mend.
    Final(ClientError),
}

impl From<Lost> for End {
    fn from(lost: Lost) -> End {
        match lost {
            lost @ Lost::Connection(_) => End::Lost(lost.into_error("watch")),
            lost => End::Final(lost.into_error("watch")),
        }
    }
}

impl From<ClientError> for End {
    fn from(error: ClientError) -> End {
        End::Final(error)
    }
}

/// Asks a node and passes on what it says, numbered, until it ends or nobody listens.
pub(super) async fn run(
    links: Arc<Links>,
    link: Arc<Link>,
    open: proto::WatchOpen,
    number: u64,
    said: mpsc::Sender<(u64, Said)>,
) {
    let listening = async {
        let Err(end) = listen(&links, &link, open, number, &said).await else {
            return;
        };
        // Where nobody listens any more nobody needs to know.
        let _ = said.send((number, Said::Ended(end))).await;
    };
    select! {
        () = listening => {}
        () = said.closed() => {}
    }
}

/// `Ok`: nobody listens any more.
async fn listen(
    links: &Links,
    link: &Link,
    open: proto::WatchOpen,
    number: u64,
    said: &mpsc::Sender<(u64, Said)>,
) -> Result<(), End> {
    let line = link.line(Instant::now() + links.timeout).await?;
    let listened = frames(links, &line, open, number, said).await;
    if let Err(End::Lost(_)) = &listened {
        link.forget(&line);
    }
    listened
}

async fn frames(
    links: &Links,
    line: &Line,
    open: proto::WatchOpen,
    number: u64,
    said: &mpsc::Sender<(u64, Said)>,
) -> Result<(), End> {
    let beginning = timeout(BEGIN_TIMEOUT, async {
        let _asking = line.ask();
        let mut reader = begin(line, open).await?;
        let first = next(links, line, &mut reader.0).await?;
        Ok::<_, End>((reader, first))
    });
    let (mut reader, mut frame) = beginning.await.unwrap_or_else(|_| {
        let cause = format!("{} does not begin to answer", line.address());
        Err(Lost::Connection(cause).into())
    })?;
    let _waiting = line.listen();
    loop {
        if said.send((number, frame)).await.is_err() {
            return Ok(());
        }
        frame = next(links, line, &mut reader.0).await?;
    }
}

/// Tells the node to save itself the rest when nobody listens any more.
struct Reader(FrameReader<quinn::RecvStream>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.stop(STREAM_GIVEN_UP);
    }
}

async fn begin(line: &Line, open: proto::WatchOpen) -> Result<Reader, End> {
    let opened = line.connection().open_bi().await;
    let (send, receive) = opened.map_err(|error| Lost::of_connection(&error))?;
    let mut writer = FrameWriter::new(send);
    let request = Request::new(request::Kind::Watch(open));
    let sent = writer.header(&request).await;
    sent.map_err(|error| Lost::of_frame(error, line.connection()))?;
    writer.finish();
    Ok(Reader(FrameReader::new(receive)))
}

async fn next(
    links: &Links,
    line: &Line,
    reader: &mut FrameReader<quinn::RecvStream>,
) -> Result<Said, End> {
    let frame = select! {
        frame = reader.frame::<WatchFrame>() => frame,
        () = gone(line, links) => {
            let cause = format!("{} has gone silent", line.address());
            return Err(Lost::Connection(cause).into());
        }
    };
    let frame = frame.map_err(|error| Lost::of_frame(error, line.connection()))?;
    let Some((WatchFrame { kind: Some(kind) }, body)) = frame else {
        return Err(match frame {
            None => Lost::Connection("the watch ended early".into()).into(),
            Some(_) => ClientError::protocol("an answer of no known kind").into(),
        });
    };
    Ok(match kind {
        Kind::Error(error) => return Err(judge(error)),
        Kind::SnapshotBegin(begin) => Said::SnapshotBegin(begin.map_version),
        Kind::SnapshotEnd(_) => Said::SnapshotEnd,
        Kind::States(header) => Said::States(states(header, body)?),
        Kind::Moved(moved) => Said::Moved(moved),
    })
}

/// Resolves once the node is to be taken for dead, and there are others.
async fn gone(line: &Line, links: &Links) {
    line.silent().await;
    if !links.routes().has_others() {
        // QUIC says when the connection is lost.
        std::future::pending::<()>().await;
    }
}

/// Whether another node may do what this one does not.
fn judge(error: proto::Error) -> End {
    match error.code() {
        ErrorCode::Denied
        | ErrorCode::Invalid
        | ErrorCode::Malformed
        | ErrorCode::UnsupportedVersion => End::Final(error.into()),
        // A node that stops keeps the connection a while; the next attempt is to go to another one.
        ErrorCode::Stopping | ErrorCode::Stopped => End::Lost(error.into()),
        _ => End::Passing(error.into()),
    }
}
