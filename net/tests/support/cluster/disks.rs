//! Disks of nodes: copied as they are at some moment, and put back.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::Cluster;

impl Cluster {
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.servers[node].data()
    }

    /// Copies a node's disk as it is at this moment.
    pub(crate) fn copy_disk(&self, node: usize, name: &str) -> PathBuf {
        let to = self.dir.path().join(name);
        copy_dir(&self.data(node), &to);
        to
    }

    /// Puts a copy in place of a node's disk; the disk is kept beside.
    pub(crate) fn put_disk(&self, node: usize, copy: &Path) -> PathBuf {
        let beside = self.dir.path().join(format!(
            "beside-{}",
            copy.file_name().unwrap().to_string_lossy()
        ));
        fs::rename(self.data(node), &beside).unwrap();
        copy_dir(copy, &self.data(node));
        beside
    }
}

/// Copies a directory of which RocksDB may be removing obsolete files: begins anew when one is gone.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    for _ in 0..100 {
        match try_copy_dir(from, to) {
            Ok(()) => return,
            Err(error) if error.kind() == ErrorKind::NotFound => fs::remove_dir_all(to).unwrap(),
            Err(error) => panic!("{}: {error}", from.display()),
        }
    }
    panic!("{} does not come to rest", from.display());
}

fn try_copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy_dir(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
