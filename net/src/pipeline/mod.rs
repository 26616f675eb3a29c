//! Small requests that share one stream of a connection, and their answers, in any order.
//!
//! A stream for each request costs both sides more than most requests do: state in the transport, a task, packets that carry
//! one message. On a pipeline whatever waits shares a write, and thereby packets, wake-ups and acknowledgements.
//!
//! - `calls`: the side that asks; `outgoing`: frames of many tasks on their way to one stream, which both sides have.
//!   The side that answers is `node::pipeline`.

mod calls;
mod outgoing;

use bytes::Bytes;

pub(crate) use self::calls::{CallError, Calls};
pub(crate) use self::outgoing::Outgoing;
use crate::wire::proto::reply;

/// Longest body of a request that is put on a pipeline, in bytes: a longer one would hold up those behind it.
pub(crate) const PIPELINED_BODY_BYTES_MAX: usize = 64 << 10;

/// The frames of an answer.
pub(crate) type Answer = Vec<(reply::Kind, Bytes)>;
