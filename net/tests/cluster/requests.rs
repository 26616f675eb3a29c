//! Every node takes every request, also one that it does not lead.

use mesh_net::{
    client::{ClientError, TopicConfig},
    wire::proto::{self, reply, request},
};

use crate::{
    cluster::Cluster,
    support::{ask, within},
};

fn topic(answer: reply::Kind) -> proto::Topic {
    match answer {
        reply::Kind::Topic(topic) => topic,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_made_and_kept_through_nodes_that_do_not_lead_them() {
    let cluster = Cluster::start(3).await;
    for node in 0..3 {
        let name = cluster.topic_led_by((node + 1) % 3).await;
        let leader = cluster.name((node + 1) % 3);
        let connection = cluster.connection(node).await;
        let create = proto::CreateTopic {
            name: name.clone(),
            settings: Some(proto::TopicSettings {
                retention_age_ms: Some(3_600_000),
                retention_bytes: None,
            }),
            if_not_exists: false,
        };
        let made = topic(ask(&connection, request::Kind::CreateTopic(create.clone())).await);
        assert_eq!((made.leader.as_str(), made.next), (leader, 0));
        assert_eq!(made.settings.unwrap().retention_age_ms, Some(3_600_000));
        let again = ask(&connection, request::Kind::CreateTopic(create)).await;
        let exists = matches!(&again, reply::Kind::Error(error) if error.code() == proto::ErrorCode::TopicExists);
        assert!(exists, "{again:?}");
        let describe = || request::Kind::DescribeTopic(proto::DescribeTopic { name: name.clone() });
        for other in 0..3 {
            let connection = cluster.connection(other).await;
            let described = topic(ask(&connection, describe()).await);
            assert_eq!(described.topic, made.topic);
            let client = cluster.client(&[other]).await;
            assert_eq!(
                within(client.list_topics("", None, 10)).await.unwrap(),
                [name.as_str()]
            );
        }
        let delete = proto::DeleteTopic { name: name.clone() };
        let deleted = ask(&connection, request::Kind::DeleteTopic(delete)).await;
        assert!(matches!(deleted, reply::Kind::Done(_)), "{deleted:?}");
        for other in 0..3 {
            let connection = cluster.connection(other).await;
            let gone = ask(&connection, describe()).await;
            let unknown = matches!(&gone, reply::Kind::Error(error) if error.code() == proto::ErrorCode::TopicNotFound);
            assert!(unknown, "{gone:?}");
            // A listing is a node's own; it follows its leader's at once.
            let client = cluster.client(&[other]).await;
            cluster
                .eventually("the topic is not listed", async || {
                    within(client.list_topics("", None, 10))
                        .await
                        .unwrap()
                        .is_empty()
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_refused_through_any_node() {
    let cluster = Cluster::start(3).await;
    let name = cluster.topic_led_by(0).await;
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        let missing = within(client.describe_topic(&name)).await;
        assert!(
            matches!(missing, Err(ClientError::NotFound(_))),
            "{missing:?}"
        );
        let missing = within(client.trim_topic(&name, 0)).await;
        assert!(
            matches!(missing, Err(ClientError::NotFound(_))),
            "{missing:?}"
        );
    }
    let client = cluster.client(&[1]).await;
    within(client.create_topic(&name, TopicConfig::default(), false))
        .await
        .unwrap();
    for node in 0..3 {
        let client = cluster.client(&[node]).await;
        let beyond = within(client.trim_topic(&name, 1)).await;
        assert!(
            matches!(beyond, Err(ClientError::OffsetBeyondEnd { next: 0, .. })),
            "{beyond:?}"
        );
        let beyond = within(client.commit_cursor(&name, "c", 1)).await;
        assert!(
            matches!(beyond, Err(ClientError::OffsetBeyondEnd { next: 0, .. })),
            "{beyond:?}"
        );
    }
}
