//! Contenders taking turns. Neighbours on the machine come and go; what is compared is measured side by side, several
//! times, and the middle is taken.

use crate::markdown::figure;
use crate::quiet::{OTHERS_MAX, Watch, patience, wait_until_quiet};
use crate::{Result, say};

/// One contender's figures, a round each.
#[derive(Clone, Debug)]
pub struct Samples {
    /// As it is called in the report.
    pub name: String,
    /// One figure a round.
    pub values: Vec<f64>,
}

/// What can take a turn, and returns its figures.
pub struct Contender<'a> {
    name: String,
    turn: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender of that name, with one figure.
    pub fn new(
        name: impl Into<String>,
        mut turn: impl FnMut() -> Result<f64> + 'a,
    ) -> Contender<'a> {
        Contender::of_several(name, move || Ok(vec![turn()?]))
    }

    /// A contender of that name with several figures; later ones may be missing, in every turn.
    pub fn of_several(
        name: impl Into<String>,
        turn: impl FnMut() -> Result<Vec<f64>> + 'a,
    ) -> Contender<'a> {
        Contender {
            name: name.into(),
            turn: Box::new(turn),
        }
    }
}

/// Turns of one contender that are repeated because a neighbour disturbed them, in a row.
const REPEATS_MAX: u32 = 3;

/// Lets each contender take a turn, `rounds` times, in an order that changes: nobody always comes after whoever leaves
/// the disk busiest. Turns wait for a quiet machine, and are repeated, but not for ever, when it did not stay so.
///
/// # Errors
/// The first one that a turn returns, with the contender's name.
pub fn alternate(
    title: &str,
    rounds: usize,
    contenders: Vec<Contender<'_>>,
) -> Result<Vec<Samples>> {
    let mut all = alternate_several(title, rounds, &[""], contenders)?;
    Ok(all.remove(0))
}

/// The same with several figures of each turn: the samples of each of these, of everyone who has that many.
///
/// # Errors
/// As [`alternate`].
pub fn alternate_several(
    title: &str,
    rounds: usize,
    figures: &[&str],
    contenders: Vec<Contender<'_>>,
) -> Result<Vec<Vec<Samples>>> {
    let (all, disturbed) = take_turns(rounds, figures.len(), contenders, quiet_turn)?;
    let noise = if disturbed == 0 {
        String::new()
    } else {
        format!(" ({disturbed} turns were disturbed)")
    };
    for (name, samples) in figures.iter().zip(&all) {
        let medians: Vec<String> = samples
            .iter()
            .map(|s| format!("{} {}", s.name, figure(s.median())))
            .collect();
        let name = if name.is_empty() {
            String::new()
        } else {
            format!(", {name}")
        };
        say(&format!("  {title}{name}: {}{noise}", medians.join(" · ")));
    }
    Ok(all)
}

/// Everyone's samples of each figure, and how many turns were disturbed.
fn take_turns(
    rounds: usize,
    figures: usize,
    mut contenders: Vec<Contender<'_>>,
    take: impl Fn(&mut Contender<'_>) -> Result<(Vec<f64>, bool)>,
) -> Result<(Vec<Vec<Samples>>, u32)> {
    let none = contenders.iter().map(|c| Samples {
        name: c.name.clone(),
        values: Vec::with_capacity(rounds),
    });
    let mut all = vec![none.collect::<Vec<_>>(); figures];
    let mut disturbed = 0;
    for round in 0..rounds {
        for at in order(round, contenders.len()) {
            let contender = &mut contenders[at];
            let (values, is_disturbed) =
                take(contender).map_err(|error| format!("{}: {error}", contender.name))?;
            for (samples, value) in all.iter_mut().zip(values) {
                samples[at].values.push(value);
            }
            disturbed += u32::from(is_disturbed);
        }
    }
    for samples in &mut all {
        samples.retain(|of_one| !of_one.values.is_empty());
    }
    Ok((all, disturbed))
}

/// Who comes when: from another one each round, forwards and backwards.
fn order(round: usize, contenders: usize) -> Vec<usize> {
    let forwards = (0..contenders).map(|at| (at + round / 2) % contenders);
    if round.is_multiple_of(2) {
        forwards.collect()
    } else {
        forwards.rev().collect()
    }
}

/// One turn, and whether it was disturbed even at the last try.
fn quiet_turn(contender: &mut Contender<'_>) -> Result<(Vec<f64>, bool)> {
    let mut value = Vec::new();
    for _ in 0..=REPEATS_MAX {
        wait_until_quiet()?;
        let watch = Watch::start()?;
        value = (contender.turn)()?;
        if watch.others()? <= OTHERS_MAX {
            return Ok((value, false));
        }
        if patience()?.is_zero() {
            break;
        }
    }
    Ok((value, true))
}

impl Samples {
    /// The middle of the rounds.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(self.values.clone())
    }

    /// The lowest round.
    #[must_use]
    pub fn low(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The highest round.
    #[must_use]
    pub fn high(&self) -> f64 {
        self.values
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The middle of the rounds' ratios to `other`, round by round: what slows a whole round down cancels out.
    #[must_use]
    pub fn ratio_to(&self, other: &Samples) -> f64 {
        median(
            self.values
                .iter()
                .zip(&other.values)
                .map(|(a, b)| a / b)
                .collect(),
        )
    }
}

/// The middle value; between the middle two where their number is even. Zero where there is none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The value that this part of all is not above. Zero where there is none.
#[must_use]
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contenders_take_turns() {
        let turns = RefCell::new(Vec::new());
        let contender = |name: &'static str, value: f64| {
            let turns = &turns;
            Contender::new(name, move || {
                turns.borrow_mut().push(name);
                Ok(value)
            })
        };
        let turn = |contender: &mut Contender<'_>| Ok(((contender.turn)()?, true));
        let both = vec![contender("a", 4.0), contender("b", 2.0)];
        let (mut samples, disturbed) = take_turns(3, 1, both, turn).unwrap();
        let samples = samples.remove(0);
        assert_eq!(
            (&turns.borrow()[..], disturbed),
            (&["a", "b", "b", "a", "b", "a"][..], 6)
        );
        assert!((samples[0].ratio_to(&samples[1]) - 2.0).abs() < 1e-9);
        let failing = Contender::new("c", || Err("no disk".into()));
        assert_eq!(
            take_turns(1, 1, vec![failing], turn)
                .unwrap_err()
                .to_string(),
            "c: no disk"
        );
    }

    #[test]
    fn a_figure_is_of_those_who_have_it() {
        let turn = |contender: &mut Contender<'_>| Ok(((contender.turn)()?, false));
        let contenders = vec![
            Contender::new("one", || Ok(1.0)),
            Contender::of_several("two", || Ok(vec![2.0, 3.0])),
        ];
        let (samples, _) = take_turns(2, 2, contenders, turn).unwrap();
        let names = |of: &[Samples]| of.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&samples[0]), ["one", "two"]);
        assert_eq!(names(&samples[1]), ["two"]);
        assert_eq!(samples[1][0].values, [3.0, 3.0]);
    }

    #[test]
    fn the_order_changes_every_round() {
        assert_eq!(
            [0, 1, 2, 3].map(|round| order(round, 3)),
            [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]]
        );
    }

    #[test]
    fn medians_are_the_middle() {
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 3.0, 9.0]) - 3.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|part| quantile(&hundred, part));
        assert_eq!(quantiles.map(|value| value as u32), [1, 50, 99, 100]);
        assert!(quantile(&[], 0.99).abs() < 1e-9);
    }
}
