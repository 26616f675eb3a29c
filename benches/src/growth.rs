//! The same work at several sizes of what it is done on, and what an operation costs more at the largest.

use crate::outcome::{Comparison, Entry, Findings};
use crate::rounds::Samples;
use crate::{Result, say};

/// Samples of a kind of work that were taken beside those of the smallest size.
#[derive(Clone, Debug)]
pub struct Beside {
    /// Of the smallest size.
    pub smallest: Samples,
    /// Of this size.
    pub samples: Samples,
}

/// What a kind of work costs at several sizes.
#[derive(Clone, Debug)]
pub struct Growth {
    /// What is done.
    pub title: String,
    /// Unit of the figures.
    pub unit: String,
    /// Whether more is better, as of a rate.
    pub more_is_better: bool,
    /// Each larger size, in ascending order.
    pub larger: Vec<Beside>,
}

impl Growth {
    /// Work of which nothing was measured yet.
    #[must_use]
    pub fn new(title: &str, unit: &str, more_is_better: bool) -> Growth {
        Growth {
            title: title.to_owned(),
            unit: unit.to_owned(),
            more_is_better,
            larger: Vec::new(),
        }
    }

    /// Adds samples: those of the smallest size first, then of larger ones that took turns with it.
    pub fn add(&mut self, samples: Vec<Samples>) {
        let mut samples = samples.into_iter();
        let Some(smallest) = samples.next() else {
            return;
        };
        self.larger.extend(samples.map(|samples| Beside {
            smallest: smallest.clone(),
            samples,
        }));
    }

    /// How many times as much an operation costs at the largest size as at the smallest. `None` before there are two.
    #[must_use]
    pub fn times(&self) -> Option<f64> {
        let Beside { smallest, samples } = self.larger.last()?;
        Some(if self.more_is_better {
            smallest.ratio_to(samples)
        } else {
            samples.ratio_to(smallest)
        })
    }

    /// A line each size. The smallest is shown as it was beside the largest; every ratio is to the smallest at its side.
    fn comparison(&self) -> Option<Comparison> {
        let smallest = &self.larger.last()?.smallest;
        let mut entries = vec![entry(smallest, smallest)];
        entries.extend(
            self.larger
                .iter()
                .map(|beside| entry(&beside.samples, &beside.smallest)),
        );
        Some(Comparison {
            title: self.title.clone(),
            unit: self.unit.clone(),
            more_is_better: self.more_is_better,
            baseline: smallest.name.clone(),
            entries,
        })
    }
}

fn entry(samples: &Samples, smallest: &Samples) -> Entry {
    Entry {
        name: samples.name.clone(),
        median: samples.median(),
        low: samples.low(),
        high: samples.high(),
        ratio: samples.ratio_to(smallest),
    }
}

/// Adds every kind of work, and the bar of this id: it is held against the one that grows most.
///
/// # Errors
/// Something was measured at one size only.
pub fn conclude(findings: &mut Findings, bar: &str, growths: &[Growth]) -> Result<()> {
    let mut worst = 0.0_f64;
    let mut each = Vec::new();
    for growth in growths {
        let missing = || format!("{} was measured at one size only", growth.title);
        let times = growth.times().ok_or_else(missing)?;
        worst = worst.max(times);
        each.push(format!("{} {times:.2} ×", growth.title));
        findings
            .comparisons
            .push(growth.comparison().ok_or_else(missing)?);
    }
    let measured = each.join(", ");
    say(&format!("  {bar}: {measured}"));
    findings.bar(bar, worst, measured);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(name: &str, values: [f64; 3]) -> Samples {
        Samples {
            name: name.into(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn growth_is_of_cost_and_is_taken_side_by_side() {
        let mut rate = Growth::new("append", "records/s", true);
        assert_eq!(rate.times(), None);
        rate.add(vec![samples("1", [100.0; 3]), samples("10", [100.0; 3])]);
        // The machine was half as fast by then.
        rate.add(vec![samples("1", [50.0; 3]), samples("40", [40.0; 3])]);
        assert!((rate.times().unwrap() - 1.25).abs() < 1e-9);

        let mut time = Growth::new("restart", "s", false);
        time.add(vec![
            samples("1", [2.0; 3]),
            samples("10", [2.0; 3]),
            samples("40", [2.2; 3]),
        ]);
        let mut findings = Findings::default();
        conclude(&mut findings, "growth-size", &[rate, time]).unwrap();
        assert!((findings.bars[0].value - 1.25).abs() < 1e-9);
        assert_eq!(findings.bars[0].measured, "append 1.25 ×, restart 1.10 ×");
        let append = &findings.comparisons[0].entries;
        let names: Vec<&str> = append.iter().map(|entry| &*entry.name).collect();
        assert_eq!(names, ["1", "10", "40"]);
        let ratios: Vec<f64> = append.iter().map(|entry| entry.ratio).collect();
        assert_eq!(ratios, [1.0, 1.0, 0.8]);
        let single = Growth::new("memory", "MiB", false);
        assert!(conclude(&mut findings, "growth-size", &[single]).is_err());
    }
}
