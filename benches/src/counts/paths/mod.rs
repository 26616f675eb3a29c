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

/// Of code that is ours alone, on one thread: it takes the same number every time, in every folder.
const EXACT: f64 = 0.01;
/// Of what goes through RocksDB and two threads.
const ENGINE: f64 = 0.03;

/// Every path.
pub const HOT_PATHS: &[HotPath] = &[
    HotPath {
        name: "append-batch",
        operation: "append of a batch of 256 records of 1 KiB, from encoding to the answer",
        native: true,
        tolerance: ENGINE,
        run: engine::batch,
    },
    HotPath {
        name: "append-single",
        operation: "append of one record of 1 KiB, alone in its group",
        native: true,
        tolerance: ENGINE,
        run: engine::single,
    },
    HotPath {
        name: "append-group",
        operation: "append of one record of 1 KiB, 256 of them in a group",
        native: true,
        tolerance: ENGINE,
        run: engine::group,
    },
    HotPath {
        name: "append-topics",
        operation: "append of one record of 1 KiB, 256 of them in a group, each to a topic of its own",
        native: true,
        tolerance: ENGINE,
        run: engine::topics,
    },
    HotPath {
        name: "binding-put",
        operation: "put of 100 bytes under a key that has a value, 256 of them in a group",
        native: true,
        tolerance: ENGINE,
        run: bindings::put,
    },
    HotPath {
        name: "binding-get",
        operation: "get of 100 bytes from table files in the cache",
        native: true,
        tolerance: ENGINE,
        run: bindings::get,
    },
    HotPath {
        name: "log-read",
        operation: "read of a stored batch of 256 records, as a node does for a tail",
        native: true,
        tolerance: ENGINE,
        run: reading::log,
    },
    HotPath {
        name: "point-read",
        operation: "read of one record of 1 KiB at an offset chosen by chance, decoded",
        native: true,
        tolerance: ENGINE,
        run: reading::point,
    },
    HotPath {
        name: "replay-decode",
        operation: "decoding of a batch of 256 records, as a client does",
        native: false,
        tolerance: EXACT,
        run: reading::decode,
    },
    HotPath {
        name: "frame-write",
        operation: "frame of an append with a body of 1 KiB, gathered for the transport",
        native: false,
        tolerance: EXACT,
        run: wire::write,
    },
    HotPath {
        name: "frame-read",
        operation: "the same read by a node",
        native: false,
        tolerance: EXACT,
        run: wire::read,
    },
    HotPath {
        name: "request",
        operation: "put of a binding, request and reply, encoded and decoded",
        native: false,
        tolerance: EXACT,
        run: wire::request,
    },
    HotPath {
        name: "quorum-write",
        operation: "decisions of a write to three homes",
        native: false,
        tolerance: EXACT,
        run: ring::quorum_write,
    },
    HotPath {
        name: "quorum-read",
        operation: "decisions of a read from three homes",
        native: false,
        tolerance: EXACT,
        run: ring::quorum_read,
    },
    HotPath {
        name: "replica-turn",
        operation: "turn of a journal's three replicas, from proposal to commit",
        native: false,
        tolerance: EXACT,
        run: ring::replica_turn,
    },
    HotPath {
        name: "merkle-walk",
        operation: "comparison of 16,384 bindings of which 16 differ",
        native: false,
        tolerance: EXACT,
        run: ring::merkle_walk,
    },
    HotPath {
        name: "version-merge",
        operation: "merge of two copies of a binding, decoded and encoded",
        native: false,
        tolerance: EXACT,
        run: ring::version_merge,
    },
];
