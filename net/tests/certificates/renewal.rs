//! Certificates and authorities that are replaced by others.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use mesh_net::identity::{IdentityError, Validity, distrust, trust};
use tokio::time::sleep;

use crate::{
    parties::{Dialler, Place, Server, echo, fingerprint, renew},
    support::within,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_over_while_the_node_runs() {
    let place = Place::new();
    let ca = place.authority("ca");
    let server = Server::start(&place.node(&ca, "node"));
    let dialler = Dialler::new(&place.client(&ca, "client"), &server);
    let established = dialler.dial(&server).await.unwrap();
    let old = fingerprint(&place.path("node"));
    assert_eq!(dialler.who(&server).await, old);

    renew(&place.node(&ca, "renewed"), &place.path("node"));
    let new = fingerprint(&place.path("node"));
    assert_ne!(new, old);
    // Nobody tells the node: it sees it by itself.
    within(async {
        while dialler.who(&server).await != new {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    echo(&established).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_refused_and_the_old_stays() {
    let place = Place::new();
    let ca = place.authority("ca");
    let node = place.node(&ca, "node");
    let server = Server::start(&node);
    let dialler = Dialler::new(&place.client(&ca, "client"), &server);
    let old = fingerprint(&node);
    let renewed = place.node(&ca, "renewed");
    let reload = || server.identity.reload();
    let is_unusable = |result: Result<bool, IdentityError>, because: &str| {
        let message = result.expect_err(because).to_string();
        assert!(message.contains(because), "{message}");
    };
    assert!(!reload().unwrap(), "nothing has changed");

    // The certificate without its key.
    fs::copy(renewed.join("cert.pem"), node.join("cert.pem")).unwrap();
    is_unusable(reload(), "cannot be used");
    // Half a certificate.
    let whole = fs::read(renewed.join("cert.pem")).unwrap();
    fs::write(node.join("cert.pem"), &whole[..whole.len() / 2]).unwrap();
    is_unusable(reload(), "certificate in PEM");
    // None at all.
    fs::remove_file(node.join("cert.pem")).unwrap();
    is_unusable(reload(), "cannot read");
    assert_eq!(dialler.who(&server).await, old);
    // One that has expired.
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    let past = Validity {
        from: now - hour * 2,
        until: now - hour,
    };
    ca.issue_node(&place.path("expired"), "n1", &[], past)
        .unwrap();
    renew(&place.path("expired"), &node);
    is_unusable(reload(), "and not now");
    // Another node's, and a client's.
    ca.issue_node(&place.path("n2"), "n2", &[], Validity::days(1))
        .unwrap();
    renew(&place.path("n2"), &node);
    is_unusable(reload(), "node n2's, and was node n1's");
    renew(&place.client(&ca, "other"), &node);
    is_unusable(reload(), "client c's");
    assert_eq!(dialler.who(&server).await, old);

    // Once the set is whole it is used.
    renew(&renewed, &node);
    within(async {
        while dialler.who(&server).await != fingerprint(&node) {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_without_downtime() {
    let place = Place::new();
    let (old, new) = (place.authority("old"), place.authority("new"));
    let (node, client) = (place.node(&old, "node"), place.client(&old, "client"));
    let server = Server::start(&node);
    let dialler = Dialler::new(&client, &server);
    let relic = Dialler::new(&place.client(&old, "relic"), &server);
    let authority = |name: &str| place.path(name).join("ca.pem");
    let bundles = [node.join("ca.pem"), client.join("ca.pem")];

    // One end after the other, in either order: at every moment both must understand each other.
    let both_work = async |after: &str| {
        if let Err(error) = dialler.dial(&server).await {
            panic!("after {after}: {error}");
        }
    };
    // What follow_identity does by itself, without waiting for the next look.
    let reload_both = async |after: &str| {
        assert!(dialler.identity.reload().unwrap(), "{after}");
        both_work(after).await;
        server.identity.reload().unwrap();
        both_work(after).await;
    };
    both_work("the start").await;
    for bundle in &bundles {
        assert!(trust(bundle, &authority("new")).unwrap());
        assert!(!trust(bundle, &authority("new")).unwrap(), "it is there");
    }
    reload_both("trusting both").await;
    // The identities of the new authority come with its ca.pem alone; these stay as they are.
    renew(&place.client(&new, "client-2"), &client);
    assert!(dialler.identity.reload().unwrap());
    both_work("the client's change").await;
    let renewed = place.node(&new, "node-2");
    renew(&renewed, &node);
    server.identity.reload().unwrap();
    within(async {
        while dialler.who(&server).await != fingerprint(&node) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    relic.dial(&server).await.unwrap_err();
    for bundle in &bundles {
        assert!(distrust(bundle, &authority("old")).unwrap());
        assert!(!distrust(bundle, &authority("old")).unwrap(), "it is gone");
        distrust(bundle, &authority("new")).unwrap_err();
    }
    reload_both("trusting the new one").await;
    // A client of the old authority that trusts both is refused by the node from now on.
    trust(&place.path("relic").join("ca.pem"), &authority("new")).unwrap();
    assert!(relic.identity.reload().unwrap());
    within(async {
        while relic.dial(&server).await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    both_work("the change").await;
}
