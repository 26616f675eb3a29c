//! `meshctl topic`.

use serde_json::json;

use crate::mesh::{Mesh, until};

#[test]
fn a_topic_is_made_described_and_deleted() {
    let mut mesh = Mesh::start();
    mesh.ok(&[
        "topic",
        "create",
        "a",
        "--retention-age",
        "7d",
        "--retention-bytes",
        "1GiB",
    ]);
    mesh.run(&["topic", "create", "a"]).refused(5, &["a"]);
    mesh.ok(&["topic", "create", "a", "--if-not-exists"]);
    mesh.ok(&["publish", "a", "one", "two"]);
    mesh.kill();
    mesh.serve();
    let described = mesh.json(&["topic", "describe", "a"]).remove(0);
    assert_eq!(described["topic"], "a");
    assert!(described["partition"].as_u64().unwrap() < 64);
    assert_eq!(
        (&described["first_offset"], &described["next_offset"]),
        (&json!(0), &json!(2))
    );
    assert!(described["bytes"].as_u64().unwrap() > 6);
    assert_eq!(
        (&described["leader"], &described["replicas"]),
        (&json!("n1"), &json!(["n1"]))
    );
    assert!(described["epoch"].as_u64().unwrap() >= 1);
    assert_eq!(described["retention_age_ms"], 7 * 86_400_000_u64);
    assert_eq!(described["retention_bytes"], 1 << 30);
    assert!(
        mesh.text(&["topic", "describe", "a"])
            .contains("next offset:")
    );

    mesh.ok(&["topic", "delete", "a"]);
    mesh.run(&["tail", "a"]).refused(3, &["a"]);
    mesh.ok(&["publish", "a", "again"]);
    assert_eq!(
        mesh.ok(&["tail", "a"]),
        b"again\n",
        "made again, it begins again"
    );
}

#[test]
fn topics_are_listed_in_order() {
    let mesh = Mesh::start();
    for name in ["b", "a/2", "a/10", "c"] {
        mesh.ok(&["topic", "create", name]);
    }
    assert_eq!(mesh.text(&["topic", "list"]), "a/10\na/2\nb\nc");
    assert_eq!(mesh.text(&["topic", "list", "a/"]), "a/10\na/2");
    assert_eq!(
        mesh.text(&["topic", "list", "--limit", "3"]),
        "a/10\na/2\nb"
    );
    assert_eq!(mesh.text(&["topic", "list", "nothing"]), "");
    assert_eq!(mesh.json(&["topic", "list", "c"]), [json!({"topic": "c"})]);
}

#[test]
fn what_is_trimmed_is_gone_and_said_to_be() {
    let mut mesh = Mesh::start();
    mesh.ok(&["publish", "t", "a", "b", "c", "d"]);
    assert_eq!(
        mesh.json(&["topic", "trim", "t", "--before", "3"]),
        [json!({"topic": "t", "first_offset": 3})]
    );
    mesh.kill();
    mesh.serve();
    assert_eq!(mesh.ok(&["tail", "t"]), b"d\n");
    mesh.run(&["tail", "t", "--from-offset", "1"])
        .refused(3, &["1", "3"]);
    mesh.ok(&["topic", "trim", "t", "--before", "2"]);
    assert_eq!(
        mesh.json(&["topic", "describe", "t"])[0]["first_offset"],
        3,
        "a trim point never moves back"
    );
    mesh.run(&["topic", "trim", "t", "--before", "5"])
        .refused(3, &["5", "4"]);
}

#[test]
fn records_leave_by_age_and_by_size() {
    let mesh = Mesh::start();
    mesh.ok(&["topic", "create", "old", "--retention-age", "1s"]);
    mesh.ok(&["topic", "create", "large", "--retention-bytes", "100KiB"]);
    mesh.ok(&["topic", "create", "kept"]);
    let input = format!("{}\n", "x".repeat(1_000)).repeat(1_000);
    for topic in ["old", "large", "kept"] {
        mesh.run_with(&["publish", topic], input.as_bytes())
            .succeeded();
    }
    let extent = |topic| {
        let described = mesh.json(&["topic", "describe", topic]).remove(0);
        (
            described["first_offset"].as_u64().unwrap(),
            described["next_offset"].as_u64().unwrap(),
        )
    };
    assert!(until(|| extent("old").0 == 1_000), "{:?}", extent("old"));
    assert!(until(|| extent("large").0 > 0), "{:?}", extent("large"));
    let (first, next) = extent("large");
    assert!(next == 1_000 && first < 1_000, "{first} {next}");
    assert_eq!(extent("kept"), (0, 1_000));
}
