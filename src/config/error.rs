//! Why limits cannot be used: [`ConfigError`].

use std::{fmt, fmt::Write as _};

use crate::shown_text::is_unfit;

/// The most problems that an error lists.
pub(super) const MAX_LISTED: usize = 100;

/// How many characters of a name or a value a problem shows.
const MAX_SHOWN: usize = 200;

/// Limits that cannot be used: all problems that were found, at least one. After 100, the last one
/// says how many more there are.
///
/// As text, each problem is a line: ``limits.toml:12:9: policy `read`: …``. `Debug` is the same text, as
/// that is what a `main` prints that returns the error.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<ConfigProblem>,
}

/// One mistake in limits, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Empty if the limits are from no file.
    pub(super) file: String,
    pub(super) position: Option<Position>,
    pub(super) text: String,
}

/// A place in a text. The first line and the first column are 1; a column is a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl ConfigError {
    /// Of at least one problem, in any order.
    pub(super) fn of(mut problems: Vec<ConfigProblem>) -> Self {
        // Those without a place come first: they are about the whole.
        problems.sort_by_key(|problem| problem.position);
        let more = problems.len().saturating_sub(MAX_LISTED);
        if more > 0 {
            problems.truncate(MAX_LISTED);
            problems.push(ConfigProblem::of_all(&format!("and {more} more")));
        }
        for problem in &mut problems {
            problem.text = shown(&problem.text);
        }
        Self { problems }
    }

    /// Of the problems up to which a text was read, and there may be more.
    pub(super) fn of_first(problems: Vec<ConfigProblem>) -> Self {
        let mut error = Self::of(problems);
        error.problems.push(ConfigProblem::of_all("there may be more: the rest was not read"));
        error
    }

    /// Fails if there is a problem.
    pub(super) fn if_any(problems: Vec<ConfigProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self::of(problems)) }
    }

    /// All problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl ConfigProblem {
    fn of_all(text: &str) -> Self {
        Self { file: String::new(), position: None, text: text.to_owned() }
    }

    /// The line in the file, from 1; `None` if the limits were not read from TOML, or if it is about
    /// all of them.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.position.map(|position| position.line)
    }

    /// The column in its line, in characters, from 1.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.position.map(|position| position.column)
    }
}

/// The text in one line, with the beginnings of long names and values, which are in backticks.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (index, part) in text.split('`').enumerate() {
        let tick = if index > 0 { "`" } else { "" };
        shown.push_str(tick);
        let cut = part.char_indices().nth(MAX_SHOWN).map(|(end, _)| end);
        for c in part.get(..cut.unwrap_or(part.len())).unwrap_or_default().chars() {
            match is_unfit(c) {
                true => write!(shown, "{}", c.escape_default()).unwrap_or_default(),
                false => shown.push(c),
            }
        }
        shown.push_str(if cut.is_some() { "…" } else { "" });
    }
    shown
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

/// The text.
impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        let space = if self.file.is_empty() && self.position.is_none() { "" } else { " " };
        write!(f, "{space}{}", self.text)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_prints_a_line_for_each_problem() {
        let problem = |line| ConfigProblem {
            file: "limits.toml".to_owned(),
            position: Some(Position { line, column: 1 }),
            text: "policy `read`: write at least 1".to_owned(),
        };
        let error: Box<dyn std::error::Error> =
            ConfigError::of(vec![problem(1), problem(2)]).into();
        let text = "limits.toml:1:1: policy `read`: write at least 1\n\
                    limits.toml:2:1: policy `read`: write at least 1";
        assert_eq!(format!("{error:?}"), text);
    }
}
