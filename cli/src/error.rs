//! Why a command did not do what was asked: one line for a person, one exit code for a script.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use mesh_net::client::ClientError;

/// The exit codes that scripts depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was tried and did not work.
    Failed = 1,
    /// The request itself is wrong: an unknown flag, a bad name, a value over a limit.
    Usage = 2,
    /// The key, topic, cursor or node does not exist.
    NotFound = 3,
    /// No connection, no quorum, or no space for writes: the same command may work later.
    Unavailable = 4,
    /// The state is not the one that the command required.
    Conflict = 5,
    /// The identity is not known to the cluster, or its ACL does not allow this.
    Refused = 6,
}

/// What ends a command early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of our stdout went away (`meshctl tail t | head`): a quiet, ordinary end.
    ReaderGone,
    /// Anything that a person has to be told.
    Told {
        /// What the process exits with.
        exit: Exit,
        /// The cause and what to do about it, without the `error:` prefix.
        message: String,
    },
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told {
            exit,
            message: message.into(),
        }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Exit::Unavailable, message)
    }

    /// A file that could not be read, written or made. `doing` is a verb: "read", "create".
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        Self::failed(format!("cannot {doing} {}: {error}", path.display()))
    }

    /// A failed write to our own stdout.
    pub(crate) fn stdout(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::failed(format!("cannot write to stdout: {error}"))
        }
    }

    /// The same failure, saying first where it happened.
    pub(crate) fn at(self, place: impl fmt::Display) -> Self {
        match self {
            Self::ReaderGone => Self::ReaderGone,
            Self::Told { exit, message } => Self::Told {
                exit,
                message: format!("{place}: {message}"),
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReaderGone => f.write_str("the reader of stdout went away"),
            Self::Told { message, .. } => f.write_str(message),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match error.exit_code() {
            2 => Exit::Usage,
            3 => Exit::NotFound,
            4 => Exit::Unavailable,
            5 => Exit::Conflict,
            6 => Exit::Refused,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

/// Prints `error: …` on one line of stderr and gives the exit code.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    match failure {
        Failure::ReaderGone => ExitCode::SUCCESS,
        Failure::Told { exit, message } => {
            tell(message);
            ExitCode::from(*exit as u8)
        }
    }
}

/// One `error:` line on stderr. A stderr that is gone cannot be told so: the exit code still speaks.
pub(crate) fn tell(message: &str) {
    let _ = writeln!(io::stderr().lock(), "error: {}", one_line(message));
}

/// Joins the lines of a message, because scripts read errors line by line.
pub(crate) fn one_line(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(
            one_line("no such topic:\n  `a`\n\n try `topic list` "),
            "no such topic: `a` try `topic list`"
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let gone = Failure::stdout(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(gone, Failure::ReaderGone));
        let full = Failure::stdout(&io::Error::from(io::ErrorKind::StorageFull));
        assert!(matches!(
            full,
            Failure::Told {
                exit: Exit::Failed,
                ..
            }
        ));
    }
}
