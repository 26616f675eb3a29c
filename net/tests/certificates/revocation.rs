//! Certificates that are taken back, and what an authority knows of those that it gave.

use std::fs;

use mesh_net::{
    identity::{Authority, Grants, REVOKED_REASON, Role, Validity, revoke_in},
    quic::CLOSE_REFUSED,
};
use quinn::ConnectionError;

use crate::{
    parties::{Dialler, Place, Server, echo, fingerprint},
    support::within,
};

fn assert_revoked(error: ConnectionError) {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(
                (close.error_code, &close.reason[..]),
                (CLOSE_REFUSED, REVOKED_REASON)
            );
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_and_its_connections_end() {
    let place = Place::new();
    let ca = place.authority("ca");
    let node = place.node(&ca, "node");
    let server = Server::start(&node);
    let clients = ["a", "b", "c"].map(|folder| place.client(&ca, folder));
    let [a, b, c] = clients.each_ref().map(|dir| Dialler::new(dir, &server));
    let (live_a, live_b, live_c) = (
        a.dial(&server).await.unwrap(),
        b.dial(&server).await.unwrap(),
        c.dial(&server).await.unwrap(),
    );

    // By the file beside the authorities, which the node sees by itself.
    revoke_in(&node, fingerprint(&clients[0]), "client c, a lost laptop").unwrap();
    assert_revoked(within(live_a.closed()).await);
    assert_revoked(a.dial(&server).await.unwrap_err());
    // By the cluster map.
    server
        .identity
        .revoked()
        .set_cluster([fingerprint(&clients[1])]);
    assert_revoked(within(live_b.closed()).await);
    assert_revoked(b.dial(&server).await.unwrap_err());
    // Everyone else goes on.
    echo(&live_c).await.unwrap();
    c.dial(&server).await.unwrap();

    // A list that cannot be read is a warning and takes nothing back.
    fs::write(node.join("revoked"), "no fingerprint\n").unwrap();
    assert!(server.identity.reload().is_err());
    assert_revoked(a.dial(&server).await.unwrap_err());
    // A revocation counts although the identity's files are unusable.
    fs::write(
        node.join("revoked"),
        format!("{}\n", fingerprint(&clients[2])),
    )
    .unwrap();
    fs::remove_file(node.join("key.pem")).unwrap();
    assert!(server.identity.reload().is_err());
    assert_revoked(within(live_c.closed()).await);
    // What is taken off the list is welcome again.
    a.dial(&server).await.unwrap();
}

#[test]
fn an_authority_knows_what_it_issued() {
    let place = Place::new();
    let ca = place.authority("ca");
    let (node, client) = (place.node(&ca, "node"), place.client(&ca, "client"));
    let again = place.client(&ca, "again");
    ca.issue_client(
        &place.path("c-2"),
        "c-2",
        &Grants::none(),
        Validity::days(1),
    )
    .unwrap();
    let issued = |name: &str| {
        let mut found: Vec<_> = Authority::issued(&place.path("ca"), name)
            .unwrap()
            .into_iter()
            .map(|peer| (peer.role, peer.fingerprint))
            .collect();
        found.sort_by_key(|(_, fingerprint)| *fingerprint);
        found
    };
    assert_eq!(issued("n1"), [(Role::Node, fingerprint(&node))]);
    let mut both = [
        (Role::Client, fingerprint(&client)),
        (Role::Client, fingerprint(&again)),
    ];
    both.sort_by_key(|(_, fingerprint)| *fingerprint);
    assert_eq!(issued("c"), both);
    assert_eq!(issued("nobody"), []);
    // What is refused leaves no trace.
    assert!(
        ca.issue_client(&client, "c", &Grants::none(), Validity::days(1))
            .is_err()
    );
    assert_eq!(issued("c"), both);
}
