//! Contenders taking turns. Neighbours on the machine come and go; what is compared is measured side by side, several
//! times, and the middle is taken.

use crate::{Result, say};

/// One contender's figures, a round each.
#[derive(Clone, Debug)]
pub struct Samples {
    /// As it is called in the report.
    pub name: String,
    /// One figure a round.
    pub values: Vec<f64>,
}

/// What can take a turn, and returns its figure.
pub struct Contender<'a> {
    name: String,
    turn: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender of that name.
    pub fn new(name: impl Into<String>, turn: impl FnMut() -> Result<f64> + 'a) -> Contender<'a> {
        Contender { name: name.into(), turn: Box::new(turn) }
    }
}

/// Lets each contender take a turn, `rounds` times.
///
/// # Errors
/// The first one that a turn returns, with the contender's name.
pub fn alternate(title: &str, rounds: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> =
        contenders.iter().map(|c| Samples { name: c.name.clone(), values: Vec::with_capacity(rounds) }).collect();
    for _ in 0..rounds {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            let value = (contender.turn)().map_err(|error| format!("{}: {error}", contender.name))?;
            samples.values.push(value);
        }
    }
    let figures: Vec<String> = samples.iter().map(|s| format!("{} {:.4}", s.name, s.median())).collect();
    say(&format!("  {title}: {}", figures.join(" · ")));
    Ok(samples)
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
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The middle of the rounds' ratios to `other`, round by round: what slows a whole round down cancels out.
    #[must_use]
    pub fn ratio_to(&self, other: &Samples) -> f64 {
        median(self.values.iter().zip(&other.values).map(|(a, b)| a / b).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contenders_take_turns() {
        let order = RefCell::new(String::new());
        let contender = |name: &'static str, value: f64| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(value)
            })
        };
        let samples = alternate("t", 3, vec![contender("a", 4.0), contender("b", 2.0)]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert!((samples[0].ratio_to(&samples[1]) - 2.0).abs() < 1e-9);
        let failing = Contender::new("c", || Err("no disk".into()));
        assert_eq!(alternate("t", 1, vec![failing]).unwrap_err().to_string(), "c: no disk");
    }

    #[test]
    fn medians_are_the_middle() {
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 3.0, 9.0]) - 3.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
