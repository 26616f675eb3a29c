//! What the engine says, in the words of the wire.

use mesh_engine::{AppendError, BindingError, ReadError, TopicError};
use mesh_ring::binding::WriteError;
use mesh_ring::producer::SequenceError;

use crate::wire::PROTOCOL_VERSION;
use crate::wire::proto::{Error, ErrorCode};

/// An error of `code` with what a person needs to know.
pub(super) fn error(code: ErrorCode, message: impl Into<String>) -> Error {
    Error {
        code: code.into(),
        message: message.into(),
        ..Error::default()
    }
}

pub(super) fn invalid(reason: impl ToString) -> Error {
    error(ErrorCode::Invalid, reason.to_string())
}

pub(super) fn malformed(reason: impl std::fmt::Display) -> Error {
    error(
        ErrorCode::Malformed,
        format!("not a request of this protocol: {reason}"),
    )
}

pub(super) fn unsupported(version: u32) -> Error {
    error(
        ErrorCode::UnsupportedVersion,
        format!(
            "protocol version {version} is not spoken here, {PROTOCOL_VERSION} is: update the older side"
        ),
    )
}

pub(super) fn stopping() -> Error {
    error(
        ErrorCode::Stopping,
        "the node is stopping: try again, here later or at another node",
    )
}

/// Something was under way when whoever did it was ended: to repeat it may be to do it twice.
pub(super) fn cut_off() -> Error {
    error(
        ErrorCode::OutcomeUnknown,
        "the node stopped while this was under way: it may have been done; look, or try again",
    )
}

pub(super) fn internal() -> Error {
    error(
        ErrorCode::Internal,
        "the node failed at this request: its log says why",
    )
}

pub(super) fn no_such_topic(name: &str) -> Error {
    error(
        ErrorCode::TopicNotFound,
        format!("topic {name} does not exist: create it with `meshctl topic create`"),
    )
}

/// A partition that cannot go on at this node.
pub(super) fn partition_failed(id: mesh_ring::ids::PartitionId, cause: &str) -> Error {
    error(
        ErrorCode::Corrupt,
        format!("partition {id} cannot go on at this node: {cause}: other replicas may"),
    )
}

/// More replicas were asked for than a cluster of `have` nodes has.
pub(super) fn not_enough_replicas(need: u32, have: u32) -> Error {
    error(
        ErrorCode::NotEnoughReplicas,
        format!("not enough replicas (need {need}, have {have})"),
    )
}

pub(super) fn of_append(reason: &AppendError) -> Error {
    let message = reason.to_string();
    match reason {
        AppendError::Invalid(_) => error(ErrorCode::Invalid, message),
        AppendError::TopicDeleted => error(ErrorCode::TopicDeleted, message),
        AppendError::WrongOffset { next, .. } => Error {
            next_offset: Some(*next),
            ..error(ErrorCode::OffsetMismatch, message)
        },
        AppendError::Sequence(SequenceError::Gap { expected }) => Error {
            current: Some(*expected),
            ..error(ErrorCode::SequenceGap, message)
        },
        AppendError::Sequence(SequenceError::Fenced { current }) => Error {
            current: Some(*current),
            ..error(ErrorCode::Fenced, message)
        },
        AppendError::Sequence(SequenceError::Unknown) => error(ErrorCode::UnknownProducer, message),
        AppendError::DiskFull { .. } => error(ErrorCode::NoSpace, message),
        AppendError::Read(reason) => undecided(reason),
        AppendError::Stopped(_) => error(ErrorCode::Stopped, message),
    }
}

pub(super) fn of_read(reason: &ReadError) -> Error {
    let message = reason.to_string();
    match reason {
        ReadError::TopicDeleted => error(ErrorCode::TopicDeleted, message),
        ReadError::Trimmed { first, .. } => Error {
            first_offset: Some(*first),
            ..error(ErrorCode::Trimmed, message)
        },
        ReadError::BeyondEnd { next, .. } => Error {
            next_offset: Some(*next),
            ..error(ErrorCode::OffsetBeyondEnd, message)
        },
        ReadError::Damaged(_) => error(ErrorCode::Corrupt, message),
        ReadError::JournalGone { .. } | ReadError::Store(_) => error(ErrorCode::Internal, message),
        ReadError::Incomplete => error(ErrorCode::NotReplica, message),
    }
}

/// A leader could not decide for what it could not read. Where that is damaged, it is asked of other replicas.
fn undecided(reason: &ReadError) -> Error {
    match reason {
        ReadError::Damaged(_) => error(
            ErrorCode::Unavailable,
            format!("{reason}: not done, try again when it is healed from another replica"),
        ),
        reason => of_read(reason),
    }
}

pub(super) fn of_topic(reason: &TopicError) -> Error {
    let message = reason.to_string();
    match reason {
        TopicError::Exists(_) => error(ErrorCode::TopicExists, message),
        TopicError::Unknown => error(ErrorCode::TopicDeleted, message),
        TopicError::BeyondEnd { next, .. } => Error {
            next_offset: Some(*next),
            ..error(ErrorCode::OffsetBeyondEnd, message)
        },
        TopicError::DiskFull { .. } => error(ErrorCode::NoSpace, message),
        TopicError::Read(reason) => undecided(reason),
        TopicError::Stopped(_) => error(ErrorCode::Stopped, message),
    }
}

pub(super) fn of_binding(reason: &BindingError) -> Error {
    let message = reason.to_string();
    match reason {
        BindingError::ValueTooLarge { .. } => error(ErrorCode::Invalid, message),
        BindingError::Refused(
            WriteError::TooManySiblings { .. } | WriteError::SiblingsTooLarge { .. },
        ) => error(ErrorCode::TooManySiblings, message),
        BindingError::Refused(_) => error(ErrorCode::Invalid, message),
        BindingError::DiskFull { .. } => error(ErrorCode::NoSpace, message),
        BindingError::Read(reason) => of_read(reason),
        BindingError::Stopped(_) => error(ErrorCode::Stopped, message),
    }
}
