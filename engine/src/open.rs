//! Opening a store: everything that is checked, in order, before the first write.
//!
//! - One process: the lock.
//! - There is a store, or a bootstrap file that lets it be made.
//! - The write-ahead log: a torn tail is cut, damage refuses, or makes the replicas suspect.
//! - The format is ours, and the identity is the expected one.
//! - The boot count is raised, durably, before anything else happens under it.
//!
//! Nothing is scanned: the time depends on the log to replay, which is bounded, not on what is stored.

use std::io;
use std::path::{Path, PathBuf};

use mesh_ring::hlc::Hlc;
use mesh_ring::ids::PartitionId;
use rocksdb::{DB, ErrorKind, WriteBatch};

use crate::FORMAT_VERSION;
use crate::boots::{Boot, Boots, draw_token};
use crate::codec::{only_u32, only_u64};
use crate::error::OpenError;
use crate::founding::Founding;
use crate::identity::{Bootstrap, Identity, consume_bootstrap, read_bootstrap};
use crate::keys::{self, family, meta};
use crate::lock::DirectoryLock;
use crate::names::Generation;
use crate::options::{OnDamage, Options};
use crate::replica::{self, Record};
use crate::salvage::{read_note, salvage_locked};
use crate::store::Store;
use crate::wal::{self, WalVerdict};

/// A store that passed every check.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) founding: Option<Founding>,
    pub(crate) boot: u32,
    pub(crate) boots: Boots,
    /// How often a start did not follow a clean stop.
    pub(crate) starts: u32,
    pub(crate) clock_bound: Hlc,
    pub(crate) age_ms: Option<u64>,
    /// What was lost before this opening, in words.
    pub(crate) found_damage: Option<String>,
    pub(crate) lock: DirectoryLock,
}

/// Where the database of a data directory lies.
pub(crate) fn database_path(data: &Path) -> PathBuf {
    data.join("db")
}

pub(crate) fn open(data: &Path, options: &Options) -> Result<Opened, OpenError> {
    let io_error = |error: io::Error| OpenError::Io {
        data: data.to_owned(),
        detail: error.to_string(),
    };
    if !data.is_dir() {
        return Err(OpenError::Missing(data.to_owned()));
    }
    let lock = DirectoryLock::take(data)?;
    let bootstrap = read_bootstrap(data).map_err(io_error)?;
    let path = database_path(data);
    let exists = path.join("CURRENT").exists();
    if !exists && bootstrap.is_none() {
        return Err(OpenError::Missing(data.to_owned()));
    }
    if exists {
        settle_or_salvage(data, &path, options.on_damage)?;
        if bootstrap.is_none() {
            check_families(data, &path)?;
        }
    }
    let store = Store::open(&path, options, bootstrap.is_some())
        .map_err(|error| open_error(data, &error))?;
    let opened = read_meta(data, store, bootstrap, lock)?;
    check_cluster(data, options, &opened.identity)?;
    let found_damage = read_note(data).map_err(io_error)?;
    raise_boot(
        data,
        Opened {
            found_damage,
            ..opened
        },
    )
}

fn settle_or_salvage(data: &Path, path: &Path, on_damage: OnDamage) -> Result<(), OpenError> {
    match (settle_wal(data, path), on_damage) {
        (Err(damage @ OpenError::WalDamaged { .. }), OnDamage::Suspect) => {
            tracing::error!(%damage, "the store opens without what is lost, and suspects all of its partitions");
            salvage_locked(data, path, true).map(drop)
        }
        (settled, _) => settled,
    }
}

/// Makes the write-ahead log of a closed store safe for another program to open with RocksDB: cuts a torn tail off, and
/// refuses damage. [`crate::Engine::open`] does so by itself.
///
/// # Errors
/// [`OpenError::Locked`], [`OpenError::WalDamaged`], or what the file system says.
pub fn settle_log(data: &Path) -> Result<(), OpenError> {
    let path = database_path(data);
    if !path.join("CURRENT").exists() {
        return Err(OpenError::Missing(data.to_owned()));
    }
    let _lock = DirectoryLock::take(data)?;
    settle_wal(data, &path)
}

/// Decides what the write-ahead log's end means, before RocksDB reads it by its own, laxer rules.
pub(crate) fn settle_wal(data: &Path, path: &Path) -> Result<(), OpenError> {
    let io_error = |error: io::Error| OpenError::Io {
        data: data.to_owned(),
        detail: error.to_string(),
    };
    match wal::check(path).map_err(io_error)? {
        WalVerdict::Whole(_) => Ok(()),
        WalVerdict::Torn { file, keep_bytes } => {
            let kept = wal::cut(&file, keep_bytes).map_err(io_error)?;
            tracing::warn!(
                file = %file.display(),
                keep_bytes,
                copy = %kept.display(),
                "cut a write that was never acknowledged off the end of the log"
            );
            Ok(())
        }
        WalVerdict::Damaged {
            file,
            offset,
            detail,
        } => Err(OpenError::WalDamaged {
            file,
            offset,
            detail,
        }),
    }
}

/// A store of another format may lack families or have others: find its version without changing it.
fn check_families(data: &Path, path: &Path) -> Result<(), OpenError> {
    let defaults = rocksdb::Options::default();
    let mut found = DB::list_cf(&defaults, path).map_err(|error| open_error(data, &error))?;
    let mut known: Vec<&str> = family::ALL.to_vec();
    known.push("default");
    known.sort_unstable();
    found.sort_unstable();
    if found == known {
        return Ok(());
    }
    let damaged = |detail: String| OpenError::Damaged {
        data: data.to_owned(),
        detail,
    };
    let unknown = || damaged(format!("its column families are {}", found.join(", ")));
    let db =
        DB::open_cf_for_read_only(&defaults, path, [family::META], false).map_err(|_| unknown())?;
    let handle = db.cf_handle(family::META).ok_or_else(unknown)?;
    let version = db
        .get_cf(handle, meta::FORMAT)
        .map_err(|error| open_error(data, &error))?;
    let version = version
        .and_then(|version| only_u32(&version).ok())
        .ok_or_else(unknown)?;
    check_format(data, version)?;
    Err(unknown())
}

fn check_format(data: &Path, found: u32) -> Result<(), OpenError> {
    let (data, current) = (data.to_owned(), FORMAT_VERSION);
    match found {
        found if found < current => Err(OpenError::Older {
            data,
            found,
            current,
        }),
        found if found > current => Err(OpenError::Newer {
            data,
            found,
            current,
        }),
        _ => Ok(()),
    }
}

/// Reads who the store is, or makes it so where a bootstrap file says.
fn read_meta(
    data: &Path,
    store: Store,
    bootstrap: Option<Bootstrap>,
    lock: DirectoryLock,
) -> Result<Opened, OpenError> {
    let damaged = |detail: String| OpenError::Damaged {
        data: data.to_owned(),
        detail,
    };
    let read = |key: &[u8]| {
        let value = store
            .get(family::META, key)
            .map_err(|error| damaged(error.to_string()))?;
        Ok(value.map(|value| value.to_vec()))
    };
    if read(meta::MIGRATION)?.is_some() {
        return Err(OpenError::HalfMigrated(data.to_owned()));
    }
    match (read(meta::FORMAT)?, &bootstrap) {
        (Some(format), _) => {
            let found =
                only_u32(&format).map_err(|error| damaged(format!("format version: {error}")))?;
            check_format(data, found)?;
        }
        (None, None) => return Err(damaged("it has no format version".into())),
        (None, Some(Bootstrap { identity, founding })) => {
            let mut batch = WriteBatch::default();
            let handle = store.family(family::META);
            batch.put_cf(handle, meta::FORMAT, FORMAT_VERSION.to_be_bytes());
            batch.put_cf(handle, meta::IDENTITY, identity.encode());
            if let Some(text) = founding.as_ref().and_then(Founding::encode) {
                batch.put_cf(handle, meta::FOUNDING, text);
            }
            store
                .write_synced(batch)
                .map_err(|error| open_error(data, &error))?;
        }
    }
    let identity = read(meta::IDENTITY)?.ok_or_else(|| damaged("it has no identity".into()))?;
    let identity =
        Identity::decode(&identity).map_err(|error| damaged(format!("identity: {error}")))?;
    if let Some(bootstrap) = bootstrap {
        if bootstrap.identity != identity {
            return Err(damaged("its bootstrap file is of another node".into()));
        }
        consume_bootstrap(data).map_err(|error| OpenError::Io {
            data: data.to_owned(),
            detail: error.to_string(),
        })?;
    }
    let boot = match read(meta::BOOT)? {
        None => 0,
        Some(boot) => only_u32(&boot).map_err(|error| damaged(format!("boot count: {error}")))?,
    };
    let starts = match read(meta::STARTS)? {
        None => 0,
        Some(starts) => only_u32(&starts)
            .map_err(|error| damaged(format!("count of starts without a clean stop: {error}")))?,
    };
    let was_closed = boot == 0 || read(meta::CLOSED)?.is_some();
    let boots = match read(meta::BOOTS)? {
        None => Boots::default(),
        Some(boots) => Boots::decode(&boots).map_err(|error| damaged(format!("boots: {error}")))?,
    };
    let founding = match read(meta::FOUNDING)? {
        None => None,
        Some(text) => {
            let decoded = std::str::from_utf8(&text).ok().and_then(Founding::decode);
            Some(decoded.ok_or_else(|| damaged("its founding members cannot be read".into()))?)
        }
    };
    let clock_bound = match read(meta::CLOCK)? {
        None => Hlc::default(),
        Some(clock) => {
            Hlc(only_u64(&clock).map_err(|error| damaged(format!("clock bound: {error}")))?)
        }
    };
    let age_ms = match read(meta::AGE)? {
        None => None,
        Some(age) => Some(only_u64(&age).map_err(|error| damaged(format!("age: {error}")))?),
    };
    Ok(Opened {
        store,
        identity,
        founding,
        boot,
        boots,
        starts: starts.saturating_add(u32::from(!was_closed)),
        clock_bound,
        age_ms,
        found_damage: None,
        lock,
    })
}

fn check_cluster(data: &Path, options: &Options, identity: &Identity) -> Result<(), OpenError> {
    match options.expect_cluster {
        Some(expected) if expected != identity.cluster => Err(OpenError::OtherCluster {
            data: data.to_owned(),
            found: identity.cluster.to_string(),
            expected: expected.to_string(),
        }),
        _ => Ok(()),
    }
}

fn raise_boot(data: &Path, mut opened: Opened) -> Result<Opened, OpenError> {
    opened.boot = opened
        .boot
        .checked_add(1)
        .ok_or_else(|| OpenError::Damaged {
            data: data.to_owned(),
            detail: "its boot count is at the end of its range".into(),
        })?;
    let token = draw_token().map_err(|error| OpenError::Io {
        data: data.to_owned(),
        detail: format!("no random bytes: {error}"),
    })?;
    opened.boots.push(Boot {
        count: opened.boot,
        token,
    });
    let mut batch = WriteBatch::default();
    let handle = opened.store.family(family::META);
    batch.put_cf(handle, meta::BOOT, opened.boot.to_be_bytes());
    batch.put_cf(handle, meta::BOOTS, opened.boots.encode());
    batch.put_cf(handle, meta::STARTS, opened.starts.to_be_bytes());
    batch.delete_cf(handle, meta::CLOSED);
    if opened.found_damage.is_some() {
        suspect_all(data, &opened, &mut batch)?;
        forget_all(data, &opened, &mut batch)?;
    }
    opened
        .store
        .write_synced(batch)
        // Out of the log, whose damage must not bring an earlier count back.
        .and_then(|()| opened.store.flush(family::META))
        .map_err(|error| open_error(data, &error))?;
    Ok(opened)
}

/// Marks every partition, whether or not anything is stored of it: that may be what was lost.
fn suspect_all(data: &Path, opened: &Opened, batch: &mut WriteBatch) -> Result<(), OpenError> {
    let handle = opened.store.family(family::REPLICAS);
    for partition in (0..opened.identity.partitions).map(PartitionId) {
        let record = replica::load_record(&opened.store, partition);
        let record = record.map_err(|error| OpenError::Damaged {
            data: data.to_owned(),
            detail: error.to_string(),
        })?;
        let suspect = Record {
            suspect: true,
            ..record
        };
        batch.put_cf(handle, keys::replica_key(partition), suspect.encode());
    }
    Ok(())
}

/// Notes that bindings which this node wrote may be lost here and alive elsewhere.
fn forget_all(data: &Path, opened: &Opened, batch: &mut WriteBatch) -> Result<(), OpenError> {
    let handle = opened.store.family(family::META);
    for partition in (0..opened.identity.partitions).map(PartitionId) {
        let generation = Generation::load(&opened.store, partition);
        let generation = generation.map_err(|error| OpenError::Damaged {
            data: data.to_owned(),
            detail: error.to_string(),
        })?;
        let forgot = Generation {
            forgot: true,
            ..generation
        };
        batch.put_cf(handle, keys::generation_key(partition), forgot.encode());
    }
    Ok(())
}

fn open_error(data: &Path, error: &rocksdb::Error) -> OpenError {
    let (data, detail) = (data.to_owned(), error.as_ref().to_owned());
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::InvalidArgument => OpenError::Damaged { data, detail },
        _ => OpenError::Io { data, detail },
    }
}
