//! What a client may do, as its certificate says it.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// Most grants that one certificate may carry.
pub const GRANTS_MAX: usize = 64;

/// Reading or writing. Neither implies the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// get, list, tail, describe, and keeping a cursor.
    Read,
    /// put, delete, append, and making, trimming and deleting topics.
    Write,
}

/// Topics, bindings, or the cluster itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Topics, by name.
    Topic,
    /// Bindings, by key.
    Key,
    /// The cluster: who writes it admits, drains and removes nodes and revokes certificates. Its names are empty.
    Cluster,
}

/// Leave to do one thing with all topics or keys that begin with a prefix.
///
/// Its text is `read/topic/PREFIX`, `write/key/PREFIX` and so on; an empty prefix means all. In a certificate it is the
/// URI `mesh://grant/` and that text, the prefix percent-encoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// What may be done.
    pub access: Access,
    /// To what.
    pub scope: Scope,
    /// Beginning with these bytes.
    pub prefix: Vec<u8>,
}

/// A text is no grant.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[error(
    "{text:?} is no grant: write read/topic/PREFIX, write/topic/PREFIX, read/key/PREFIX, write/key/PREFIX \
     or write/cluster/"
)]
pub struct GrantError {
    text: String,
}

impl Grant {
    /// The URI that a certificate carries.
    pub(super) fn uri(&self) -> String {
        format!(
            "mesh://grant/{}/{}/{}",
            self.access,
            self.scope,
            percent_encode(&self.prefix)
        )
    }

    /// The grant that the rest of a certificate's URI, after `mesh://grant/`, stands for.
    pub(super) fn from_uri_rest(rest: &str) -> Option<Self> {
        let (access, scope, prefix) = split(rest)?;
        Some(Self {
            access,
            scope,
            prefix: percent_decode(prefix)?,
        })
    }
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let (access, scope, prefix) =
            split(text).ok_or_else(|| GrantError { text: text.into() })?;
        Ok(Self {
            access,
            scope,
            prefix: prefix.as_bytes().to_vec(),
        })
    }
}

fn split(text: &str) -> Option<(Access, Scope, &str)> {
    let mut parts = text.splitn(3, '/');
    let access = match parts.next()? {
        "read" => Access::Read,
        "write" => Access::Write,
        _ => return None,
    };
    let scope = match parts.next()? {
        "topic" => Scope::Topic,
        "key" => Scope::Key,
        "cluster" => Scope::Cluster,
        _ => return None,
    };
    Some((access, scope, parts.next()?))
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Key => "key",
            Self::Cluster => "cluster",
        })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.access,
            self.scope,
            String::from_utf8_lossy(&self.prefix)
        )
    }
}

/// All that one client may do. The default is nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that clients can be allowed, changing the cluster included.
    pub fn all() -> Self {
        let cluster = Grant {
            access: Access::Write,
            scope: Scope::Cluster,
            prefix: Vec::new(),
        };
        Self::all_data().iter().cloned().chain([cluster]).collect()
    }

    /// Everything with all topics and bindings, and nothing with the cluster itself.
    pub fn all_data() -> Self {
        let every = |access, scope| Grant {
            access,
            scope,
            prefix: Vec::new(),
        };
        Self(vec![
            every(Access::Read, Scope::Topic),
            every(Access::Write, Scope::Topic),
            every(Access::Read, Scope::Key),
            every(Access::Write, Scope::Key),
        ])
    }

    /// Whether something may be done with the topic or key `name`, or with all that begin with it.
    pub fn allows(&self, access: Access, scope: Scope, name: &[u8]) -> bool {
        let covers =
            |g: &Grant| g.access == access && g.scope == scope && name.starts_with(&g.prefix);
        self.0.iter().any(covers)
    }

    /// Each one.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(byte.into());
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uri_bytes() {
        let grant: Grant = "write/key/user:é".parse().unwrap();
        assert_eq!(grant.uri(), "mesh://grant/write/key/user%3A%C3%A9");
    }

    #[test]
    fn a_prefix_covers_only_what_begins_with_it() {
        let grants: Grants = ["read/topic/orders-", "write/key/"]
            .iter()
            .map(|g| g.parse().unwrap())
            .collect();
        assert!(grants.allows(Access::Read, Scope::Topic, b"orders-eu"));
        assert!(grants.allows(Access::Write, Scope::Key, b"anything"));
        assert!(!grants.allows(Access::Read, Scope::Topic, b"orders"));
        assert!(!grants.allows(Access::Write, Scope::Topic, b"orders-eu"));
        assert!(!grants.allows(Access::Read, Scope::Key, b"orders-eu"));
        assert!(!Grants::none().allows(Access::Read, Scope::Key, b""));
        assert!(Grants::all().allows(Access::Read, Scope::Key, b""));
        assert!(Grants::all_data().allows(Access::Write, Scope::Topic, b""));
        assert!(Grants::all().allows(Access::Write, Scope::Cluster, b""));
        assert!(!Grants::all_data().allows(Access::Write, Scope::Cluster, b""));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "read",
            "read/topic",
            "Read/topic/",
            "own/key/a",
            "read/node/",
        ] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
        for rest in ["read/topic/%", "read/topic/%4", "read/topic/%zz"] {
            assert_eq!(Grant::from_uri_rest(rest), None, "{rest}");
        }
    }

    proptest! {
        #[test]
        fn uris_carry_any_prefix(prefix in prop::collection::vec(any::<u8>(), 0..40)) {
            let grant = Grant { access: Access::Read, scope: Scope::Key, prefix };
            let uri = grant.uri();
            prop_assert!(uri.is_ascii());
            prop_assert_eq!(Grant::from_uri_rest(uri.strip_prefix("mesh://grant/").unwrap()), Some(grant));
        }

        #[test]
        fn parsing_survives_anything(text in any::<String>()) {
            let _ = Grant::from_uri_rest(&text);
            let _ = text.parse::<Grant>();
        }
    }
}
