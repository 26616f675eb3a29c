//! Disks that come back empty, old or damaged: none may vote away what was acknowledged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Publishes, and gives the node that is no leader of the topic, so that what happens to it is not about the takeover.
fn a_follower(cluster: &Cluster) -> String {
    cluster.ok(&["publish", "t", "a", "b"]);
    cluster.is_identical("t", 3);
    let leader = cluster.leader("t");
    cluster
        .names()
        .into_iter()
        .find(|name| *name != leader)
        .unwrap()
}

#[test]
fn a_node_with_an_empty_disk_does_not_come_back_under_its_name() {
    let mut cluster = Cluster::start(3);
    let name = a_follower(&cluster);
    assert!(cluster.stop(&name).success());
    let data = cluster.path(&format!("mesh/{name}/data"));
    fs::remove_dir_all(&data).unwrap();
    fs::create_dir(&data).unwrap();
    cluster.serve_in_vain(&name).refused(1, &["no store"]);
    cluster.publish_soon("t", "c");
    assert_eq!(cluster.ok(&["tail", "t"]), b"a\nb\nc\n");
}

#[test]
fn an_old_copy_of_a_disk_is_refused() {
    let mut cluster = Cluster::start(3);
    let name = a_follower(&cluster);
    assert!(cluster.stop(&name).success());
    let data = cluster.path(&format!("mesh/{name}/data"));
    let aside = cluster.path("aside");
    copy(&data, &aside);
    // It takes part once more, and acknowledges what the copy does not have.
    cluster.serve(&name);
    cluster.is_whole();
    cluster.ok(&["publish", "t", "c"]);
    cluster.is_identical("t", 3);
    assert!(cluster.stop(&name).success());
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();

    let refused = cluster.serve_in_vain(&name);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("old"), "{refused:?}");
    assert_eq!(cluster.ok(&["tail", "t"]), b"a\nb\nc\n");
    cluster.publish_soon("t", "d");
}

#[test]
fn a_node_with_a_damaged_log_is_healed_by_the_others() {
    let mut cluster = Cluster::start(3);
    let name = a_follower(&cluster);
    for number in 0..30 {
        cluster.ok(&["publish", "t", &format!("r{number}")]);
    }
    cluster.is_identical("t", 3);
    cluster.kill(&name);
    let log = newest_log(&cluster.path(&format!("mesh/{name}/data/db")));
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&log, bytes).unwrap();

    cluster.publish_soon("t", "meanwhile");
    cluster.serve(&name);
    cluster.is_whole();
    cluster.is_identical("t", 3);
    let told = fs::read_to_string(cluster.path(&format!("{name}.log"))).unwrap();
    assert!(told.contains("damaged"), "{told}");
    assert_eq!(cluster.text(&["tail", "t"]).lines().count(), 33);
}

fn newest_log(db: &Path) -> PathBuf {
    let logs = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.filter(|path| fs::metadata(path).unwrap().len() > 0)
        .max()
        .unwrap()
}
