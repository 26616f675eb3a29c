//! A byte flips on the disk of one of three nodes, in records that nobody has read for long.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cluster::Cluster;

const RECORDS: usize = 3_000;

fn value(n: usize) -> String {
    format!("record {n:06} of a topic that is cold")
}

/// Flips a byte of a text, wherever it lies in the blob files of a node that is stopped.
fn flip(data: &Path, text: &str) {
    let mut flipped = 0;
    for file in fs::read_dir(data.join("db")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|found| found != "blob") {
            continue;
        }
        let mut content = fs::read(&file).unwrap();
        let found = content
            .windows(text.len())
            .position(|at| at == text.as_bytes());
        if let Some(at) = found {
            content[at + 2] ^= 0x04;
            fs::write(&file, content).unwrap();
            flipped += 1;
        }
    }
    assert_eq!(flipped, 1, "{text}");
}

#[test]
fn a_flipped_byte_under_cold_records_is_healed_by_a_repair() {
    let mut cluster = Cluster::stopped(3, &[]);
    for name in ["n1", "n2", "n3"] {
        // Nothing is healed but by what this test asks for.
        cluster.configure(name, "repair_every_seconds", 0);
    }
    cluster.serve_all(3);
    cluster.is_whole();
    let lines: Vec<String> = (0..RECORDS).map(value).collect();
    // In several batches, of which one is going to be damaged.
    for some in lines.chunks(RECORDS / 6) {
        let file = cluster.path("records");
        fs::write(&file, some.join("\n") + "\n").unwrap();
        cluster.ok(&["publish", "cold", "--file", file.to_str().unwrap()]);
    }
    cluster.is_identical("cold", 3);
    assert!(cluster.stop("n3").success());
    flip(&cluster.path("mesh/n3/data"), &value(1_500));
    cluster.serve("n3");
    cluster.is_whole();

    // It is told of, and whoever reads there gets everything all the same.
    let told = cluster.run(&["verify", "cold"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    assert!(told.stderr.contains("meshctl repair"), "{told:?}");
    let address = cluster.address("n3").to_owned();
    let read = cluster.text(&["tail", "cold", "--node", &address]);
    assert!(read == lines.join("\n"));
    let status = cluster.run(&["status"]).stderr;
    assert!(status.contains("cold at offsets 1024 to 2047"), "{status}");
    assert!(status.contains("cannot be read here"), "{status}");

    let text = cluster.text(&["repair", "--output", "json"]);
    let nodes: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |name: &str, field: &str| {
        let node = nodes.iter().find(|node| node["node"] == name).unwrap();
        node[field].as_u64().unwrap()
    };
    assert_eq!(
        (of("n3", "blocks_damaged"), of("n3", "blocks_healed")),
        (1, 1)
    );
    for name in ["n1", "n2"] {
        assert_eq!(of(name, "blocks_healed"), 0);
    }
    let told = cluster.run(&["verify", "cold"]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let status = cluster.run(&["status"]);
    assert!(!status.stderr.contains("cannot be read here"), "{status:?}");
    let status = status.text();
    assert!(status.contains("healed from other replicas"), "{status}");
}
