//! Identities: who is let in, and what they may do.

use std::fs;

use crate::mesh::Mesh;

#[test]
fn a_client_may_do_what_its_certificate_says_and_nothing_else() {
    let mut mesh = Mesh::start();
    mesh.ok(&["publish", "audit.logins", "in"]);
    mesh.ok(&["publish", "secret", "x"]);
    mesh.ok(&["put", "public:1", "p"]);
    mesh.ok(&["put", "private:1", "q"]);
    mesh.ok(&[
        "ca",
        "issue",
        "client",
        "eve",
        "--read-topic",
        "audit.",
        "--write-topic",
        "inbox/",
        "--read-key",
        "public:",
    ]);
    let eve =
        |words: &[&str]| mesh.run(&[&["--config", "mesh/clients/eve/client.toml"], words].concat());

    assert_eq!(eve(&["tail", "audit.logins"]).succeeded(), b"in\n");
    assert_eq!(eve(&["publish", "inbox/eve", "hello"]).succeeded(), b"0\n");
    assert_eq!(eve(&["get", "public:1"]).succeeded(), b"p");
    assert_eq!(eve(&["list", "public:"]).succeeded(), b"public:1\n");
    for refused in [
        &["tail", "secret"][..],
        &["tail", "inbox/eve"],
        &["publish", "audit.logins", "forged"],
        &["topic", "create", "mine"],
        &["topic", "delete", "audit.logins"],
        &["topic", "trim", "audit.logins", "--before", "1"],
        &["topic", "describe", "secret"],
        &["get", "private:1"],
        &["list"],
        &["put", "public:1", "changed"],
        &["delete", "public:1"],
    ] {
        eve(refused).refused(6, &["eve"]);
    }
    assert_eq!(mesh.ok(&["tail", "audit.logins"]), b"in\n");
    assert_eq!(mesh.ok(&["get", "public:1"]), b"p");
    assert_eq!(
        mesh.text(&["topic", "list"]),
        "audit.logins\ninbox/eve\nsecret"
    );
    assert!(mesh.is_up());
}

#[test]
fn a_stranger_is_refused() {
    let mut mesh = Mesh::start();
    let stranger = Mesh::stopped();
    mesh.ok(&["put", "k", "v"]);
    let config = stranger.path("mesh/client/client.toml");
    mesh.run(&["get", "k", "--config", config.to_str().unwrap()])
        .refused(6, &["certificate"]);

    // One that trusts the node, but whose own certificate is of another CA.
    fs::copy(
        mesh.path("mesh/client/ca.pem"),
        stranger.path("mesh/client/ca.pem"),
    )
    .unwrap();
    mesh.run(&["get", "k", "--config", config.to_str().unwrap()])
        .refused(6, &["certificate"]);
    assert!(mesh.is_up());
    assert_eq!(mesh.ok(&["get", "k"]), b"v");
}

#[test]
fn issued_identities_are_never_overwritten_and_their_names_are_checked() {
    let mesh = Mesh::stopped();
    mesh.ok(&["ca", "issue", "client", "a"]);
    let key = fs::read(mesh.path("mesh/clients/a/key.pem")).unwrap();
    mesh.run(&["ca", "issue", "client", "a"])
        .refused(1, &["exists"]);
    assert_eq!(fs::read(mesh.path("mesh/clients/a/key.pem")).unwrap(), key);
    for name in ["../b", "", "a b"] {
        mesh.run(&["ca", "issue", "client", name])
            .refused(2, &["not allowed"]);
    }
    assert!(!mesh.path("mesh/b").exists());
    mesh.run(&["ca", "issue", "client", "a", "--dir", "elsewhere"])
        .refused(2, &["--dir"]);
}

#[test]
fn private_keys_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let mesh = Mesh::stopped();
    mesh.ok(&["ca", "issue", "client", "a"]);
    for key in [
        "ca/ca-key.pem",
        "n1/identity/key.pem",
        "client/key.pem",
        "clients/a/key.pem",
    ] {
        let mode = fs::metadata(mesh.path("mesh").join(key))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}
