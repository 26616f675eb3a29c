//! What must be reached.

use crate::markdown::figure;

/// A figure and its bar.
pub struct Bar {
    /// By what a section names it.
    pub id: &'static str,
    /// What is measured.
    pub figure: &'static str,
    /// The bar.
    pub limit: Limit,
}

/// On which side of a number a figure must lie.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// A ratio of at least this.
    Ratio(f64),
    /// A ratio of at most this.
    RatioAtMost(f64),
    /// Seconds, at most.
    Seconds(f64),
    /// Milliseconds, at most.
    Milliseconds(f64),
    /// KiB, at most.
    Kibibytes(f64),
    /// MiB, at most.
    Mebibytes(f64),
    /// Parts of a hundred, at most.
    Percent(f64),
    /// A number of things, at most.
    Count(f64),
}

impl Limit {
    /// Whether `value` keeps to it.
    #[must_use]
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Limit::Ratio(least) => value >= least,
            Limit::RatioAtMost(most)
            | Limit::Seconds(most)
            | Limit::Milliseconds(most)
            | Limit::Kibibytes(most)
            | Limit::Mebibytes(most)
            | Limit::Percent(most)
            | Limit::Count(most) => value <= most,
        }
    }

    /// As it stands in a table.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Limit::Ratio(least) => format!("≥ {least:.2} ×"),
            Limit::RatioAtMost(most) => format!("≤ {most:.2} ×"),
            Limit::Seconds(most) => format!("≤ {most:.0} s"),
            Limit::Milliseconds(most) => format!("≤ {most:.0} ms"),
            Limit::Kibibytes(most) => format!("≤ {most:.0} KiB"),
            Limit::Mebibytes(most) => format!("≤ {most:.0} MiB"),
            Limit::Percent(most) => format!("≤ {most:.0} %"),
            Limit::Count(most) => format!("≤ {most:.0}"),
        }
    }

    /// A measured value in the bar's unit.
    #[must_use]
    pub fn value_text(self, value: f64) -> String {
        match self {
            Limit::Ratio(_) | Limit::RatioAtMost(_) => format!("{value:.2} ×"),
            Limit::Seconds(_) => format!("{value:.2} s"),
            Limit::Milliseconds(_) => format!("{} ms", figure(value)),
            Limit::Kibibytes(_) => format!("{} KiB", figure(value)),
            Limit::Mebibytes(_) => format!("{value:.0} MiB"),
            Limit::Percent(_) => format!("{} %", figure(value)),
            Limit::Count(_) => format!("{value:.0}"),
        }
    }
}

/// Every bar, in the order of the report.
pub const BARS: &[Bar] = &[
    Bar {
        id: "append-rocksdb",
        figure: "durable append, batches of 256 × 1 KiB, against bare RocksDB storing the same records as 256 keys in one \
                 synced WriteBatch",
        limit: Limit::Ratio(1.0),
    },
    Bar {
        id: "append-fjall",
        figure: "the same against fjall",
        limit: Limit::Ratio(1.0),
    },
    Bar {
        id: "append-redb",
        figure: "the same against redb",
        limit: Limit::Ratio(2.0),
    },
    Bar {
        id: "topics",
        figure: "1,000 topics against 1 topic, 256 in flight",
        limit: Limit::Ratio(0.8),
    },
    Bar {
        id: "replay",
        figure: "replay of 1 GiB in 1 KiB records, appended 256 a batch, against a bare RocksDB iterator",
        limit: Limit::Ratio(1.0),
    },
    Bar {
        id: "publish",
        figure: "`meshctl bench publish`, 1 KiB, 256 in flight, against bare RocksDB committing 256 records at a time",
        limit: Limit::Ratio(0.35),
    },
    Bar {
        id: "publish-batch",
        figure: "`meshctl bench publish --batch 256`, one batch in flight, against the same",
        limit: Limit::Ratio(0.55),
    },
    Bar {
        id: "publish-latency",
        figure: "`meshctl bench publish --inflight 1`, p50, against a bare RocksDB synced put",
        limit: Limit::RatioAtMost(2.0),
    },
    Bar {
        id: "wire-replay",
        figure: "`meshctl bench replay`, 1 KiB records, against quinn's own bulk transfer",
        limit: Limit::Ratio(0.6),
    },
    Bar {
        id: "space",
        figure: "bytes written to disk / payload bytes, 1 KiB records, 256 a batch",
        limit: Limit::RatioAtMost(2.3),
    },
    Bar {
        id: "crash-large",
        figure: "open after kill -9, 5 GiB store",
        limit: Limit::Seconds(2.0),
    },
    Bar {
        id: "crash-small",
        figure: "open after kill -9, 0.5 GiB store",
        limit: Limit::Seconds(2.0),
    },
    Bar {
        id: "memory",
        figure: "resident memory with 100,000 topics, idle",
        limit: Limit::Mebibytes(256.0),
    },
    Bar {
        id: "ring-publish",
        figure: "three nodes, `meshctl bench publish`, 1 KiB, 256 in flight, against one node",
        limit: Limit::Ratio(0.33),
    },
    Bar {
        id: "ring-nats",
        figure: "the same against NATS JetStream, three replicas, `sync_interval: always`",
        limit: Limit::Ratio(1.5),
    },
    Bar {
        id: "ring-nats-latency",
        figure: "three nodes, one in flight, p50, against NATS likewise",
        limit: Limit::RatioAtMost(1.0),
    },
    Bar {
        id: "ring-nats-topics",
        figure: "three nodes, 256 in flight over 200 topics, against NATS with 200 streams",
        limit: Limit::Ratio(8.0),
    },
    Bar {
        id: "failover",
        figure: "a leader is killed with SIGKILL under load, until its topic is acknowledged again, p50",
        limit: Limit::Milliseconds(1_000.0),
    },
    Bar {
        id: "failover-max",
        figure: "the same, the longest",
        limit: Limit::Milliseconds(2_000.0),
    },
    Bar {
        id: "failover-control",
        figure: "the same where the node also led the control plane, the longest",
        limit: Limit::Milliseconds(3_000.0),
    },
    Bar {
        id: "failover-lost",
        figure: "acknowledged records lost or changed by all of these",
        limit: Limit::Count(0.0),
    },
    Bar {
        id: "handover",
        figure: "SIGTERM of a leader under load, the longest time without acknowledgements",
        limit: Limit::Milliseconds(200.0),
    },
    Bar {
        id: "ring-tail",
        figure: "idle cluster, publish → delivered to a follower's tail, p99, against 3 × one fsync + 1 ms",
        limit: Limit::RatioAtMost(1.0),
    },
    Bar {
        id: "join-bytes",
        figure: "a fourth node joins 2 GiB on three: bytes moved against the fewest that balance",
        limit: Limit::RatioAtMost(1.05),
    },
    Bar {
        id: "join-latency",
        figure: "append p99 meanwhile against before",
        limit: Limit::RatioAtMost(3.0),
    },
    Bar {
        id: "ring-idle",
        figure: "idle cluster of 3 × 64 partitions, CPU of the busiest node, of one core",
        limit: Limit::Percent(2.0),
    },
    Bar {
        id: "lookup-routes",
        figure: "cluster map (`routes`) from any of 100 nodes, p99",
        limit: Limit::Milliseconds(5.0),
    },
    Bar {
        id: "lookup-get",
        figure: "binding read at R=1 from any of 100 nodes, p99",
        limit: Limit::Milliseconds(5.0),
    },
    Bar {
        id: "lookup-hops",
        figure: "nodes that a read is passed on to, at most",
        limit: Limit::Count(1.0),
    },
    Bar {
        id: "bindings-puts",
        figure: "three nodes, `put` at W=2, 100-byte values, 256 in flight, against etcd 3.4 with three members",
        limit: Limit::Ratio(3.0),
    },
    Bar {
        id: "bindings-gets",
        figure: "three nodes, `get` at R=2, likewise",
        limit: Limit::Ratio(2.0),
    },
    Bar {
        id: "repair-in-sync",
        figure: "anti-entropy of two replicas in sync, 1,000,000 bindings: bytes on the wire per partition and round",
        limit: Limit::Kibibytes(1.0),
    },
    Bar {
        id: "repair-differing",
        figure: "the same with 100 differences, bytes in all",
        limit: Limit::Kibibytes(100.0),
    },
    Bar {
        id: "repair-left",
        figure: "of these, differences that one round leaves",
        limit: Limit::Count(0.0),
    },
    Bar {
        id: "bindings-leaves",
        figure: "Merkle upkeep, part of put throughput",
        limit: Limit::Percent(10.0),
    },
    Bar {
        id: "hints-delivered",
        figure: "100,000 hints delivered to a returned node",
        limit: Limit::Seconds(10.0),
    },
    Bar {
        id: "hints-latency",
        figure: "put p99 meanwhile against before",
        limit: Limit::RatioAtMost(2.0),
    },
    Bar {
        id: "bindings-watch",
        figure: "idle cluster, change → its watcher sees it, p99, against one fsync + 1 ms",
        limit: Limit::RatioAtMost(1.0),
    },
    Bar {
        id: "growth-size",
        figure: "cost of an operation in the largest store against 1 GiB, the one that grows most",
        limit: Limit::RatioAtMost(1.2),
    },
    Bar {
        id: "growth-topics",
        figure: "the same with 1,000,000 topics against 10",
        limit: Limit::RatioAtMost(1.2),
    },
    Bar {
        id: "growth-nodes",
        figure: "the same with 100 nodes against 3",
        limit: Limit::RatioAtMost(1.2),
    },
    Bar {
        id: "versus-redis",
        figure: "one node, 1 KiB, 256 in flight, against Redis streams (`appendfsync always`), one connection",
        limit: Limit::Ratio(3.0),
    },
    Bar {
        id: "versus-redis-spread",
        figure: "the same against Redis with the load spread over 16 connections",
        limit: Limit::Ratio(3.0),
    },
    Bar {
        id: "versus-rocksdb",
        figure: "one node, 1 KiB, 256 in flight, against bare RocksDB committing 256 records at a time",
        limit: Limit::Ratio(0.5),
    },
    Bar {
        id: "versus-batch",
        figure: "one node, batches of 256, one in flight, against the same",
        limit: Limit::Ratio(0.65),
    },
    Bar {
        id: "versus-latency",
        figure: "one node, one record in flight, p50, against Redis",
        limit: Limit::RatioAtMost(1.0),
    },
    Bar {
        id: "versus-topics",
        figure: "one node, 10,000 topics, 256 in flight, against one topic",
        limit: Limit::Ratio(0.8),
    },
    Bar {
        id: "versus-replay",
        figure: "replay by one reader, against quinn's own bulk transfer",
        limit: Limit::Ratio(0.75),
    },
    Bar {
        id: "versus-delivered",
        figure: "one idle node, publish → delivered, p99, against one fsync + 0.5 ms",
        limit: Limit::RatioAtMost(1.0),
    },
    Bar {
        id: "versus-nats",
        figure: "three nodes, 256 in flight, against NATS JetStream with three replicas",
        limit: Limit::Ratio(2.0),
    },
    Bar {
        id: "versus-nats-topics",
        figure: "the same over 200 topics, against 200 streams",
        limit: Limit::Ratio(10.0),
    },
    Bar {
        id: "versus-nats-latency",
        figure: "three nodes, one record in flight, p50, against NATS likewise",
        limit: Limit::RatioAtMost(1.0),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_kept_from_their_side() {
        assert!(Limit::Ratio(1.0).is_met_by(1.0) && !Limit::Ratio(1.0).is_met_by(0.99));
        assert!(Limit::Seconds(2.0).is_met_by(2.0) && !Limit::Seconds(2.0).is_met_by(2.01));
        assert_eq!(Limit::RatioAtMost(2.3).text(), "≤ 2.30 ×");
        assert!(Limit::Count(0.0).is_met_by(0.0) && !Limit::Count(0.0).is_met_by(1.0));
        assert!(Limit::Kibibytes(1.0).is_met_by(1.0) && !Limit::Kibibytes(1.0).is_met_by(1.1));
        assert_eq!(Limit::Milliseconds(200.0).value_text(0.123), "0.123 ms");
    }
}
