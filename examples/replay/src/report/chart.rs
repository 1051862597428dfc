//! A chart of passed and refused requests over time, as SVG.

use std::fmt::Write;

use super::{MinutePart, number};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 240.0;
const RIGHT: f64 = WIDTH - 8.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// The width of a character of a label on a phone, where labels are largest.
const CHARACTER: f64 = 15.0;
/// The most bars.
const BARS: u64 = 160;

/// The minutes as bars, each for one minute or for several.
pub(super) struct Chart {
    pub(super) minutes_a_bar: u64,
    first: u64,
    /// Passed and refused.
    bars: Vec<(u64, u64)>,
}

impl Chart {
    /// `None` without a request.
    pub(super) fn new(minutes: &[MinutePart]) -> Option<Self> {
        let first = minutes.first()?.since_1970;
        let span = minutes.last()?.since_1970 - first + 1;
        let minutes_a_bar = span.div_ceil(BARS);
        let count = usize::try_from(span.div_ceil(minutes_a_bar)).ok()?;
        let mut bars = vec![(0, 0); count];
        for minute in minutes {
            let place = usize::try_from((minute.since_1970 - first) / minutes_a_bar).ok()?;
            let (passed, refused) = &mut bars[place];
            *passed += minute.passed;
            *refused += minute.refused;
        }
        Some(Self { minutes_a_bar, first, bars })
    }

    /// The requests of the highest bar.
    pub(super) fn highest(&self) -> u64 {
        self.bars.iter().map(|(passed, refused)| passed + refused).max().unwrap_or(0)
    }

    /// The chart, whose height is for `highest` requests.
    pub(super) fn svg(&self, highest: u64) -> String {
        let plot = HEIGHT - TOP - BOTTOM;
        let scale = plot / highest.max(1) as f64;
        let labels = [(1.0, TOP), (0.5, TOP + plot / 2.0)]
            .map(|(part, y)| (number((highest as f64 * part).round() as u64), y));
        // The labels of the axis are left of the bars.
        let characters = labels.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
        let left = CHARACTER * (characters + 1) as f64;
        let step = (RIGHT - left) / self.bars.len() as f64;
        let gap = (step * 0.15).min(2.0);
        let (passed, refused) =
            self.bars.iter().fold((0, 0), |all, bar| (all.0 + bar.0, all.1 + bar.1));
        let (passed, refused) = (number(passed), number(refused));
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{passed} requests passed and \
             {refused} refused, over time\">\n",
        );
        for (label, y) in labels {
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{left} {y:.1}H{RIGHT}\"/><text class=\"axis\" x=\"{}\" y=\"{y:.1}\">{label}</text>",
                left - CHARACTER / 2.0
            );
        }
        let base = HEIGHT - BOTTOM;
        for (index, &(passed, refused)) in self.bars.iter().enumerate() {
            if passed + refused == 0 {
                continue;
            }
            let x = left + step * index as f64;
            let (width, height) = (step - gap, passed as f64 * scale);
            let title = format!(
                "{}: {} passed, {} refused",
                super::time((self.first + index as u64 * self.minutes_a_bar) * super::MINUTE),
                number(passed),
                number(refused)
            );
            let _ = write!(svg, "<g><title>{title}</title>");
            let _ = write!(
                svg,
                "<rect class=\"passed\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
                base - height
            );
            if refused > 0 {
                // Few refusals among many requests must not vanish.
                let more = (refused as f64 * scale).max(2.0);
                let _ = write!(
                    svg,
                    "<rect class=\"refused\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{more:.1}\"/>",
                    (base - height - more).max(0.0)
                );
            }
            svg.push_str("</g>\n");
        }
        let span = self.bars.len() as u64 * self.minutes_a_bar;
        for (minute, anchor) in [(0, "start"), (span / 2, "middle"), (span, "end")] {
            let x = left + step * minute as f64 / self.minutes_a_bar as f64;
            let minute = self.first + minute;
            let time = super::time(minute * super::MINUTE);
            let (date, clock) = time.split_once('T').unwrap_or((&time, ""));
            let clock = clock.get(..5).unwrap_or(clock);
            let y = HEIGHT - 10.0;
            let _ = writeln!(
                svg,
                "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{date} {clock}</text>"
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of an attribute, in order.
    fn values(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        let elements = svg.split(element).skip(1);
        let value = |rest: &str| {
            rest.split_once(&format!(" {attribute}=\""))?.1.split('"').next()?.parse().ok()
        };
        elements.map(|rest| value(rest).unwrap()).collect()
    }

    #[test]
    fn no_bar_covers_a_label_of_the_axis_and_none_leaves_the_chart() {
        for (passed, label) in [(7, "7"), (9_839, "9,839"), (12_345_678, "12,345,678")] {
            for minutes in [1, 159, 160, 10_000] {
                let minutes = (0..minutes)
                    .map(|since_1970| MinutePart {
                        minute: String::new(),
                        passed,
                        refused: 0,
                        since_1970,
                    })
                    .collect::<Vec<_>>();
                let chart = Chart::new(&minutes).unwrap();
                let svg = chart.svg(passed);
                assert!(svg.contains(&format!(">{label}</text>")), "{svg}");
                let bars = values(&svg, "<rect", "x");
                let labels = values(&svg, "<text class=\"axis\"", "x");
                assert_eq!(labels.len(), 2);
                for end in labels {
                    assert!(end < bars[0], "{end} {bars:?}");
                    assert!(end - CHARACTER * label.len() as f64 >= 0.0, "{end}");
                }
                let width = values(&svg, "<rect", "width");
                assert!(bars.last().unwrap() + width.last().unwrap() <= RIGHT + 0.1);
            }
        }
    }
}
