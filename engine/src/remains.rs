//! What is left of a closed store whose write-ahead log is damaged: looked at, not changed, before anybody decides whether
//! it may be opened without what is lost.

use std::path::Path;

use bytes::Bytes;

use crate::error::{OpenError, ReadError};
use crate::founding::Founding;
use crate::identity::Identity;
use crate::keys::{family, meta};
use crate::lock::DirectoryLock;
use crate::open::database_path;
use crate::rows::{self, ReadRows};
use crate::store::Store;

/// The store as far as it can be read: what is missing may be what was written last, or anything since the damage.
pub struct Remains {
    store: Store,
    _lock: DirectoryLock,
}

impl Remains {
    /// Locks the store and reads around the damage. Nothing of it is changed.
    ///
    /// # Errors
    /// It is missing, or in use, or nothing can be read.
    pub fn open(data: &Path) -> Result<Remains, OpenError> {
        let path = database_path(data);
        if !path.join("CURRENT").exists() {
            return Err(OpenError::Missing(data.to_owned()));
        }
        let lock = DirectoryLock::take(data)?;
        let store = Store::open_remains(&path).map_err(|error| OpenError::Damaged {
            data: data.to_owned(),
            detail: error.into_string(),
        })?;
        Ok(Remains { store, _lock: lock })
    }

    /// Whose store it is.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn identity(&self) -> Result<Identity, ReadError> {
        let unreadable = |detail: String| ReadError::Store(format!("identity: {detail}"));
        let stored = self.store.get(family::META, meta::IDENTITY)?;
        let stored = stored.ok_or_else(|| unreadable("there is none".into()))?;
        Identity::decode(&stored).map_err(|error| unreadable(error.to_string()))
    }

    /// With whom the node founded its cluster, if it did.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn founding(&self) -> Result<Option<Founding>, ReadError> {
        let stored = self.store.get(family::META, meta::FOUNDING)?;
        let decoded = stored.map(|text| std::str::from_utf8(&text).ok().and_then(Founding::decode));
        match decoded {
            Some(None) => Err(ReadError::Store("the founding members".into())),
            known => Ok(known.flatten()),
        }
    }
}

impl ReadRows for Remains {
    fn row(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        rows::row(&self.store, key)
    }

    fn rows(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Bytes)>, ReadError> {
        rows::rows(&self.store, from, to, limit)
    }
}
