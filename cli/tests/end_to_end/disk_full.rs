//! A file system that fills up: writes are refused at the reserve, reads go on, and writes resume with the space.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::mesh::{Mesh, until};

/// Size of the file system, and the part of it that the node keeps free.
const DISK_MIB: u64 = 320;
const RESERVE_MIB: u64 = 96;

/// A small tmpfs, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl SmallDisk {
    fn remount(&self, mode: &str) {
        let options = format!("remount,{mode}");
        let remounted = Command::new("mount")
            .args(["-o", &options])
            .arg(&self.0)
            .status();
        assert!(remounted.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that is still being reaped may hold it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A node whose data lies on a small disk; nothing where this user may not mount one.
fn mesh_on_a_small_disk() -> Option<(Mesh, SmallDisk)> {
    let mut mesh = Mesh::stopped();
    let data = mesh.path("mesh/n1/data");
    fs::rename(&data, mesh.path("aside")).unwrap();
    let Some(disk) = SmallDisk::mount(&data) else {
        let _ = writeln!(
            std::io::stderr(),
            "skipped: mounting a small file system needs root"
        );
        return None;
    };
    for entry in fs::read_dir(mesh.path("aside")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), data.join(entry.file_name())).unwrap();
    }
    let config = mesh.path("mesh/n1/node.toml");
    let mut settings = fs::read_to_string(&config).unwrap();
    settings += &format!(
        "reserve_bytes = {}\nwrite_buffer_bytes = {}\n",
        RESERVE_MIB << 20,
        8 << 20
    );
    fs::write(&config, settings).unwrap();
    mesh.serve();
    Some((mesh, disk))
}

#[test]
fn at_the_reserve_writes_are_refused_reads_go_on_and_writes_resume_with_the_space() {
    let Some((mut mesh, disk)) = mesh_on_a_small_disk() else {
        return;
    };
    mesh.ok(&["put", "k", "v"]);
    mesh.ok(&["publish", "t", "before"]);

    // Something else takes the space.
    let filler = disk.0.join("filler");
    fill(&filler, (DISK_MIB - RESERVE_MIB) << 20);
    let full = ["publish", "t", "refused", "--timeout", "1s"];
    assert!(
        until(|| mesh.run(&full).code == Some(4)),
        "the reserve is not kept"
    );
    mesh.run(&full).refused(4, &["reserve"]);
    mesh.run(&["put", "k", "refused", "--timeout", "1s"])
        .refused(4, &["reserve"]);
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
    let kept = mesh.text(&["tail", "t"]);
    assert!(kept.starts_with("before"));
    assert!(mesh.is_up());

    fs::remove_file(filler).unwrap();
    assert!(
        until(|| mesh.run(&["publish", "t", "resumed"]).code == Some(0)),
        "writes do not resume"
    );
    assert!(mesh.text(&["tail", "t"]).ends_with("resumed"));
}

#[test]
fn a_trim_at_the_reserve_gives_the_space_back() {
    let Some((mut mesh, _disk)) = mesh_on_a_small_disk() else {
        return;
    };
    // Values that do not compress, until the node refuses.
    let mut state = 1_u64;
    let mut line = || {
        let digits = (0..60_000 / 16).map(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            format!("{:016x}", state.rotate_left(29))
        });
        digits.collect::<String>() + "\n"
    };
    let chunk: String = (0..128).map(|_| line()).collect();
    assert!(until(|| mesh
        .run_with(&["publish", "t", "--timeout", "2s"], chunk.as_bytes())
        .code
        == Some(4)));
    let next = mesh.json(&["topic", "describe", "t"])[0]["next_offset"]
        .as_u64()
        .unwrap();
    assert!(next > 100, "{next}");
    assert_eq!(mesh.ok(&["tail", "t", "--last", "1"]).len(), 60_001);

    mesh.ok(&["topic", "trim", "t", "--before", &next.to_string()]);
    assert!(
        until(|| mesh.run(&["publish", "t", "resumed"]).code == Some(0)),
        "a trim gives no space back"
    );
    assert_eq!(mesh.ok(&["tail", "t"]), b"resumed\n");
    assert!(mesh.is_up());
}

#[test]
fn a_disk_that_cannot_be_written_is_refused() {
    let Some((mut mesh, disk)) = mesh_on_a_small_disk() else {
        return;
    };
    mesh.ok(&["put", "k", "v"]);
    assert!(mesh.stop().success());
    disk.remount("ro");
    mesh.serve_refused().refused(1, &["data", "Read-only"]);
    disk.remount("rw");
    mesh.serve();
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
}

fn fill(path: &Path, bytes: u64) {
    let mut file = File::create(path).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        if file.write_all(&zeros).is_err() {
            return;
        }
    }
}
