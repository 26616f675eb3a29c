//! The tour's stop at the door: who is let in, and what they may do there.

use super::tour::Tour;
use crate::error::Failure;

/// `address` is where the node of the tour serves.
pub(super) async fn refusals(tour: &mut Tour<'_>, address: &str) -> Result<(), Failure> {
    tour.heading("Identities: everyone proves who they are, and may do what they were granted")?;
    tour.meshctl(&[
        "ca",
        "issue",
        "client",
        "auditor",
        "--dir",
        "mesh",
        "--read-topic",
        "commits",
    ])
    .await?
    .required("ca issue")?;
    let auditor = ["--config", "mesh/clients/auditor/client.toml"];
    let read = tour
        .meshctl(&[&auditor[..], &["tail", "commits", "--last", "1"]].concat())
        .await?;
    tour.claim(
        read.ok() && !read.stdout.is_empty(),
        "the auditor may read the topic commits",
    )?;
    let write = tour
        .meshctl(&[&auditor[..], &["publish", "commits", "forged"]].concat())
        .await?;
    tour.claim(write.code == Some(6), "but not write to it: exit code 6")?;
    let other = tour
        .meshctl_unseen(&[&auditor[..], &["get", "user:123"]].concat())
        .await?;
    tour.claim(
        other.code == Some(6) && other.stdout.is_empty(),
        "nor see any binding",
    )?;

    tour.meshctl_unseen(&["init", "stranger", "--nodes", "1"])
        .await?
        .required("init")?;
    let stranger = ["--config", "stranger/client/client.toml", "--node", address];
    let knock = tour
        .meshctl(&[&stranger[..], &["get", "user:123"]].concat())
        .await?;
    tour.claim(
        knock.code == Some(6) && knock.stdout.is_empty(),
        "a client with the certificate of another CA is refused",
    )?;
    let own = tour.meshctl_unseen(&["get", "user:123"]).await?;
    tour.claim(
        own.ok() && own.stdout == b"bob",
        "and the node goes on serving its own",
    )
}
