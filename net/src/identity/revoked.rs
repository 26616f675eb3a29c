//! Certificates that are refused although an authority signed them.
//!
//! Two lists are asked: the file `revoked` beside the trusted authorities, which works without a cluster, and what the
//! cluster map says. Every connection is looked up after its handshake, before anything that came over it is read, and is
//! closed when its certificate is revoked later.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use tokio::sync::watch;

use super::{
    Fingerprint, IdentityError,
    files::{self, Secrecy},
};

/// The file of revoked certificates, beside the trusted authorities. Where there is none, it revokes nothing.
pub const REVOKED_FILE: &str = "revoked";
/// What a connection is told that is closed because its certificate is revoked.
pub const REVOKED_REASON: &[u8] = b"this certificate is revoked";
/// Largest file of revoked certificates, in bytes: about ten thousand of them.
const REVOKED_BYTES_MAX: usize = 1 << 20;

/// The certificates that are refused. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Arc<watch::Sender<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    /// What the file says.
    file: BTreeSet<Fingerprint>,
    /// What the cluster map says.
    cluster: BTreeSet<Fingerprint>,
}

impl Lists {
    fn contain(&self, fingerprint: &Fingerprint) -> bool {
        self.file.contains(fingerprint) || self.cluster.contains(fingerprint)
    }
}

impl Revoked {
    /// Whether this certificate is refused.
    pub fn contains(&self, fingerprint: &Fingerprint) -> bool {
        self.0.borrow().contain(fingerprint)
    }

    /// Replaces what the cluster map says.
    pub fn set_cluster(&self, revoked: impl IntoIterator<Item = Fingerprint>) {
        let cluster: BTreeSet<Fingerprint> = revoked.into_iter().collect();
        self.replace(|lists| &mut lists.cluster, cluster);
    }

    /// Replaces what the file says.
    pub(super) fn set_file(&self, file: BTreeSet<Fingerprint>) -> bool {
        self.replace(|lists| &mut lists.file, file)
    }

    /// Resolves when this certificate is revoked, at once where it is. Cancel-safe.
    pub async fn until_revoked(&self, fingerprint: Fingerprint) {
        // The sender lives in self, so that waiting cannot fail.
        let _ = self
            .0
            .subscribe()
            .wait_for(|lists| lists.contain(&fingerprint))
            .await;
    }

    fn replace(
        &self,
        which: impl Fn(&mut Lists) -> &mut BTreeSet<Fingerprint>,
        with: BTreeSet<Fingerprint>,
    ) -> bool {
        self.0.send_if_modified(|lists| {
            let list = which(lists);
            let differs = *list != with;
            *list = with;
            differs
        })
    }
}

/// Reads a file of revoked certificates: a fingerprint a line, and behind it what a person should know. Empty lines and
/// such that begin with `#` are skipped. No file: none are.
///
/// # Errors
/// [`IdentityError::File`] where it cannot be read; [`IdentityError::Contents`] where a line holds no fingerprint, or it
/// is over a mebibyte long.
pub(super) fn read(path: &Path) -> Result<BTreeSet<Fingerprint>, IdentityError> {
    let bad = |cause: String| IdentityError::Contents {
        path: path.into(),
        expected: "list of revoked certificates",
        cause,
    };
    let Some(bytes) = files::read_if_there(path)? else {
        return Ok(BTreeSet::new());
    };
    if bytes.len() > REVOKED_BYTES_MAX {
        return Err(bad(format!(
            "{} bytes; the limit is {REVOKED_BYTES_MAX}",
            bytes.len()
        )));
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let first = line.split_whitespace().next().unwrap_or_default();
            first
                .parse()
                .map_err(|error: super::FingerprintError| bad(error.to_string()))
        })
        .collect()
}

/// Adds a certificate to the file `revoked` in `dir`, which is made where it is missing; `note` says whose it is. The file
/// is replaced as a whole, so that no reader sees half of it. Adding it again changes nothing.
///
/// # Errors
/// [`IdentityError::File`], [`IdentityError::Contents`], naming the file.
pub fn revoke_in(dir: &Path, fingerprint: Fingerprint, note: &str) -> Result<(), IdentityError> {
    let path = dir.join(REVOKED_FILE);
    if read(&path)?.contains(&fingerprint) {
        return Ok(());
    }
    let before = files::read_if_there(&path)?.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&before).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let note: String = note
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.push_str(format!("{fingerprint} {note}").trim_end());
    text.push('\n');
    files::replace(&path, &text, Secrecy::Public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lists_fingerprints_and_words_for_people() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(REVOKED_FILE);
        assert!(read(&path).unwrap().is_empty());
        revoke_in(dir.path(), Fingerprint([1; 32]), "client a\nb").unwrap();
        revoke_in(dir.path(), Fingerprint([2; 32]), "").unwrap();
        revoke_in(dir.path(), Fingerprint([1; 32]), "again").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            format!("{} client a b\n{}\n", "01".repeat(32), "02".repeat(32))
        );
        std::fs::write(&path, format!("# lost laptops\n\n  {text}")).unwrap();
        assert_eq!(
            read(&path).unwrap(),
            [Fingerprint([1; 32]), Fingerprint([2; 32])].into()
        );
        std::fs::write(&path, "01 02\n").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(
            message.contains("64 hexadecimal digits") && message.contains(REVOKED_FILE),
            "{message}"
        );
    }

    #[tokio::test]
    async fn whoever_waits_hears_of_either_list() {
        let revoked = Revoked::default();
        let (a, b) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
        let waiting = (revoked.clone(), revoked.clone());
        let both = async { tokio::join!(waiting.0.until_revoked(a), waiting.1.until_revoked(b)) };
        let revoking = async {
            revoked.set_cluster([a]);
            tokio::task::yield_now().await;
            revoked.set_file([b].into());
        };
        tokio::join!(both, revoking);
        // One list does not take back what the other says.
        revoked.set_cluster([]);
        assert!(!revoked.contains(&a) && revoked.contains(&b));
    }
}
