//! The private certificate authority of a cluster.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, string::Ia5String,
};

use rustls::pki_types::CertificateDer;

use super::{
    CERTIFICATE_FILE, Fingerprint, GRANTS_MAX, Grants, IdentityError, KEY_FILE, NODE_SERVER_NAME,
    Peer, Validity,
    files::{self, Secrecy},
    is_peer_name,
};

/// File of the authority's certificate, in the authority's directory and in every identity's.
pub const AUTHORITY_CERTIFICATE_FILE: &str = "ca.pem";
/// File of the authority's private key.
pub const AUTHORITY_KEY_FILE: &str = "ca-key.pem";

/// Folder in the authority's directory with a copy of every certificate that it issued, so that one can be revoked
/// whose holder has lost it.
const ISSUED_DIR: &str = "issued";

/// A certificate authority whose key is at hand: it can issue identities.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// What `ca.pem` holds: this authority first, then any others that are trusted meanwhile.
    trusted: String,
}

impl Authority {
    /// Makes a new authority (ECDSA P-256, ten years) and writes `ca.pem` and, with mode 0600, `ca-key.pem` into `dir`,
    /// which is made where it is missing.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] where there is one; [`IdentityError::File`] where it cannot be written.
    pub fn create(dir: &Path) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = authority_params(&key);
        let trusted = params.self_signed(&key)?.pem();
        files::create_dir(dir)?;
        files::write_new(
            &dir.join(AUTHORITY_KEY_FILE),
            &key.serialize_pem(),
            Secrecy::OwnerOnly,
        )?;
        files::write_new(
            &dir.join(AUTHORITY_CERTIFICATE_FILE),
            &trusted,
            Secrecy::Public,
        )?;
        Ok(Self {
            dir: dir.into(),
            issuer: Issuer::new(params, key),
            trusted,
        })
    }

    /// Loads the authority in `dir`. Where `ca.pem` holds several, the first one issues and all are trusted.
    ///
    /// # Errors
    /// [`IdentityError::File`] or [`IdentityError::Contents`], naming the file.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (certificate_path, key_path) = (
            dir.join(AUTHORITY_CERTIFICATE_FILE),
            dir.join(AUTHORITY_KEY_FILE),
        );
        let contents = |path: &PathBuf, expected, cause: String| IdentityError::Contents {
            path: path.clone(),
            expected,
            cause,
        };
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&files::read(&key_path)?))
            .map_err(|e| contents(&key_path, "private key in PEM", e.to_string()))?;
        let first = files::certificates(&certificate_path)?.swap_remove(0);
        let issuer = Issuer::from_ca_cert_der(&first, key)
            .map_err(|e| contents(&certificate_path, "authority certificate", e.to_string()))?;
        let trusted = String::from_utf8_lossy(&files::read(&certificate_path)?).into_owned();
        Ok(Self {
            dir: dir.into(),
            issuer,
            trusted,
        })
    }

    /// The certificates that the authority in `dir` has issued to holders of this name: nodes and clients, renewed ones
    /// and those before them. The authority's key is not needed.
    ///
    /// # Errors
    /// [`IdentityError::File`] where they cannot be listed or read.
    pub fn issued(dir: &Path, name: &str) -> Result<Vec<Peer>, IdentityError> {
        let mut issued: Vec<Peer> = Vec::new();
        for path in files::list(&dir.join(ISSUED_DIR))? {
            let is_candidate = path
                .file_name()
                .is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}-")));
            if !is_candidate {
                continue;
            }
            let certificates = files::certificates(&path)?;
            let peers = certificates
                .iter()
                .filter_map(|c| Peer::from_certificate(c).ok());
            issued.extend(peers.filter(|peer| peer.name == name));
        }
        issued.sort_by_key(|peer| peer.fingerprint);
        Ok(issued)
    }

    /// Issues a node's identity into `dir`: `ca.pem`, `cert.pem` and, with mode 0600, `key.pem`. `hosts` are IP
    /// addresses or DNS names under which other TLS software may know the node; Meshlog itself does not need them.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::Host`]; [`IdentityError::Exists`] where `dir` holds an identity.
    pub fn issue_node(
        &self,
        dir: &Path,
        name: &str,
        hosts: &[String],
        validity: Validity,
    ) -> Result<(), IdentityError> {
        let mut params = params(name, validity)?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names =
            vec![uri(format!("mesh://node/{name}"))?, dns(NODE_SERVER_NAME)?];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => dns(host)?,
            });
        }
        self.issue(dir, name, &params)
    }

    /// Issues a client's identity into `dir`, like [`Authority::issue_node`]. It may do what `grants` says and
    /// nothing else.
    ///
    /// # Errors
    /// [`IdentityError::Name`], [`IdentityError::TooManyGrants`]; [`IdentityError::Exists`] where `dir` holds an
    /// identity.
    pub fn issue_client(
        &self,
        dir: &Path,
        name: &str,
        grants: &Grants,
        validity: Validity,
    ) -> Result<(), IdentityError> {
        if grants.len() > GRANTS_MAX {
            return Err(IdentityError::TooManyGrants {
                count: grants.len(),
            });
        }
        let mut params = params(name, validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri(format!("mesh://client/{name}"))?];
        for grant in grants.iter() {
            params.subject_alt_names.push(uri(grant.uri())?);
        }
        self.issue(dir, name, &params)
    }

    fn issue(
        &self,
        dir: &Path,
        name: &str,
        params: &CertificateParams,
    ) -> Result<(), IdentityError> {
        if dir.join(KEY_FILE).exists() {
            return Err(IdentityError::Exists {
                path: dir.join(KEY_FILE),
            });
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.record(name, certificate.der(), &certificate.pem())?;
        files::create_dir(dir)?;
        files::write_new(
            &dir.join(KEY_FILE),
            &key.serialize_pem(),
            Secrecy::OwnerOnly,
        )?;
        files::write_new(
            &dir.join(CERTIFICATE_FILE),
            &certificate.pem(),
            Secrecy::Public,
        )?;
        files::write_new(
            &dir.join(AUTHORITY_CERTIFICATE_FILE),
            &self.trusted,
            Secrecy::Public,
        )
    }
}

impl Authority {
    /// Keeps a copy, before anyone has the original: there is no certificate that cannot be named to be revoked.
    fn record(
        &self,
        name: &str,
        certificate: &CertificateDer<'_>,
        pem: &str,
    ) -> Result<(), IdentityError> {
        let folder = self.dir.join(ISSUED_DIR);
        files::create_dir(&folder)?;
        let fingerprint = Fingerprint::of(certificate).to_string();
        let file = format!("{name}-{}.pem", &fingerprint[..16]);
        files::write_new(&folder.join(file), pem, Secrecy::Public)
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The name tells one authority from another while two overlap.
    let tag: String = params
        .key_identifier(key)
        .iter()
        .take(4)
        .map(|b| format!("{b:02x}"))
        .collect();
    params.distinguished_name = common_name(&format!("Meshlog authority {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    hold(&mut params, Validity::ten_years());
    params
}

fn params(name: &str, validity: Validity) -> Result<CertificateParams, IdentityError> {
    if !is_peer_name(name) {
        return Err(IdentityError::Name { name: name.into() });
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    hold(&mut params, validity);
    Ok(params)
}

fn hold(params: &mut CertificateParams, validity: Validity) {
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn uri(text: String) -> Result<SanType, IdentityError> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

fn dns(host: &str) -> Result<SanType, IdentityError> {
    let refused = || IdentityError::Host { host: host.into() };
    rustls::pki_types::DnsName::try_from(host).map_err(|_| refused())?;
    Ok(SanType::DnsName(
        Ia5String::try_from(host).map_err(|_| refused())?,
    ))
}
