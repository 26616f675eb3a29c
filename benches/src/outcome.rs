//! Results as they are kept between runs, a file a section, so that one section can be measured anew by itself.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::machine::Machine;
use crate::rounds::Samples;

/// What a section found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// What a reader must know beside the figures.
    pub notes: Vec<String>,
    /// Figures that have a bar.
    pub bars: Vec<BarFinding>,
    /// All figures.
    pub comparisons: Vec<Comparison>,
}

/// A figure that has a bar.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BarFinding {
    /// Names the [`crate::bars::Bar`].
    pub id: String,
    /// In the bar's unit.
    pub value: f64,
    /// What it was made from.
    pub measured: String,
}

/// Figures of one unit beside each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was done.
    pub title: String,
    /// Unit of the figures.
    pub unit: String,
    /// Whether more is better.
    pub more_is_better: bool,
    /// What the ratios are ratios to.
    pub baseline: String,
    /// A line each.
    pub entries: Vec<Entry>,
}

/// One line of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Who.
    pub name: String,
    /// The middle round.
    pub median: f64,
    /// The lowest round.
    pub low: f64,
    /// The highest round.
    pub high: f64,
    /// To the baseline, the middle of the rounds' ratios.
    pub ratio: f64,
}

/// A section's findings with when and where they were found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// When.
    pub date: String,
    /// On what machine.
    pub machine: Machine,
    /// What.
    pub findings: Findings,
}

impl Comparison {
    /// Puts samples beside each other; the ratios are to those of `baseline`.
    ///
    /// # Errors
    /// There are no samples of that name.
    pub fn new(
        title: &str,
        unit: &str,
        more_is_better: bool,
        baseline: &str,
        samples: &[Samples],
    ) -> Result<Comparison> {
        let base = find(samples, baseline)?;
        let entry = |s: &Samples| Entry {
            name: s.name.clone(),
            median: s.median(),
            low: s.low(),
            high: s.high(),
            ratio: s.ratio_to(base),
        };
        Ok(Comparison {
            title: title.to_owned(),
            unit: unit.to_owned(),
            more_is_better,
            baseline: baseline.to_owned(),
            entries: samples.iter().map(entry).collect(),
        })
    }
}

impl Findings {
    /// Adds a bar's figure: the ratio of one contender to another.
    ///
    /// # Errors
    /// There are no samples of that name.
    pub fn bar_ratio(
        &mut self,
        id: &str,
        samples: &[Samples],
        ours: &str,
        theirs: &str,
        unit: &str,
    ) -> Result<()> {
        let (ours, theirs) = (find(samples, ours)?, find(samples, theirs)?);
        let text = |samples: &Samples| crate::markdown::figure(samples.median());
        let measured = format!("{} against {} {unit}", text(ours), text(theirs));
        self.bars.push(BarFinding {
            id: id.to_owned(),
            value: ours.ratio_to(theirs),
            measured,
        });
        Ok(())
    }

    /// Adds a bar's figure in the bar's unit.
    pub fn bar(&mut self, id: &str, value: f64, measured: String) {
        self.bars.push(BarFinding {
            id: id.to_owned(),
            value,
            measured,
        });
    }
}

fn find<'s>(samples: &'s [Samples], name: &str) -> Result<&'s Samples> {
    samples
        .iter()
        .find(|samples| samples.name == name)
        .ok_or_else(|| format!("nothing was measured of {name}").into())
}

/// Keeps a section's findings in `dir`.
///
/// # Errors
/// The file system's.
pub fn keep(dir: &Path, section: &str, kept: &Kept) -> Result<()> {
    fs::create_dir_all(dir)?;
    Ok(fs::write(
        dir.join(format!("{section}.json")),
        serde_json::to_string_pretty(kept)? + "\n",
    )?)
}

/// What was kept of a section last, if anything was.
///
/// # Errors
/// There is a file, but it cannot be read: it is of another version of the report.
pub fn kept(dir: &Path, section: &str) -> Result<Option<Kept>> {
    let path = dir.join(format!("{section}.json"));
    if !path.exists() {
        return Ok(None);
    }
    let kept = serde_json::from_str(&fs::read_to_string(&path)?);
    Ok(Some(kept.map_err(|error| {
        format!("{}: {error}; measure the section again", path.display())
    })?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_come_back_and_ratios_are_taken_round_by_round() {
        let samples = [
            Samples {
                name: "a".into(),
                values: vec![10.0, 40.0, 90.0],
            },
            Samples {
                name: "b".into(),
                values: vec![5.0, 10.0, 45.0],
            },
        ];
        let mut findings = Findings::default();
        findings
            .bar_ratio("x", &samples, "a", "b", "records/s")
            .unwrap();
        findings
            .comparisons
            .push(Comparison::new("t", "records/s", true, "b", &samples).unwrap());
        assert!((findings.bars[0].value - 2.0).abs() < 1e-9);
        assert_eq!(findings.bars[0].measured, "40.0 against 10.0 records/s");
        assert!(Comparison::new("t", "records/s", true, "c", &samples).is_err());

        let place = crate::place::Place::new().unwrap();
        let machine = Machine::this(&place).unwrap();
        let found = Kept {
            date: "d".into(),
            machine,
            findings,
        };
        assert_eq!(kept(place.path(), "s").unwrap(), None);
        keep(place.path(), "s", &found).unwrap();
        assert_eq!(kept(place.path(), "s").unwrap(), Some(found));
    }
}
