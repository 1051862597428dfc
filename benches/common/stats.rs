//! Medians with quartiles, and the tables they go into.

use std::fmt;

/// The median of some values, with the quartiles beside it.
#[derive(Clone, Copy)]
pub struct Quartiles {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Quartiles {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |part: usize| values[(values.len() - 1) * part / 4];
        Self { low: at(1), median: at(2), high: at(3) }
    }

    /// Of `ours / theirs`, round by round.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, median, high } = self;
        let decimals = f.precision().unwrap_or(2);
        write!(f, "{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// A table in Markdown, printed row by row.
pub struct Table;

impl Table {
    pub fn new(title: &str, columns: &[&str]) -> Self {
        println!("\n### {title}\n\n| {} |", columns.join(" | "));
        println!("|{}", "---|".repeat(columns.len()));
        Self
    }

    pub fn row(&self, cells: &[&dyn fmt::Display]) {
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        println!("| {} |", cells.join(" | "));
    }
}

/// The rows that the README shows: what, its peer, and ours.
pub struct InShort(Vec<[String; 3]>);

impl InShort {
    pub fn new() -> Self {
        Self(Vec::new())
    }

    pub fn add(&mut self, what: impl ToString, peer: impl ToString, ours: impl ToString) {
        self.0.push([what.to_string(), peer.to_string(), ours.to_string()]);
    }

    /// All of them, as a table. `benches/run` joins those of all benchmarks by the title.
    pub fn print(self) {
        if self.0.is_empty() {
            return;
        }
        let table = Table::new("In short", &["", "peer", "tower-quota"]);
        for [what, peer, ours] in self.0 {
            table.row(&[&what, &peer, &ours]);
        }
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
