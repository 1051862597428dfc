//! Why `build()` failed: [`BuildError`].

use std::fmt;

/// Settings that cannot work. The message names the wrong setting and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    culprit: String,
    problem: String,
}

impl BuildError {
    pub(crate) fn new(culprit: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { culprit: culprit.into(), problem: problem.into() }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.culprit, self.problem)
    }
}

impl std::error::Error for BuildError {}
