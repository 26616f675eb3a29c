//! The files of an identity, and how they are read and written.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::IdentityError;

/// File of a certificate in an identity's directory.
pub const CERTIFICATE_FILE: &str = "cert.pem";
/// File of the private key in an identity's directory.
pub const KEY_FILE: &str = "key.pem";

/// Where the three files of an identity lie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CredentialFiles {
    /// The authorities trusted: one or more certificates, so that an old and a new authority may overlap.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl CredentialFiles {
    /// The files that an [`Authority`](super::Authority) writes into `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            ca: dir.join(super::AUTHORITY_CERTIFICATE_FILE),
            certificate: dir.join(CERTIFICATE_FILE),
            key: dir.join(KEY_FILE),
        }
    }

    /// The file of revoked certificates, beside the authorities trusted. It need not be there.
    pub fn revoked(&self) -> PathBuf {
        self.ca.with_file_name(super::REVOKED_FILE)
    }
}

/// Reads a file that need not be there.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match read(path) {
        Err(IdentityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| {
        let remedy = match source.kind() {
            io::ErrorKind::NotFound => {
                "Check the path in the configuration, or issue the identity with `meshctl init` or `meshctl ca issue`"
            }
            io::ErrorKind::PermissionDenied => "Run as the user who owns the file, or change its owner",
            _ => "Check the file and its directory",
        };
        IdentityError::File {
            doing: "read",
            path: path.into(),
            source,
            remedy,
        }
    })
}

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = read(path)?;
    let bad = |cause: String| IdentityError::Contents {
        path: path.into(),
        expected: "certificate in PEM",
        cause,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad("no CERTIFICATE section".into())),
        Ok(found) => Ok(found),
        Err(e) => Err(bad(e.to_string())),
    }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| IdentityError::Contents {
        path: path.into(),
        expected: "private key in PEM",
        cause: e.to_string(),
    })
}

/// Who may read a file that is written.
#[derive(Clone, Copy)]
pub(super) enum Secrecy {
    Public,
    OwnerOnly,
}

/// Writes a new file durably. A file that is there already is an error.
pub(super) fn write_new(
    path: &Path,
    contents: &str,
    secrecy: Secrecy,
) -> Result<(), IdentityError> {
    let mode = match secrecy {
        Secrecy::Public => 0o644,
        Secrecy::OwnerOnly => 0o600,
    };
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(contents.as_bytes())?;
            file.sync_all()
        });
    written.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists { path: path.into() },
        _ => write_error(path, source),
    })
}

/// Writes a file as a whole, durably: a reader, and whoever comes after a crash, sees the old contents or the new ones.
pub(super) fn replace(path: &Path, contents: &str, secrecy: Secrecy) -> Result<(), IdentityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // One that a crash left behind.
    match fs::remove_file(&new) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(write_error(&new, source));
        }
        _ => {}
    }
    write_new(&new, contents, secrecy)?;
    fs::rename(&new, path)
        .and_then(|()| fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|source| write_error(path, source))
}

/// The files in a directory, which need not be there.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, IdentityError> {
    let listed =
        fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match listed {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(IdentityError::File {
            doing: "list",
            path: dir.into(),
            source,
            remedy: "Check that it is a directory that you may read",
        }),
        Ok(paths) => Ok(paths),
    }
}

pub(super) fn create_dir(dir: &Path) -> Result<(), IdentityError> {
    fs::create_dir_all(dir).map_err(|source| write_error(dir, source))
}

fn write_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::File {
        doing: "write",
        path: path.into(),
        source,
        remedy: "Check that the directory exists, is yours and has space",
    }
}
