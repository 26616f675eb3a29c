//! TLS as both ends of a connection use it.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use x509_parser::parse_x509_certificate;

use super::{CredentialFiles, IdentityError, files};
use crate::{quic::RestartKey, wire::ALPN};

/// A loaded identity: certificate, key, and the authorities trusted.
#[derive(Debug)]
pub struct Credentials {
    files: CredentialFiles,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads the three files.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file and what to do.
    pub fn load(paths: &CredentialFiles) -> Result<Self, IdentityError> {
        let mut roots = RootCertStore::empty();
        for authority in files::certificates(&paths.ca)? {
            roots.add(authority).map_err(|e| IdentityError::Contents {
                path: paths.ca.clone(),
                expected: "authority certificate",
                cause: e.to_string(),
            })?;
        }
        Ok(Self {
            files: paths.clone(),
            roots: Arc::new(roots),
            chain: files::certificates(&paths.certificate)?,
            key: files::private_key(&paths.key)?,
        })
    }

    /// The own certificate.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        self.chain.first()
    }

    /// Whether nothing is different.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key == other.key && self.roots.roots == other.roots.roots
    }

    /// Whether handshakes could succeed with it now: the key is the certificate's, and its time has come and not passed.
    ///
    /// # Errors
    /// [`IdentityError::Unusable`].
    pub(super) fn check(&self) -> Result<(), IdentityError> {
        self.server()?;
        self.client()?;
        let certificate = self
            .certificate()
            .ok_or_else(|| self.unusable("it is empty"))?;
        let (_, parsed) = parse_x509_certificate(certificate).map_err(|e| self.unusable(e))?;
        let validity = parsed.validity();
        if validity.is_valid() {
            return Ok(());
        }
        Err(self.unusable(format!(
            "it holds from {} until {}, and not now",
            validity.not_before, validity.not_after
        )))
    }

    /// TLS for the side that accepts: a certificate of a trusted authority is demanded of every peer.
    pub(crate) fn server(&self) -> Result<QuicServerConfig, IdentityError> {
        let provider = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider.clone())
                .build()
                .map_err(|e| self.unusable(e))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.unusable(e))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| self.unusable(e))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session is not verified anew, so it would outlive its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(|e| self.unusable(e))
    }

    /// TLS for the side that dials.
    pub(crate) fn client(&self) -> Result<QuicClientConfig, IdentityError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| self.unusable(e))?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|e| self.unusable(e))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        QuicClientConfig::try_from(config).map_err(|e| self.unusable(e))
    }

    /// What an endpoint of this identity keeps over restarts.
    pub(crate) fn restart_key(&self) -> RestartKey {
        RestartKey::derive(self.key.secret_der())
    }

    pub(super) fn unusable(&self, cause: impl std::fmt::Display) -> IdentityError {
        IdentityError::Unusable {
            path: self.files.certificate.clone(),
            cause: cause.to_string(),
        }
    }
}

/// AES-128-GCM first: it is the fastest where the CPU has AES, and every node's has.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            TLS13_AES_128_GCM_SHA256,
            TLS13_AES_256_GCM_SHA384,
            TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
}
