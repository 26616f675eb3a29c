//! What the writer says of bindings that change, and how they are read a page at a time.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mesh_engine::{BindingWrite, Engine, Options};
use mesh_ring::ids::PartitionId;
use mesh_ring::name::BindingKey;
use support::*;

type Told = Arc<Mutex<Vec<(PartitionId, String)>>>;

fn open(bench: &Bench) -> (Engine, Told) {
    let told = Told::default();
    let telling = Arc::clone(&told);
    let on_bound = move |changed: &mut dyn Iterator<Item = (PartitionId, &[u8])>| {
        let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
        let changed = changed.map(|(partition, key)| (partition, text(key)));
        telling.lock().unwrap().extend(changed);
    };
    let options = Options {
        on_bound: Some(Arc::new(on_bound)),
        ..bench.options()
    };
    (Engine::open(bench.data(), options).unwrap(), told)
}

fn write(engine: &Engine, key: &str, value: Option<&[u8]>, expires_ms: Option<u64>) {
    let write = BindingWrite {
        key: BindingKey::new(key.as_bytes()).unwrap(),
        value: value.map(Bytes::copy_from_slice),
        context: None,
        expires_ms,
    };
    engine.write_binding(write).unwrap();
}

#[test]
fn whoever_asks_is_told_of_each_change_before_its_writer_is_answered() {
    let bench = Bench::new();
    let (engine, told) = open(&bench);
    let changed = |key: &str| vec![(engine.partition_of(key.as_bytes()), key.to_owned())];
    let take = || std::mem::take(&mut *told.lock().unwrap());
    write(&engine, "a", Some(b"1"), None);
    assert_eq!(take(), changed("a"));
    write(&engine, "a", None, None);
    assert_eq!(take(), changed("a"));
    write(&engine, "b", Some(b"short"), Some(bench.now_ms() + 5));
    assert_eq!(take(), changed("b"));
    assert_eq!(take(), []);
    // Another copy brings something new, and then nothing.
    let theirs = engine.binding(&BindingKey::new(b"b").unwrap()).unwrap();
    let merge = || {
        let (done, merged) = std::sync::mpsc::sync_channel(1);
        let key = BindingKey::new(b"c").unwrap();
        engine.submit_merge(key, theirs.clone().unwrap(), move |result| {
            done.send(result).unwrap();
        });
        merged.recv().unwrap().unwrap();
    };
    merge();
    assert_eq!(take(), changed("c"));
    merge();
    assert_eq!(take(), []);
}

#[test]
fn pages_hold_every_binding_of_a_prefix_in_order_tombstones_too() {
    let bench = Bench::new();
    let (engine, _) = open(&bench);
    let keys: Vec<String> = (0..50).map(|number| format!("k/{number:02}")).collect();
    for key in &keys {
        write(&engine, key, Some(&[7; 100]), None);
    }
    write(&engine, "k/07", None, None);
    write(&engine, "j", Some(b"before"), None);
    write(&engine, "l", Some(b"after"), None);
    let mut found = Vec::new();
    for partition in (0..engine.identity().partitions).map(PartitionId) {
        let mut after: Option<Bytes> = None;
        loop {
            let page = engine
                .bindings_page(partition, b"k/", after.as_deref(), 150)
                .unwrap();
            let Some((last, _)) = page.last() else { break };
            assert!(page.len() <= 2, "a page of about 150 bytes");
            after = Some(last.clone());
            found.extend(page);
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found.len(), keys.len());
    for ((key, binding), expected) in found.iter().zip(&keys) {
        assert_eq!(key, expected.as_bytes());
        assert_eq!(binding.newest_live(0).is_none(), key == "k/07");
    }
}
