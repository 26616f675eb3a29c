//! `meshctl bench`.

use crate::mesh::Mesh;

#[test]
fn every_kind_of_load_is_measured_and_leaves_no_topic() {
    let mesh = Mesh::start();
    for flags in [
        &["publish"][..],
        &["publish", "--batch", "64", "--topics", "3"],
        &["publish", "--inflight", "1"],
        &["replay", "--topics", "2"],
        &["put"],
        &["get"],
    ] {
        let words = [&["bench"], flags, &["--records", "500", "--size", "100"]].concat();
        let measured = mesh.json(&words).remove(0);
        assert_eq!(measured["records"], 500, "{flags:?}");
        assert_eq!(measured["size"], 100);
        for field in [
            "inflight",
            "seconds",
            "records_per_second",
            "mib_per_second",
        ] {
            assert!(
                measured[field].as_f64().unwrap() > 0.0,
                "{field} of {flags:?}"
            );
        }
        let latency = &measured["latency_ms"];
        let ms = |name: &str| latency[name].as_f64().unwrap();
        assert!(ms("p50") > 0.0, "{latency}");
        let ordered = [ms("p50"), ms("p99"), ms("p999"), ms("max")];
        assert!(ordered.is_sorted(), "{latency}");
    }
    assert_eq!(mesh.text(&["topic", "list"]), "");
    let text = mesh.text(&["bench", "publish", "--records", "100"]);
    assert!(
        text.contains("records/s") && text.contains("p999"),
        "{text}"
    );
}
