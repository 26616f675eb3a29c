//! `meshctl demo` and `meshctl dev`.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use rustix::process::Signal;

use crate::mesh::{meshctl, run, signal, wait};

#[test]
fn every_claim_of_the_tour_holds() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = meshctl(dir.path());
    command.args(["demo"]).env("TMPDIR", dir.path());
    let tour = String::from_utf8(run(command, b"").succeeded()).unwrap();
    assert!(tour.contains("✓") && !tour.contains("✗"), "{tour}");
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "the tour leaves nothing behind"
    );
}

#[test]
fn dev_makes_runs_and_stops_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let start = |first: bool| {
        let mut dev = meshctl(dir.path())
            .args(["dev", "mesh", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
        if first {
            assert_eq!(lines.next().unwrap().unwrap(), "made mesh");
        }
        let ready = lines.next().unwrap().unwrap();
        let address = ready.strip_prefix("n1 | ready ").unwrap().to_owned();
        (dev, address)
    };
    let user = |words: &[&str]| {
        let mut command = meshctl(dir.path());
        command.args(words);
        run(command, b"")
    };
    let (mut dev, address) = start(true);
    user(&["put", "k", "v", "--node", &address]).succeeded();
    signal(&dev, Signal::INT);
    assert_eq!(wait(&mut dev).unwrap().code(), Some(0));
    let mut log = String::new();
    dev.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.lines().all(|line| line.starts_with("n1 | ")), "{log}");

    let (mut dev, address) = start(false);
    assert_eq!(user(&["get", "k", "--node", &address]).succeeded(), b"v");
    signal(&dev, Signal::TERM);
    assert_eq!(wait(&mut dev).unwrap().code(), Some(0));
    user(&["get", "k", "--node", &address, "--timeout", "500ms"]).refused(4, &[]);
}
