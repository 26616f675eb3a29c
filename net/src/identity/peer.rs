//! Who is at the other end of a connection, as its certificate says.

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

use super::{Access, Fingerprint, GRANTS_MAX, Grant, Grants, Scope, is_peer_name};

/// What a certificate's holder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// A node of the cluster: may call everything.
    Node,
    /// A client: may do what its grants say, and never call what is between nodes.
    Client,
}

/// The holder of a certificate that one of our authorities signed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Node or client.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// What a client may do. Nodes need none.
    pub grants: Grants,
    /// Which certificate says so: what is revoked where it is lost.
    pub fingerprint: Fingerprint,
}

/// A certificate is signed by a trusted authority but does not say who its holder is.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum PeerError {
    /// There is no certificate.
    #[error("no certificate was presented")]
    Missing,
    /// The certificate cannot be parsed.
    #[error("the certificate is malformed")]
    Malformed,
    /// It names no holder, or more than one.
    #[error(
        "the certificate names no holder, or more than one: it needs one mesh://node/NAME or mesh://client/NAME"
    )]
    Holder,
    /// It carries a mesh:// name that this build does not understand.
    #[error("the certificate says {uri:?}, which is not understood")]
    Unknown {
        /// The name.
        uri: String,
    },
}

impl Peer {
    /// Reads the holder's certificate, which TLS has verified already.
    ///
    /// # Errors
    /// [`PeerError`]: the connection is to be refused.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|_| PeerError::Malformed)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| PeerError::Malformed)?;
        let names = names
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        Self::from_uris(uris, Fingerprint::of(certificate))
    }

    fn from_uris<'a>(
        uris: impl Iterator<Item = &'a str>,
        fingerprint: Fingerprint,
    ) -> Result<Self, PeerError> {
        let mut holder = None;
        let mut grants = Vec::new();
        for uri in uris {
            // Names of other schemes are for other software.
            let Some(rest) = uri.strip_prefix("mesh://") else {
                continue;
            };
            let unknown = || PeerError::Unknown { uri: uri.into() };
            let (kind, rest) = rest.split_once('/').ok_or_else(unknown)?;
            let role = match kind {
                "node" => Role::Node,
                "client" => Role::Client,
                "grant" if grants.len() < GRANTS_MAX => {
                    grants.push(Grant::from_uri_rest(rest).ok_or_else(unknown)?);
                    continue;
                }
                _ => return Err(unknown()),
            };
            if !is_peer_name(rest) {
                return Err(unknown());
            }
            if holder.replace((role, rest.to_owned())).is_some() {
                return Err(PeerError::Holder);
            }
        }
        let (role, name) = holder.ok_or(PeerError::Holder)?;
        Ok(Self {
            role,
            name,
            grants: grants.into_iter().collect(),
            fingerprint,
        })
    }

    /// The peer at the other end of an established connection.
    ///
    /// # Errors
    /// [`PeerError`]: the connection is to be closed.
    pub fn of_connection(connection: &quinn::Connection) -> Result<Self, PeerError> {
        let identity = connection.peer_identity().ok_or(PeerError::Missing)?;
        let chain = identity
            .downcast::<Vec<CertificateDer<'static>>>()
            .map_err(|_| PeerError::Missing)?;
        Self::from_certificate(chain.first().ok_or(PeerError::Missing)?)
    }

    /// Whether it may do this with the topic or key `name`, or with all that begin with it. Nodes may do everything.
    pub fn allows(&self, access: Access, scope: Scope, name: &[u8]) -> bool {
        self.role == Role::Node || self.grants.allows(access, scope, name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(uris: &[&str]) -> Result<Peer, PeerError> {
        Peer::from_uris(uris.iter().copied(), Fingerprint([0; 32]))
    }

    #[test]
    fn one_holder_is_named() {
        assert_eq!(from(&["mesh://node/n1"]).unwrap().role, Role::Node);
        let client = from(&[
            "https://other/",
            "mesh://grant/read/topic/a%2Fb",
            "mesh://client/c",
        ])
        .unwrap();
        assert_eq!((client.role, client.name.as_str()), (Role::Client, "c"));
        assert!(client.allows(Access::Read, Scope::Topic, b"a/b/c"));
        assert!(!client.allows(Access::Read, Scope::Topic, b"a"));
        assert_eq!(
            from(&["mesh://node/n1", "mesh://client/n1"]),
            Err(PeerError::Holder)
        );
        assert_eq!(from(&["mesh://grant/read/topic/"]), Err(PeerError::Holder));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for uri in [
            "mesh://node/",
            "mesh://node/a/b",
            "mesh://node",
            "mesh://root/a",
            "mesh://grant/own/topic/",
        ] {
            assert_eq!(
                from(&["mesh://client/c", uri]),
                Err(PeerError::Unknown { uri: uri.into() })
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_survives_anything(uris in prop::collection::vec("(mesh://)?(node|client|grant)?/?\\PC{0,20}", 0..4), der in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Peer::from_uris(uris.iter().map(String::as_str), Fingerprint([0; 32]));
            let _ = Peer::from_certificate(&der.into());
        }
    }
}
