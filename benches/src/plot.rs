//! A section's comparisons as one picture: lying bars, a panel a comparison, each with its own axis.

use std::fmt::Write;

use crate::markdown::figure;
use crate::outcome::{Comparison, Entry};

const WIDTH: f64 = 820.0;
const LABELS: f64 = 250.0;
/// Room to the right of the longest bar, for its figure.
const FIGURES: f64 = 150.0;
const LINE: f64 = 24.0;
const BAR: f64 = 15.0;
const HEAD: f64 = 34.0;
const AXIS: f64 = 54.0;
const TICKS_MAX: f64 = 6.0;

const OURS: &str = "#1f6feb";
const OTHERS: &str = "#9aa4b2";
const INK: &str = "#1c2128";
const FAINT: &str = "#d5dae1";

/// The picture as an SVG document on white.
#[must_use]
pub fn picture(title: &str, comparisons: &[Comparison]) -> String {
    let height = 44.0
        + comparisons
            .iter()
            .map(|c| HEAD + LINE * c.entries.len() as f64 + AXIS)
            .sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{INK}\" role=\"img\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        title = escaped(title),
    );
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"28\" font-size=\"16\" font-weight=\"600\">{}</text>",
        escaped(title)
    );
    let mut top = 44.0;
    for comparison in comparisons {
        push_panel(&mut svg, comparison, top);
        top += HEAD + LINE * comparison.entries.len() as f64 + AXIS;
    }
    svg.push_str("</svg>\n");
    svg
}

fn push_panel(svg: &mut String, comparison: &Comparison, top: f64) {
    let most = comparison
        .entries
        .iter()
        .map(|entry| entry.high)
        .fold(0.0, f64::max);
    let most = if most > 0.0 && most.is_finite() {
        most
    } else {
        1.0
    };
    let at = |value: f64| LABELS + value / most * (WIDTH - LABELS - FIGURES);
    let bottom = top + HEAD + LINE * comparison.entries.len() as f64;
    let title = escaped(&comparison.title);
    let _ = writeln!(
        svg,
        "<text x=\"16\" y=\"{}\" font-size=\"13\" font-weight=\"600\">{title}</text>",
        top + 20.0
    );
    for tick in ticks(most) {
        let (x, from) = (at(tick), top + HEAD - 4.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{from}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"{FAINT}\"/>"
        );
        let label = short(tick);
        let _ = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 16.0
        );
    }
    let better = if comparison.more_is_better {
        "more is better"
    } else {
        "less is better"
    };
    let middle = f64::midpoint(LABELS, WIDTH - FIGURES);
    let axis = escaped(&format!("{} ({better})", comparison.unit));
    let _ = writeln!(
        svg,
        "<text x=\"{middle:.1}\" y=\"{}\" text-anchor=\"middle\">{axis}</text>",
        bottom + 33.0
    );
    for (number, entry) in comparison.entries.iter().enumerate() {
        push_bar(svg, entry, top + HEAD + LINE * number as f64, &at);
    }
}

fn push_bar(svg: &mut String, entry: &Entry, top: f64, at: &dyn Fn(f64) -> f64) {
    let colour = if entry.name.starts_with("Meshlog") || entry.name.starts_with("meshctl") {
        OURS
    } else {
        OTHERS
    };
    let (name, base, end) = (escaped(&entry.name), top + BAR - 3.0, at(entry.median));
    let (low, high, middle) = (at(entry.low), at(entry.high), top + BAR / 2.0);
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>",
        LABELS - 10.0
    );
    let width = (end - LABELS).max(1.0);
    let _ = writeln!(
        svg,
        "<rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>"
    );
    let _ = writeln!(
        svg,
        "<path d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {a:.1}v6M{high:.1} {a:.1}v6\" stroke=\"{INK}\" fill=\"none\"/>",
        a = middle - 3.0,
    );
    let (beyond, text) = (
        high.max(end) + 8.0,
        format!("{} ({:.2} ×)", figure(entry.median), entry.ratio),
    );
    let _ = writeln!(svg, "<text x=\"{beyond:.1}\" y=\"{base:.1}\">{text}</text>");
}

/// Round numbers from 0 to `most`.
fn ticks(most: f64) -> Vec<f64> {
    let rough = most / TICKS_MAX;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|part| part * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    (0..)
        .map(|number| f64::from(number) * step)
        .take_while(|tick| *tick <= most)
        .collect()
}

/// A round number in few characters.
fn short(value: f64) -> String {
    let trimmed = |value: f64| {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(
            ticks(460_000.0),
            [0.0, 100_000.0, 200_000.0, 300_000.0, 400_000.0]
        );
        assert_eq!(ticks(1.0).len(), 6);
        assert_eq!(
            [1_500_000.0, 20_000.0, 0.25, 0.0].map(short),
            ["1.5M", "20k", "0.25", "0"]
        );
    }

    #[test]
    fn a_picture_shows_every_entry_with_its_unit() {
        let entry = |name: &str, median| Entry {
            name: name.into(),
            median,
            low: median,
            high: median * 1.1,
            ratio: 1.0,
        };
        let comparison = Comparison {
            title: "a < b".into(),
            unit: "records/s".into(),
            more_is_better: true,
            baseline: "x".into(),
            entries: vec![entry("Meshlog", 400_000.0), entry("redb", 0.0)],
        };
        let svg = picture("t", &[comparison.clone(), comparison]);
        assert_eq!(svg.matches("<rect x=").count(), 4);
        assert!(
            svg.contains("a &lt; b")
                && svg.contains("records/s (more is better)")
                && !svg.contains("NaN")
        );
    }
}
