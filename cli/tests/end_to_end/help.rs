//! What a person reads before anything runs.

use crate::mesh::{Ran, meshctl, run};

fn meshctl_with(words: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let mut command = meshctl(dir.path());
    command.args(words);
    run(command, b"")
}

#[test]
fn help_goes_to_stdout_and_shows_an_example() {
    for words in [
        &["--help"][..],
        &["publish", "--help"],
        &["help", "topic", "trim"],
        &["ca", "issue", "client", "-h"],
    ] {
        let help = String::from_utf8(meshctl_with(words).succeeded()).unwrap();
        assert!(help.contains("Example"), "{help}");
    }
}

#[test]
fn the_version_names_the_data_format() {
    let version = String::from_utf8(meshctl_with(&["--version"]).succeeded()).unwrap();
    assert_eq!(
        version,
        format!(
            "meshctl {} (data format {})\n",
            env!("CARGO_PKG_VERSION"),
            mesh_engine::FORMAT_VERSION
        )
    );
}

#[test]
fn mistakes_are_one_line_and_exit_with_2() {
    for (words, cause) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["put", "k"], "VALUE"),
        (&["put", "k", "v", "--ttl", "0s"], "longer than 0"),
        (&["put", "k", "v", "--ttl", "soon"], "soon"),
        (&["put", "k", "v", "--write", "0"], "--write"),
        (&["put", "k", "v", "--context", "!"], "context"),
        (&["tail", "t", "--from-offset", "-1"], "-1"),
        (
            &["tail", "t", "--from-offset", "1", "--last", "1"],
            "cannot be used",
        ),
        (&["tail", "t", "--from-time", "yesterday"], "RFC 3339"),
        (&["tail", "t", "--output", "yaml"], "yaml"),
        (&["publish", "t", "v", "--header", "novalue"], "NAME=VALUE"),
        (&["publish", "t", "v", "--compress", "brotli"], "brotli"),
        (&["publish", "t", "v", "--file", "f"], "cannot be used"),
        (&["topic", "trim", "t"], "--before"),
        (
            &["topic", "create", "t", "--retention-bytes", "many"],
            "KiB",
        ),
        (&["init", "mesh", "--nodes", "0"], "--nodes"),
        (&["init", "mesh", "--host", "0.0.0.0"], "find each other"),
        (&["init", "mesh", "--zones", "a b"], "blanks"),
        (&["node", "new", "n4"], "cluster.json"),
        (
            &["init", "mesh", "--nodes", "1", "--hosts", "nowhere"],
            "HOST:PORT",
        ),
        (&["init", "mesh", "--partitions", "0"], "--partitions"),
        (&["bench", "sleep"], "sleep"),
        (&["bench", "publish", "--size", "2MiB"], "limit"),
        (&["get", "k", "--log", "=="], "--log"),
    ] {
        let ran = meshctl_with(words);
        ran.refused(2, &[cause]);
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    }
}

#[test]
fn nothing_at_all_shows_the_help() {
    let ran = meshctl_with(&[]);
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("Usage"), "{ran:?}");
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = String::from_utf8(meshctl_with(&["completions", shell]).succeeded()).unwrap();
        assert!(
            script.contains("meshctl") && script.contains("publish"),
            "{shell}"
        );
    }
}
