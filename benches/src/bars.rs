//! What must be reached.

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
    /// MiB, at most.
    Mebibytes(f64),
}

impl Limit {
    /// Whether `value` keeps to it.
    #[must_use]
    pub fn is_met_by(self, value: f64) -> bool {
        match self {
            Limit::Ratio(least) => value >= least,
            Limit::RatioAtMost(most) | Limit::Seconds(most) | Limit::Mebibytes(most) => {
                value <= most
            }
        }
    }

    /// As it stands in a table.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Limit::Ratio(least) => format!("≥ {least:.2} ×"),
            Limit::RatioAtMost(most) => format!("≤ {most:.2} ×"),
            Limit::Seconds(most) => format!("≤ {most:.0} s"),
            Limit::Mebibytes(most) => format!("≤ {most:.0} MiB"),
        }
    }

    /// A measured value in the bar's unit.
    #[must_use]
    pub fn value_text(self, value: f64) -> String {
        match self {
            Limit::Ratio(_) | Limit::RatioAtMost(_) => format!("{value:.2} ×"),
            Limit::Seconds(_) => format!("{value:.2} s"),
            Limit::Mebibytes(_) => format!("{value:.0} MiB"),
        }
    }
}

/// Every bar, in the order of the report.
pub const BARS: [Bar; 13] = [
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
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_kept_from_their_side() {
        assert!(Limit::Ratio(1.0).is_met_by(1.0) && !Limit::Ratio(1.0).is_met_by(0.99));
        assert!(Limit::Seconds(2.0).is_met_by(2.0) && !Limit::Seconds(2.0).is_met_by(2.01));
        assert_eq!(Limit::RatioAtMost(2.3).text(), "≤ 2.30 ×");
    }
}
