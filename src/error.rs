//! Why `build()` failed: [`BuildError`].

use std::fmt;

/// Settings that cannot work: all [problems](Self::problems) that were found, at least one.
///
/// As text, each problem is a line. `Debug` is the same text, as that is what a `main` prints that
/// returns the error.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let error = Limiter::builder()
///     .policy(Policy::token_bucket("read", Quota::per_minute(0)).global())
///     .check_only(Policy::fixed_window("jobs", Quota::per_hour(5).burst(9)))
///     .build()
///     .expect_err("neither can be");
/// let culprits: Vec<_> = error.problems().iter().map(|problem| problem.culprit()).collect();
/// assert_eq!(culprits, ["policy `read`", "policy `jobs`"]);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError {
    problems: Vec<BuildProblem>,
}

/// One setting that cannot work. As text, it names the setting and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildProblem {
    culprit: String,
    problem: String,
    setting: Setting,
}

/// The policy or the category of this name, as problems show it.
pub(crate) fn named(kind: &str, name: &str) -> String {
    match name {
        "" => format!("a {kind} without a name"),
        name => format!("{kind} `{name}`"),
    }
}

/// Which of a culprit's settings is wrong: the name of the builder's method, and which of its values
/// if it was called several times. The name is empty if it is none in particular.
pub(crate) type Setting = (&'static str, Option<usize>);

impl BuildError {
    /// A single problem.
    #[cfg(any(feature = "describe", feature = "redis", feature = "usage"))]
    pub(crate) fn new(culprit: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { problems: vec![BuildProblem::new(culprit, problem)] }
    }

    /// Fails if there is a problem.
    pub(crate) fn if_any(problems: Vec<BuildProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }

    /// All problems, in the order of the settings.
    #[must_use]
    pub fn problems(&self) -> &[BuildProblem] {
        &self.problems
    }
}

impl BuildProblem {
    pub(crate) fn new(culprit: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { culprit: culprit.into(), problem: problem.into(), setting: ("", None) }
    }

    /// Names the method that the problem is about.
    pub(crate) fn in_setting(mut self, method: &'static str) -> Self {
        self.setting.0 = method;
        self
    }

    /// Says which of the method's values the problem is about.
    pub(crate) fn at(mut self, index: usize) -> Self {
        self.setting.1 = Some(index);
        self
    }

    #[cfg(feature = "config")]
    pub(crate) fn setting(&self) -> Setting {
        self.setting
    }

    /// What is wrong: ``policy `read` ``, ``category `auth` ``, `an exemption`.
    #[must_use]
    pub fn culprit(&self) -> &str {
        &self.culprit
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

/// The text.
impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BuildProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.culprit, self.problem)
    }
}

impl std::error::Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    /// `main` prints `Debug`, of a boxed error too.
    #[test]
    fn main_prints_a_line_for_each_problem() {
        let problem = |name| BuildProblem::new(format!("policy `{name}`"), "write at least 1");
        let error = BuildError::if_any(vec![problem("read"), problem("write")]).unwrap_err();
        let text = "policy `read`: write at least 1\npolicy `write`: write at least 1";
        assert_eq!((error.to_string(), format!("{error:?}")), (text.to_owned(), text.to_owned()));
        let boxed: Box<dyn std::error::Error> = error.into();
        assert_eq!(format!("{boxed:?}"), text);
    }
}
