//! The hot paths, a file a room.
//!
//! What would make a count depend on chance is kept out: inputs and clocks are fixed, memtables are larger than what is
//! written, so that nothing is flushed or compacted meanwhile, the marker of an idle log never comes, and a group that
//! the writer takes together is submitted while it is held up, so that it is one group.

mod bindings;
mod engine;
mod reading;
mod ring;
mod wire;

use super::HotPath;

// Tolerances, and how far counts lay apart in 16 runs: on a machine that was busy with other builds, and of a program that was
// built in another folder, with 3,000 more bytes in its environment. `counts spread 10` measures that anew.

/// Of one thread, or of large batches: 0.1 % at most, and for what has no disk nothing at all.
const EXACT: f64 = 0.005;
/// Of generic code, which is compiled with the path itself: it takes the same number every time, but is inlined otherwise
/// where the path changes, which has made 1.2 %.
const GENERIC: f64 = 0.02;
/// Of a group of small operations. Keys get places of random heights in RocksDB's memtable, and the two threads wait for
/// each other's locks: 0.7 % at most.
const GROUPED: f64 = 0.02;
/// Of small operations one by one, where each wakes a thread up, and of reads through hash tables whose keys are random in
/// each run of RocksDB: 2.1 % at most.
const BY_CHANCE: f64 = 0.03;

/// Every path.
pub const HOT_PATHS: &[HotPath] = &[
    HotPath {
        name: "append-batch",
        operation: "append of a batch of 256 records of 1 KiB, from encoding to the answer",
        tolerance: EXACT,
        run: engine::batch,
    },
    HotPath {
        name: "append-single",
        operation: "append of one record of 1 KiB, alone in its group",
        tolerance: BY_CHANCE,
        run: engine::single,
    },
    HotPath {
        name: "append-group",
        operation: "append of one record of 1 KiB, 256 of them in a group",
        tolerance: GROUPED,
        run: engine::group,
    },
    HotPath {
        name: "append-topics",
        operation: "append of one record of 1 KiB, 256 of them in a group, each to a topic of its own",
        tolerance: GROUPED,
        run: engine::topics,
    },
    HotPath {
        name: "binding-put",
        operation: "put of 100 bytes under a key that has a value, 256 of them in a group",
        tolerance: GROUPED,
        run: bindings::put,
    },
    HotPath {
        name: "binding-get",
        operation: "get of 100 bytes from table files in the cache",
        tolerance: EXACT,
        run: bindings::get,
    },
    HotPath {
        name: "log-read",
        operation: "read of a stored batch of 256 records, as a node does for a tail",
        tolerance: EXACT,
        run: reading::log,
    },
    HotPath {
        name: "point-read",
        operation: "read of one record of 1 KiB at an offset chosen by chance, decoded",
        tolerance: BY_CHANCE,
        run: reading::point,
    },
    HotPath {
        name: "replay-decode",
        operation: "decoding of a batch of 256 records, as a client does",
        tolerance: EXACT,
        run: reading::decode,
    },
    HotPath {
        name: "frame-write",
        operation: "frame of an append with a body of 1 KiB, gathered for the transport",
        tolerance: GENERIC,
        run: wire::write,
    },
    HotPath {
        name: "frame-read",
        operation: "the same read by a node",
        tolerance: GENERIC,
        run: wire::read,
    },
    HotPath {
        name: "publish",
        operation: "publish of a batch of 16 records, all but the transport: framed, read, made durable, answered",
        tolerance: BY_CHANCE,
        run: wire::publish,
    },
    HotPath {
        name: "request",
        operation: "put of a binding, request and reply, encoded and decoded",
        tolerance: GENERIC,
        run: wire::request,
    },
    HotPath {
        name: "quorum-write",
        operation: "decisions of a write to three homes",
        tolerance: EXACT,
        run: ring::quorum_write,
    },
    HotPath {
        name: "quorum-read",
        operation: "decisions of a read from three homes",
        tolerance: EXACT,
        run: ring::quorum_read,
    },
    HotPath {
        name: "replica-turn",
        operation: "turn of a journal's three replicas, from proposal to commit",
        tolerance: GENERIC,
        run: ring::replica_turn,
    },
    HotPath {
        name: "merkle-walk",
        operation: "comparison of 16,384 bindings of which 16 differ",
        tolerance: GENERIC,
        run: ring::merkle_walk,
    },
    HotPath {
        name: "version-merge",
        operation: "merge of two copies of a binding, decoded and encoded",
        tolerance: EXACT,
        run: ring::version_merge,
    },
];
