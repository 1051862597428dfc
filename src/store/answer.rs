//! What a store answers: [`Answer`], or [`StoreError`].

use std::{borrow::Cow, fmt};

use super::usage::Usages;
use crate::clock::Now;

/// What a [`Store`](super::Store) answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// One for each charge or correction, in their order.
    pub usages: Usages,
    /// The time of the decision: by the store's own clock, or else the `now` of the call. Compare
    /// it only with times in other answers of the same store.
    pub at: Now,
}

/// Why a [`Store`](super::Store) has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(Cow<'static, str>);

impl StoreError {
    /// `problem` is for the operator of the service. It must not name a key.
    pub fn new(problem: impl Into<Cow<'static, str>>) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}
