//! What can go wrong for a client, by what to do about it.

use mesh_engine::batch::BatchError;
use mesh_ring::name::NameError;
use quinn::{ConnectionError, TransportErrorCode};
use thiserror::Error;

use crate::{
    identity::IdentityError,
    quic::{CLOSE_REFUSED, EndpointError},
    wire::{
        frame::FrameError,
        proto::{self, ErrorCode},
    },
};

/// A request that did not do what was asked. [`ClientError::exit_code`] groups them as `meshctl` reports them.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum ClientError {
    /// There is no such topic, cursor or key.
    #[error("{0}")]
    NotFound(String),
    /// The records asked for were trimmed. Read from `first`.
    #[error("{message}")]
    Trimmed {
        /// The first offset that is left.
        first: u64,
        /// What was asked.
        message: String,
    },
    /// The offset is beyond the end of the topic.
    #[error("{message}")]
    OffsetBeyondEnd {
        /// The offset of the topic's next record.
        next: u64,
        /// What was asked.
        message: String,
    },
    /// The topic was deleted since the producer or tail began; one made again under its name is another topic.
    #[error("{0}")]
    TopicDeleted(String),
    /// Not done, or not known to be done, for want of a connection, a quorum, space or time. Trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Not done: what is stored is not what the request expected.
    #[error("{message}")]
    Conflict {
        /// Where an expected offset was wrong: the offset of the topic's next record.
        next: Option<u64>,
        /// What was expected and what is.
        message: String,
    },
    /// Not done: the identity is not accepted, or may not do this.
    #[error("{0}")]
    Refused(String),
    /// Not done: a name, size or value is outside its limit.
    #[error("{0}")]
    Invalid(String),
    /// Something failed that trying again will not help.
    #[error("{0}")]
    Failed(String),
}

impl ClientError {
    /// The exit code that `meshctl` ends with: 1 failed, 2 usage, 3 not found, 4 unavailable, 5 conflict, 6 refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Invalid(_) => 2,
            Self::NotFound(_)
            | Self::Trimmed { .. }
            | Self::OffsetBeyondEnd { .. }
            | Self::TopicDeleted(_) => 3,
            Self::Unavailable(_) => 4,
            Self::Conflict { .. } => 5,
            Self::Refused(_) => 6,
        }
    }

    pub(super) fn protocol(what: &str) -> Self {
        Self::Failed(format!(
            "the node answered with {what}; node and client may be of different versions"
        ))
    }
}

impl From<proto::Error> for ClientError {
    fn from(error: proto::Error) -> Self {
        let code = error.code();
        let proto::Error {
            message,
            first_offset,
            next_offset,
            ..
        } = error;
        match code {
            ErrorCode::Denied => Self::Refused(message),
            ErrorCode::TopicNotFound | ErrorCode::CursorNotFound => Self::NotFound(message),
            ErrorCode::TopicDeleted => Self::TopicDeleted(message),
            ErrorCode::Trimmed => Self::Trimmed {
                first: first_offset.unwrap_or_default(),
                message,
            },
            ErrorCode::OffsetBeyondEnd => Self::OffsetBeyondEnd {
                next: next_offset.unwrap_or_default(),
                message,
            },
            ErrorCode::OffsetMismatch => Self::Conflict {
                next: next_offset,
                message,
            },
            ErrorCode::TopicExists | ErrorCode::Fenced | ErrorCode::TooManySiblings => {
                Self::Conflict {
                    next: None,
                    message,
                }
            }
            ErrorCode::Invalid => Self::Invalid(message),
            ErrorCode::NoSpace
            | ErrorCode::Stopping
            | ErrorCode::Stopped
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotLeader
            | ErrorCode::NotReplica
            | ErrorCode::Unavailable
            | ErrorCode::WrongNode
            | ErrorCode::StateFenced
            | ErrorCode::StateOldMap
            | ErrorCode::StateNewMap
            | ErrorCode::OutcomeUnknown => Self::Unavailable(message),
            ErrorCode::Unspecified
            | ErrorCode::NodeRefused
            | ErrorCode::Malformed
            | ErrorCode::UnsupportedVersion
            | ErrorCode::SequenceGap
            | ErrorCode::UnknownProducer
            | ErrorCode::Corrupt
            | ErrorCode::Internal => Self::Failed(message),
        }
    }
}

impl From<NameError> for ClientError {
    fn from(error: NameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<BatchError> for ClientError {
    fn from(error: BatchError) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<IdentityError> for ClientError {
    fn from(error: IdentityError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<EndpointError> for ClientError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::Identity(error) => error.into(),
            EndpointError::Listen { .. } => Self::Failed(error.to_string()),
        }
    }
}

/// Why an attempt at a request ended without an answer.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// The connection went; another may serve.
    Connection(String),
    /// The node will not have this client; another attempt ends the same way.
    Refused(String),
    /// The peers do not understand each other.
    Protocol(String),
}

impl Lost {
    pub(super) fn of_connection(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(e) => Self::of_code(e.code, error.to_string()),
            ConnectionError::ConnectionClosed(e) => Self::of_code(e.error_code, error.to_string()),
            ConnectionError::ApplicationClosed(e) if e.error_code == CLOSE_REFUSED => {
                Self::Refused(String::from_utf8_lossy(&e.reason).into_owned())
            }
            ConnectionError::VersionMismatch => Self::Protocol(error.to_string()),
            _ => Self::Connection(error.to_string()),
        }
    }

    /// TLS reports through the codes 0x100 to 0x1ff, the low byte being its alert.
    fn of_code(code: TransportErrorCode, text: String) -> Self {
        let code = u64::from(code);
        if !(0x100..0x200).contains(&code) {
            return Self::Connection(text);
        }
        Self::Refused(match code & 0xff {
            42 | 46 => "the node does not accept this certificate".into(),
            45 => {
                "this certificate has expired: issue another with `meshctl ca issue client`".into()
            }
            48 => "the certificate is signed by another authority than the node's".into(),
            116 => "the node demands a client certificate".into(),
            120 => "the node speaks another version of the protocol".into(),
            _ => format!("TLS: {text}"),
        })
    }

    pub(super) fn of_frame(error: FrameError, connection: &quinn::Connection) -> Self {
        match (connection.close_reason(), error) {
            (Some(reason), _) => Self::of_connection(&reason),
            (None, error @ FrameError::Lost(_)) => Self::Connection(error.to_string()),
            (None, error) => Self::Protocol(error.to_string()),
        }
    }

    /// The error where no further attempt is made.
    pub(super) fn into_error(self, doing: &str) -> ClientError {
        match self {
            Self::Connection(cause) => ClientError::Unavailable(format!("{doing}: {cause}")),
            Self::Refused(cause) => ClientError::Refused(format!("refused by the node: {cause}")),
            Self::Protocol(cause) => ClientError::Failed(format!("{doing}: {cause}")),
        }
    }
}
