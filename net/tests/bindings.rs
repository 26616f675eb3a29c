//! Bindings and topics through the client.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use mesh_net::client::{ClientError, TopicConfig, WriteOptions};
use mesh_ring::limits::{
    BINDING_KEY_BYTES_MAX, BINDING_VALUE_BYTES_MAX, SIBLINGS_BYTES_MAX, SIBLINGS_MAX,
};
use support::{Mesh, within};

#[tokio::test(flavor = "multi_thread")]
async fn written_values_are_read_listed_and_removed() {
    let mut mesh = Mesh::start().await;
    let client = mesh.client().await;
    let largest = Bytes::from(vec![9; BINDING_VALUE_BYTES_MAX]);
    let key = vec![b'k'; BINDING_KEY_BYTES_MAX];
    let ack = client
        .put(&key, largest.clone(), WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(
        (ack.acknowledged, ack.hinted.len()),
        (vec!["n1".to_owned()], 0)
    );
    client
        .put(b"a", Bytes::new(), WriteOptions::default())
        .await
        .unwrap();
    mesh.stop().await;
    mesh.start_again().await;
    assert_eq!(
        within(client.get(&key, None))
            .await
            .unwrap()
            .unwrap()
            .values[0]
            .value,
        largest
    );
    assert_eq!(
        &client.get(b"a", None).await.unwrap().unwrap().values[0].value[..],
        b""
    );
    assert_eq!(client.get(b"none", None).await.unwrap(), None);
    client.delete(b"a", WriteOptions::default()).await.unwrap();
    assert_eq!(client.get(b"a", None).await.unwrap(), None);
    assert_eq!(
        client.list(b"", None, 10).await.unwrap(),
        [Bytes::from(key)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_may_expire() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let options = WriteOptions {
        ttl: Some(Duration::from_millis(300)),
        ..WriteOptions::default()
    };
    client.put(b"k", "v".into(), options).await.unwrap();
    assert!(
        client.get(b"k", None).await.unwrap().unwrap().values[0]
            .expires_ms
            .is_some()
    );
    within(async {
        while client.get(b"k", None).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writes_are_siblings_up_to_the_limit() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let seen = client
        .put(b"k", "base".into(), WriteOptions::default())
        .await
        .unwrap()
        .context;
    let value = |number: usize| Bytes::from(vec![number as u8; SIBLINGS_BYTES_MAX / SIBLINGS_MAX]);
    let with = |context: &Bytes| WriteOptions {
        context: Some(context.clone()),
        ..WriteOptions::default()
    };
    // Writers that have all seen the same.
    for number in 0..SIBLINGS_MAX {
        client.put(b"k", value(number), with(&seen)).await.unwrap();
    }
    let got = within(client.get(b"k", None)).await.unwrap().unwrap();
    assert_eq!(got.values.len(), SIBLINGS_MAX);
    assert!(
        got.values
            .iter()
            .rev()
            .enumerate()
            .all(|(n, v)| v.value == value(n)),
        "the newest first"
    );
    let refused = client.put(b"k", "one more".into(), with(&seen)).await;
    assert!(
        matches!(refused, Err(ClientError::Conflict { .. })),
        "{refused:?}"
    );
    client
        .put(b"k", "merged".into(), with(&got.context))
        .await
        .unwrap();
    // Fewer, but larger ones.
    let large = || Bytes::from(vec![b'v'; BINDING_VALUE_BYTES_MAX]);
    let first = WriteOptions::default();
    let seen = client.put(b"large", "base".into(), first).await.unwrap();
    let seen = seen.context;
    client.put(b"large", large(), with(&seen)).await.unwrap();
    match client.put(b"large", large(), with(&seen)).await {
        Err(ClientError::Conflict { message, .. }) => {
            assert!(
                message.contains(&SIBLINGS_BYTES_MAX.to_string()),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
    let got = client.get(b"k", None).await.unwrap().unwrap();
    assert_eq!(
        (got.values.len(), &got.values[0].value[..]),
        (1, &b"merged"[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_typed_and_write_nothing() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let invalid = |result: Result<_, ClientError>| match result {
        Err(ClientError::Invalid(message)) => message,
        Ok(()) => panic!("accepted"),
        Err(other) => panic!("{other:?}"),
    };
    let put =
        async |key: &[u8], value: Bytes, options| client.put(key, value, options).await.map(|_| ());
    invalid(put(b"", "v".into(), WriteOptions::default()).await);
    invalid(
        put(
            &[0; BINDING_KEY_BYTES_MAX + 1],
            "v".into(),
            WriteOptions::default(),
        )
        .await,
    );
    let large = Bytes::from(vec![0; BINDING_VALUE_BYTES_MAX + 1]);
    let message = invalid(put(b"k", large, WriteOptions::default()).await);
    assert!(
        message.contains(&BINDING_VALUE_BYTES_MAX.to_string()),
        "{message}"
    );
    let garbage = WriteOptions {
        context: Some("garbage".into()),
        ..WriteOptions::default()
    };
    invalid(put(b"k", "v".into(), garbage).await);
    let two = WriteOptions {
        write: Some(2),
        ..WriteOptions::default()
    };
    match put(b"k", "v".into(), two).await {
        Err(ClientError::Unavailable(message)) => {
            assert!(message.contains("need 2, have 1"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        client.get(b"k", Some(2)).await,
        Err(ClientError::Unavailable(_))
    ));
    assert_eq!(client.list(b"", None, 10).await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn long_listings_come_in_order_over_many_pages() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    // Keys of the largest size: more than one frame holds.
    let key = |number: usize| {
        let mut key = format!("k{number:05}").into_bytes();
        key.resize(BINDING_KEY_BYTES_MAX, b'.');
        key
    };
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..5_000 {
        let (client, key) = (client.clone(), key(number));
        writes.spawn(async move {
            client
                .put(&key, "v".into(), WriteOptions::default())
                .await
                .map(|_| ())
        });
    }
    within(writes.join_all())
        .await
        .into_iter()
        .for_each(|written| written.unwrap());
    let all = within(client.list(b"k", None, 20_000)).await.unwrap();
    assert_eq!(all.len(), 5_000);
    assert!(
        all.iter()
            .enumerate()
            .all(|(number, found)| found == &key(number)[..])
    );
    let some = client.list(b"k0", Some(&key(9)), 2).await.unwrap();
    assert_eq!(some, [key(10), key(11)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_described_and_deleted() {
    let mesh = Mesh::start().await;
    let client = mesh.client().await;
    let config = TopicConfig {
        retention_age_ms: Some(60_000),
        retention_bytes: None,
    };
    let made = client.create_topic("a/b", config, false).await.unwrap();
    assert_eq!(
        (made.first, made.next, made.leader.as_str(), made.config),
        (0, 0, "n1", config)
    );
    assert!(matches!(
        client.create_topic("a/b", config, false).await,
        Err(ClientError::Conflict { .. })
    ));
    let again = client
        .create_topic("a/b", TopicConfig::default(), true)
        .await
        .unwrap();
    assert_eq!((again.id, again.config), (made.id, config));
    assert_eq!(client.list_topics("a", None, 9).await.unwrap(), ["a/b"]);
    client.delete_topic("a/b").await.unwrap();
    assert!(matches!(
        client.delete_topic("a/b").await,
        Err(ClientError::NotFound(_))
    ));
    assert!(matches!(
        client.describe_topic("a/b").await,
        Err(ClientError::NotFound(_))
    ));
    let info = client.info().await.unwrap();
    assert_eq!(
        (info.name.as_str(), info.boot, info.partitions),
        ("n1", 1, 8)
    );
    assert!(!client.storage().await.unwrap().is_empty());
}
