//! An identity that follows its files, so that certificates, authorities and revocations change without a restart.
//!
//! The set is read whole, checked whole, and taken over whole or not at all: with a certificate that is not the key's, or
//! half a file, the identity stays what it was, and a warning says why. Revocations count by themselves, whatever
//! the other files are like. Established connections go on; new handshakes use what is new.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{CredentialFiles, Credentials, IdentityError, Peer, Revoked, revoked};
use crate::tasks::blocking;

/// How often the files are looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(2);
/// A file that was written less than so long ago may not be whole yet, and is read at the next look.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// An identity and its files. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub struct LiveIdentity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: CredentialFiles,
    current: watch::Sender<Arc<Credentials>>,
    revoked: Revoked,
    looked: Mutex<Looked>,
}

/// What the files were like when they were read last, and what was wrong with them.
#[derive(Debug)]
struct Looked {
    stamps: [Option<Stamp>; 4],
    failure: Option<String>,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl LiveIdentity {
    /// Reads the files of an identity and those beside them.
    ///
    /// # Errors
    /// [`IdentityError`], naming the file and what to do.
    pub fn load(files: &CredentialFiles) -> Result<Self, IdentityError> {
        // Before the files are read, so that one which is written meanwhile is read again.
        let stamps = stamps(files);
        let credentials = Credentials::load(files)?;
        let revoked = Revoked::default();
        revoked.set_file(revoked::read(&files.revoked())?);
        Ok(Self(Arc::new(Inner {
            files: files.clone(),
            current: watch::Sender::new(Arc::new(credentials)),
            revoked,
            looked: Mutex::new(Looked {
                stamps,
                failure: None,
            }),
        })))
    }

    /// What new handshakes are to use.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.0.current.borrow().clone()
    }

    /// Tells of every change of [`LiveIdentity::credentials`].
    pub fn changes(&self) -> watch::Receiver<Arc<Credentials>> {
        self.0.current.subscribe()
    }

    /// The certificates that are refused.
    pub fn revoked(&self) -> &Revoked {
        &self.0.revoked
    }

    /// Reads the files now. Returns whether the identity or its revocations changed. Waits for the disk.
    ///
    /// # Errors
    /// [`IdentityError`]: the identity stays what it was. Revocations that could be read count all the same.
    pub fn reload(&self) -> Result<bool, IdentityError> {
        let mut looked = self.looked();
        let stamps = stamps(&self.0.files);
        let outcome = self.read();
        looked.stamps = stamps;
        looked.failure = outcome.as_ref().err().map(ToString::to_string);
        outcome
    }

    /// Reads the files where they have changed. Says in the log what came of it. Waits for the disk.
    pub fn reload_if_changed(&self) {
        let mut looked = self.looked();
        let stamps = stamps(&self.0.files);
        // A set that was refused may have become good by itself: its time may have come.
        let is_due = stamps != looked.stamps || looked.failure.is_some();
        if !is_due || !are_settled(&stamps) {
            return;
        }
        looked.stamps = stamps;
        let failure = match self.read() {
            Ok(changed) => {
                if changed {
                    tracing::info!(certificate = %self.0.files.certificate.display(), "the identity was read anew");
                }
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if failure != looked.failure
            && let Some(error) = &failure
        {
            tracing::warn!(
                error,
                "the identity's files have changed and cannot be used: what was read before stays in use"
            );
        }
        looked.failure = failure;
    }

    /// Looks at the files every [`RELOAD_EVERY`]. Never ends.
    pub async fn follow(&self) {
        let mut looks = interval(RELOAD_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let this = self.clone();
            blocking(move || this.reload_if_changed()).await;
        }
    }

    fn read(&self) -> Result<bool, IdentityError> {
        let listed =
            revoked::read(&self.0.files.revoked()).map(|revoked| self.0.revoked.set_file(revoked));
        let current = self.credentials();
        let replaced = Credentials::load(&self.0.files).and_then(|new| {
            if new.is_same_as(&current) {
                return Ok(false);
            }
            new.check()?;
            check_holder(&current, &new)?;
            self.0.current.send_replace(Arc::new(new));
            Ok(true)
        });
        Ok(replaced? | listed?)
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.0.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever connected to the holder must find the same one after a change.
fn check_holder(current: &Credentials, new: &Credentials) -> Result<(), IdentityError> {
    let holder = |credentials: &Credentials| {
        let certificate = credentials.certificate()?;
        let peer = Peer::from_certificate(certificate).ok()?;
        Some((peer.role, peer.name))
    };
    let (was, is) = (holder(current), holder(new));
    if was == is {
        return Ok(());
    }
    let words = |holder: Option<(super::Role, String)>| match holder {
        Some((role, name)) => format!("{role} {name}'s"),
        None => "nobody's".into(),
    };
    Err(new.unusable(format!(
        "it is {}, and was {}: a changed name needs a restart",
        words(is),
        words(was)
    )))
}

fn stamps(files: &CredentialFiles) -> [Option<Stamp>; 4] {
    let stamp = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
        })
    };
    [
        stamp(&files.ca),
        stamp(&files.certificate),
        stamp(&files.key),
        stamp(&files.revoked()),
    ]
}

fn are_settled(stamps: &[Option<Stamp>; 4]) -> bool {
    let now = SystemTime::now();
    stamps
        .iter()
        .flatten()
        .filter_map(|stamp| stamp.modified)
        // One from the future, after a clock was set back, would never settle.
        .all(|modified| {
            !now.duration_since(modified)
                .is_ok_and(|age| age < SETTLED_AFTER)
        })
}
