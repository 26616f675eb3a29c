//! Who is who: a private certificate authority, node and client certificates, and what a client may do.
//!
//! Everything is mutual TLS 1.3. A certificate says in its subject alternative names what its holder is:
//! `mesh://node/NAME` or `mesh://client/NAME`, and a client's also `mesh://grant/…` for each thing it may do
//! ([`Grant`]). Node certificates carry the DNS name [`NODE_SERVER_NAME`], client certificates never do, so that
//! an ordinary TLS client takes only nodes for servers. Keys are files of mode 0600.
//!
//! Nothing of it needs a restart: [`LiveIdentity`] follows its files, [`trust`] lets two authorities overlap, and
//! [`Revoked`] certificates are refused and their connections closed.

mod authority;
mod files;
mod fingerprint;
mod grants;
mod live;
mod peer;
mod revoked;
mod tls;
mod trust;

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

pub use authority::{AUTHORITY_CERTIFICATE_FILE, AUTHORITY_KEY_FILE, Authority};
pub use files::{CERTIFICATE_FILE, CredentialFiles, KEY_FILE};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use grants::{Access, GRANTS_MAX, Grant, GrantError, Grants, Scope};
pub use live::{LiveIdentity, RELOAD_EVERY};
pub use peer::{Peer, PeerError, Role};
pub use revoked::{REVOKED_FILE, REVOKED_REASON, Revoked, revoke_in};
use thiserror::Error;
pub use tls::Credentials;
pub use trust::{distrust, trust};

/// The DNS name in every node certificate, which clients verify whatever a node's address is.
pub const NODE_SERVER_NAME: &str = "node.mesh";
/// Longest name of a node or a client, in bytes.
pub const PEER_NAME_BYTES_MAX: usize = 64;

/// An identity could not be made or loaded.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A file is missing or cannot be read or written.
    #[error("cannot {doing} {path}: {source}. {remedy}")]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// A file is there, but its contents are not what they should be.
    #[error("{path} holds no {expected}: {cause}. Restore it or issue the identity again")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// Why it does not.
        cause: String,
    },
    /// An authority or identity is there already, and is never overwritten.
    #[error("{path} exists already and is not overwritten")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The name of a node or client is not allowed.
    #[error(
        "name {name:?} is not allowed: 1 to {PEER_NAME_BYTES_MAX} letters, digits, dots, dashes or underscores, \
         not starting with a dot or dash"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A host is neither an IP address nor a DNS name.
    #[error("{host:?} is neither an IP address nor a DNS name")]
    Host {
        /// The host.
        host: String,
    },
    /// More grants than a certificate may carry.
    #[error("{count} grants; the limit is {GRANTS_MAX}")]
    TooManyGrants {
        /// How many.
        count: usize,
    },
    /// A certificate could not be made.
    #[error("could not make the certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The certificate, key and authorities do not make a usable TLS identity.
    #[error("the identity in {path} cannot be used: {cause}")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
}

/// When a certificate holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validity {
    /// Not before this time.
    pub from: SystemTime,
    /// Not after this time.
    pub until: SystemTime,
}

impl Validity {
    /// From now on for so many days. It begins an hour early, for hosts whose clocks are behind.
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            from: now - Duration::from_secs(3600),
            until: now + Duration::from_secs(u64::from(days) * 86_400),
        }
    }

    /// Ten years: what `meshctl init` issues.
    pub fn ten_years() -> Self {
        Self::days(3653)
    }
}

/// Whether `name` may name a node or a client.
pub(crate) fn is_peer_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=PEER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with(['.', '-'])
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Client => "client",
        })
    }
}
