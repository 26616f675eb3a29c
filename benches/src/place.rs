//! Where the data lies while it is measured: a folder on a real disk, and what file system that is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise, statvfs, syncfs};
use tempfile::TempDir;

use crate::{Result, say};

/// A folder that is gone when this is.
pub struct Place {
    dir: TempDir,
    stores: std::cell::Cell<u32>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type, such as `ext4`.
    pub kind: String,
    /// The device or other source that it was mounted from.
    pub source: String,
}

impl Place {
    /// Makes a folder in `$MESHLOG_BENCH_DIR`; without that, beside this program; without a disk there, in the current
    /// folder.
    ///
    /// # Errors
    /// None of them can be written to, or the only one is memory: an fsync there measures nothing.
    pub fn new() -> Result<Place> {
        let parent = parent()?;
        let dir = tempfile::Builder::new()
            .prefix("meshlog-bench-")
            .tempdir_in(parent)?;
        Ok(Place {
            dir,
            stores: std::cell::Cell::new(0),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the folder that no other call has returned.
    #[must_use]
    pub fn fresh(&self) -> PathBuf {
        self.stores.set(self.stores.get() + 1);
        self.dir.path().join(format!("store-{}", self.stores.get()))
    }

    /// Removes a store, and waits until the disk has nothing left to do: the next contender finds it idle.
    ///
    /// # Errors
    /// The file system's.
    pub fn clear(&self, store: &Path) -> Result<()> {
        fs::remove_dir_all(store)?;
        self.settle()
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn settle(&self) -> Result<()> {
        Ok(syncfs(File::open(self.dir.path())?)?)
    }

    /// Where the folder lies.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn file_system(&self) -> Result<FileSystem> {
        file_system(self.dir.path())
    }

    /// Bytes that may still be written.
    ///
    /// # Errors
    /// The file system's.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = statvfs(self.dir.path())?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    /// Refuses where less than `bytes` and a reserve are free.
    ///
    /// # Errors
    /// Says how much is missing.
    pub fn need(&self, bytes: u64) -> Result<()> {
        const RESERVE: u64 = 4 << 30;
        let free = self.free_bytes()?;
        if free >= bytes + RESERVE {
            return Ok(());
        }
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (needed, free) = (gib(bytes + RESERVE), gib(free));
        Err(format!("needs {needed:.1} GiB free, but there are {free:.1}: set MESHLOG_BENCH_DIR to a larger disk").into())
    }
}

fn parent() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("MESHLOG_BENCH_DIR") {
        let dir = PathBuf::from(dir);
        fs::create_dir_all(&dir)?;
        warn_of_memory(&dir)?;
        return Ok(dir);
    }
    let beside = std::env::current_exe()?.parent().map(Path::to_path_buf);
    let here = std::env::current_dir()?;
    for dir in beside.into_iter().chain([here]) {
        if !is_memory(&file_system(&dir)?) {
            return Ok(dir);
        }
    }
    Err("only folders in memory were found: set MESHLOG_BENCH_DIR to one on a disk".into())
}

fn warn_of_memory(dir: &Path) -> Result<()> {
    if is_memory(&file_system(dir)?) {
        say(&format!(
            "warning: {} is memory, where an fsync costs nothing: the ratios will not hold on a disk",
            dir.display()
        ));
    }
    Ok(())
}

fn is_memory(system: &FileSystem) -> bool {
    matches!(&*system.kind, "tmpfs" | "ramfs" | "devtmpfs")
}

/// What is mounted at `dir`.
fn file_system(dir: &Path) -> Result<FileSystem> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounted_at(&mounts, &dir.canonicalize()?).ok_or("no file system is mounted there")?)
}

fn mounted_at(mounts: &str, dir: &Path) -> Option<FileSystem> {
    let parse = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?);
        let mut system = system.split(' ');
        Some((
            point,
            FileSystem {
                kind: system.next()?.to_owned(),
                source: system.next()?.to_owned(),
            },
        ))
    };
    let holding = mounts
        .lines()
        .filter_map(parse)
        .filter(|(point, _)| dir.starts_with(point));
    // Of two mounts on one point the later one is seen.
    holding
        .max_by_key(|(point, _)| point.components().count())
        .map(|(_, system)| system)
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// The file system's.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Calls `visit` with every file in a folder and in those below.
///
/// # Errors
/// The file system's, and what `visit` says.
pub fn each_file(dir: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_file(&entry.path(), visit)?;
        } else {
            visit(&entry.path())?;
        }
    }
    Ok(())
}

/// Bytes of all files in a folder whose name ends so.
///
/// # Errors
/// The file system's.
pub fn bytes_of(dir: &Path, suffix: &str) -> Result<u64> {
    let mut bytes = 0;
    each_file(dir, &mut |file| {
        if file.to_string_lossy().ends_with(suffix) {
            bytes += fs::metadata(file)?.len();
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Asks the system to forget what it has cached of a folder's files, so that the next read comes from the disk.
///
/// # Errors
/// The file system's.
pub fn forget_cached(dir: &Path) -> Result<()> {
    each_file(dir, &mut |file| {
        let file = File::open(file)?;
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_holds_a_folder() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      23 22 0:5 / /dev rw shared:2 - devtmpfs devtmpfs rw\n\
                      24 23 0:6 / /dev/shm rw - tmpfs tmpfs rw,size=1k\n";
        let kind = |dir: &str| mounted_at(mounts, Path::new(dir)).unwrap().kind;
        assert_eq!(kind("/home/a"), "ext4");
        assert_eq!(kind("/dev/shm/b"), "tmpfs");
        assert_eq!(kind("/dev/shmem"), "devtmpfs");
    }

    #[test]
    fn a_place_counts_its_files_and_takes_everything_with_it() {
        let place = Place::new().unwrap();
        let (path, store) = (place.path().to_owned(), place.fresh());
        assert_ne!(store, place.fresh());
        fs::create_dir_all(store.join("deep")).unwrap();
        fs::write(store.join("deep/a.log"), [0; 7]).unwrap();
        fs::write(store.join("b.sst"), [0; 5]).unwrap();
        copy_dir(&store, &path.join("copy")).unwrap();
        assert_eq!(bytes_of(&path, ".log").unwrap(), 14);
        forget_cached(&path).unwrap();
        place.clear(&store).unwrap();
        assert!(!store.exists());
        drop(place);
        assert!(!path.exists());
    }
}
