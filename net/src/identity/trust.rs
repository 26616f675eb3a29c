//! Which authorities a file trusts: where an old one and a new one overlap while identities are changed over.
//!
//! A change of authority without downtime: [`trust`] the new one in every `ca.pem`, issue everyone's identity anew with
//! it, then [`distrust`] the old one. Running nodes follow each step by themselves.

use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::{
    IdentityError,
    files::{self, Secrecy},
};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Adds the certificates in the file `authority` to those that `bundle` holds. The file is replaced as a whole. Returns
/// whether any was missing.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::Contents`], naming the file.
pub fn trust(bundle: &Path, authority: &Path) -> Result<bool, IdentityError> {
    let trusted = files::certificates(bundle)?;
    let mut text = text(bundle)?;
    let mut added = false;
    for (section, certificate) in sections(authority)? {
        if !trusted.contains(&certificate) {
            if !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&section);
            added = true;
        }
    }
    if added {
        files::replace(bundle, &text, Secrecy::Public)?;
    }
    Ok(added)
}

/// Removes the certificates in the file `authority` from those that `bundle` holds. The file is replaced as a whole.
/// Returns whether there were any.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::Contents`], naming the file; the latter also where none would be left.
pub fn distrust(bundle: &Path, authority: &Path) -> Result<bool, IdentityError> {
    let unwanted = files::certificates(authority)?;
    let trusted = sections(bundle)?;
    let kept: Vec<&str> = trusted
        .iter()
        .filter(|(_, certificate)| !unwanted.contains(certificate))
        .map(|(section, _)| section.as_str())
        .collect();
    if kept.is_empty() {
        return Err(IdentityError::Contents {
            path: bundle.into(),
            expected: "authority that would be left",
            cause: "an identity without a trusted authority can talk to nobody".into(),
        });
    }
    let removed = kept.len() < trusted.len();
    if removed {
        files::replace(bundle, &kept.concat(), Secrecy::Public)?;
    }
    Ok(removed)
}

fn text(path: &Path) -> Result<String, IdentityError> {
    Ok(String::from_utf8_lossy(&files::read(path)?).into_owned())
}

/// Each certificate of a file, as it stands there and decoded.
fn sections(path: &Path) -> Result<Vec<(String, CertificateDer<'static>)>, IdentityError> {
    let certificates = files::certificates(path)?;
    let text = text(path)?;
    let mut sections = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        if line.trim() == BEGIN {
            open = Some(String::new());
        }
        let Some(section) = &mut open else { continue };
        section.push_str(line.trim());
        section.push('\n');
        if line.trim() == END {
            sections.extend(open.take());
        }
    }
    if sections.len() != certificates.len() {
        return Err(IdentityError::Contents {
            path: path.into(),
            expected: "certificates in PEM",
            cause: "a section does not begin or end on a line of its own".into(),
        });
    }
    Ok(sections.into_iter().zip(certificates).collect())
}
