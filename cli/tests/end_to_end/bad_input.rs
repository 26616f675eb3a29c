//! Names, sizes and offsets beyond their limits: a typed error that names the limit, and nothing is written.

use crate::mesh::Mesh;

#[test]
fn names_of_topics_and_cursors() {
    let mesh = Mesh::start();
    let long = "t".repeat(256);
    for (topic, cause) in [
        ("", "empty"),
        (&*long, "255"),
        ("sp ace", "' '"),
        ("..", ".."),
        ("a//b", "'/'"),
        ("é", "'é'"),
    ] {
        for words in [
            &["publish", topic, "v"][..],
            &["topic", "create", topic],
            &["topic", "describe", topic],
            &["topic", "delete", topic],
            &["topic", "trim", topic, "--before", "0"],
            &["tail", topic],
        ] {
            mesh.run(words).refused(2, &[cause]);
        }
    }
    assert_eq!(mesh.text(&["topic", "list"]), "");
    mesh.ok(&["publish", &long[..255], "v"]);
    mesh.run(&["tail", &long[..255], "--cursor", ""])
        .refused(2, &["empty"]);
    mesh.run(&["tail", &long[..255], "--cursor", &long])
        .refused(2, &["255"]);
}

#[test]
fn keys_and_values_of_bindings() {
    let mesh = Mesh::start();
    let long = "k".repeat(1025);
    for (key, cause) in [("", "empty"), (&*long, "1024")] {
        mesh.run(&["put", key, "v"]).refused(2, &[cause]);
        mesh.run(&["get", key]).refused(2, &[cause]);
        mesh.run(&["delete", key]).refused(2, &[cause]);
    }
    mesh.write("large", vec![b'x'; (1 << 20) + 1]);
    mesh.run(&["put", "k", "@large"])
        .refused(2, &["large", "1048576"]);
    mesh.run_with(&["put", "k", "-"], &vec![b'x'; (1 << 20) + 1])
        .refused(2, &["stdin", "1048576"]);
    mesh.run(&["put", "k", "@absent"]).refused(2, &["absent"]);
    assert_eq!(mesh.text(&["list"]), "");

    mesh.write("full", vec![b'x'; 1 << 20]);
    mesh.ok(&["put", &long[..1024], "@full"]);
    assert_eq!(mesh.ok(&["get", &long[..1024]]), vec![b'x'; 1 << 20]);
}

#[test]
fn headers_of_records() {
    let mesh = Mesh::start();
    let long = format!("{}=v", "h".repeat(256));
    mesh.run(&["publish", "t", "v", "--header", &long])
        .refused(2, &["255"]);
    let many = ["--header", "h=v"].repeat(65);
    mesh.run(&[&["publish", "t", "v"], &many[..]].concat())
        .refused(2, &["65", "64"]);
    assert_eq!(mesh.text(&["topic", "list"]), "");
    mesh.ok(&[&["publish", "t", "v"], &many[2..]].concat());
}

#[test]
fn offsets() {
    let mesh = Mesh::start();
    mesh.ok(&["publish", "t", "a", "b", "c"]);
    mesh.ok(&["topic", "trim", "t", "--before", "1"]);
    mesh.run(&["tail", "t", "--from-offset", "4"])
        .refused(3, &["4", "3"]);
    mesh.run(&["tail", "t", "--from-offset", "0"])
        .refused(3, &["0", "1"]);
    mesh.run(&["publish", "t", "x", "--expect-offset", "2"])
        .refused(5, &["2", "3"]);
    assert_eq!(mesh.ok(&["tail", "t"]), b"b\nc\n");
}

#[test]
fn what_is_not_there() {
    let mesh = Mesh::start();
    for words in [
        &["tail", "absent"][..],
        &["tail", "absent", "--cursor", "c"],
        &["tail", "absent", "--follow"],
        &["topic", "describe", "absent"],
        &["topic", "delete", "absent"],
        &["topic", "trim", "absent", "--before", "0"],
        &["publish", "absent", "v", "--no-create"],
        &["get", "absent"],
    ] {
        mesh.run(words).refused(3, &["absent"]);
    }
    assert_eq!(mesh.text(&["topic", "list"]), "");
    mesh.run(&["publish", "t", "--file", "absent"])
        .refused(2, &["absent"]);
}
