//! Disks that come back empty, old or damaged, just when their votes would be a majority without those who know better.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::scene::others;
use crate::cluster::Cluster;
use crate::mesh::until;

/// How long those who know too little are watched doing nothing.
const WATCHED: Duration = Duration::from_secs(3);

/// The three parts of a story about topic `t`.
struct Cast {
    leader: String,
    /// Whose disk goes bad.
    victim: String,
    /// Who is away while the others acknowledge, and so knows nothing of it.
    absent: String,
}

fn cast(cluster: &Cluster) -> Cast {
    cluster.ok(&["publish", "t", "first"]);
    cluster.is_identical("t", 3);
    let leader = cluster.leader("t");
    let [victim, absent] = others(cluster, &[&leader]).try_into().unwrap();
    Cast {
        leader,
        victim,
        absent,
    }
}

/// Publishes what only the leader and the victim have.
fn acknowledge_by_two(cluster: &mut Cluster, cast: &Cast) -> Vec<String> {
    cluster.kill(&cast.absent);
    let mut values = vec!["first".to_owned()];
    for number in 0..8 {
        let value = format!("r{number}");
        cluster.publish_soon("t", &value);
        values.push(value);
    }
    values
}

/// The absent one is back without the leader: what it was not there for must not be voted away.
fn nothing_is_voted_away(cluster: &Cluster, known: &[String]) {
    thread::sleep(WATCHED);
    let written = cluster.run(&["publish", "t", "instead", "--timeout", "2s"]);
    assert_eq!(written.code, Some(4), "{written:?}");
    let read = cluster.run(&["tail", "t", "--timeout", "2s"]);
    let read = String::from_utf8(read.stdout).unwrap();
    let read: Vec<&str> = read.lines().collect();
    assert!(
        known.len() >= read.len() && read.iter().zip(known).all(|(read, known)| read == known),
        "{read:?} is no beginning of {known:?}"
    );
}

/// Those that are back together have everything, and so have any two of them. Nobody was told whether `instead` was
/// written.
fn everything_is_there(cluster: &mut Cluster, known: &[String]) {
    let all_there = |cluster: &Cluster| {
        let read = cluster.text(&["tail", "t"]);
        let read: Vec<&str> = read.lines().collect();
        assert!(read.len() >= known.len(), "{known:?} became {read:?}");
        let (kept, more) = read.split_at(known.len());
        assert_eq!(kept, known);
        assert!(
            more.iter().filter(|value| **value == "instead").count() <= 1,
            "{read:?}"
        );
    };
    cluster.publish_soon("t", "together");
    all_there(cluster);
    cluster.is_whole();
    cluster.is_identical("t", 3);
    let leader = cluster.leader("t");
    cluster.kill(&leader);
    cluster.publish_soon("t", "without the leader");
    all_there(cluster);
    cluster.serve(&leader);
    cluster.is_whole();
    cluster.is_identical("t", 3);
}

fn data(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.path(&format!("mesh/{name}/data"))
}

fn log(cluster: &Cluster, name: &str) -> String {
    fs::read_to_string(cluster.path(&format!("{name}.log"))).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_machine_with_an_empty_disk_joins_again_under_another_name() {
    let mut cluster = Cluster::start(3);
    let cast = cast(&cluster);
    let known = acknowledge_by_two(&mut cluster, &cast);
    cluster.kill(&cast.victim);
    let lost = data(&cluster, &cast.victim);
    fs::remove_dir_all(&lost).unwrap();
    fs::create_dir(&lost).unwrap();
    let leader = cast.leader.clone();
    cluster.kill(&leader);
    cluster.serve(&cast.absent);

    let refused = cluster.serve_in_vain(&cast.victim);
    refused.refused(1, &["no store", "node new", "node join"]);
    nothing_is_voted_away(&cluster, &known);

    cluster.serve(&leader);
    cluster.publish_soon("t", "together");
    let victim = cast.victim.as_str();
    assert!(until(|| cluster.states()[victim] == "down"));
    cluster.ok(&["node", "new", "mesh/n4", "--port", "0"]);
    cluster.ok(&["node", "join", "mesh/n4", "--no-wait"]);
    cluster.serve("n4");
    cluster.ok(&["node", "join", "mesh/n4", "--wait"]);
    cluster.ok(&["node", "remove", victim]);
    cluster.is_whole();
    let known = [&known[..], &["together".to_owned()]].concat();
    everything_is_there(&mut cluster, &known);
}

#[test]
fn an_old_copy_of_a_disk_has_no_vote() {
    let mut cluster = Cluster::start(3);
    let cast = cast(&cluster);
    assert!(cluster.stop(&cast.victim).success());
    let (disk, aside) = (data(&cluster, &cast.victim), cluster.path("aside"));
    copy(&disk, &aside);
    cluster.serve(&cast.victim);
    cluster.is_whole();
    let known = acknowledge_by_two(&mut cluster, &cast);
    cluster.kill(&cast.victim);
    let newest = cluster.path("newest");
    fs::rename(&disk, &newest).unwrap();
    fs::rename(&aside, &disk).unwrap();
    cluster.kill(&cast.leader);
    cluster.serve(&cast.absent);

    let refused = cluster.serve_in_vain(&cast.victim);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let told = log(&cluster, &cast.victim);
    let told = told.lines().find(|line| line.starts_with("error: "));
    assert!(
        told.is_some_and(|told| told.contains("old copy") && told.contains("node join")),
        "{refused:?}"
    );
    nothing_is_voted_away(&cluster, &known);

    cluster.serve(&cast.leader);
    cluster.publish_soon("t", "without the copy");
    // The disk that it should have had is taken back.
    fs::remove_dir_all(&disk).unwrap();
    fs::rename(&newest, &disk).unwrap();
    cluster.serve(&cast.victim);
    // `instead` may have been taken at the last moment, and `without the copy` twice: nobody was told so.
    let read = cluster.text(&["tail", "t"]);
    let read: Vec<String> = read.lines().map(str::to_owned).collect();
    assert!(read.starts_with(&known), "{known:?} became {read:?}");
    assert!(read.contains(&"without the copy".to_owned()), "{read:?}");
    let known = read;
    everything_is_there(&mut cluster, &known);
}

#[test]
fn a_damaged_log_has_no_vote_until_somebody_who_knows_is_back() {
    let mut cluster = Cluster::start(3);
    let cast = cast(&cluster);
    let known = acknowledge_by_two(&mut cluster, &cast);
    cluster.kill(&cast.victim);
    damage(&data(&cluster, &cast.victim).join("db"));
    cluster.kill(&cast.leader);
    cluster.serve(&cast.absent);
    cluster.serve(&cast.victim);
    let told = log(&cluster, &cast.victim);
    assert!(told.contains("damaged"), "{told}");
    nothing_is_voted_away(&cluster, &known);
    let status = cluster.text(&["status"]);
    println!("with a suspect and an absent one: {status}");

    cluster.serve(&cast.leader);
    everything_is_there(&mut cluster, &known);
}

/// Flips a bit in the middle of the write-ahead log that was written last: what follows is not to be believed.
fn damage(db: &Path) {
    let logs = fs::read_dir(db).unwrap().map(|entry| entry.unwrap().path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let newest = logs
        .filter(|path| fs::metadata(path).unwrap().len() > 0)
        .max()
        .unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    // Zeros follow what is written.
    let middle = bytes.iter().rposition(|byte| *byte != 0).unwrap() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&newest, bytes).unwrap();
}
