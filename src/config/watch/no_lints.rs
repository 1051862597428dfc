//! Without the feature `describe`, there are no lints: [`Lints`].

use std::{future, path::Path};

use crate::limiter::Limiter;

/// Finds and logs the lints of the limits that were applied: here none.
#[derive(Default)]
pub(super) struct Lints {}

impl Lints {
    pub(super) fn set_due(&mut self) {}

    pub(super) fn run(&mut self, _: &Limiter, _: &Path) -> future::Ready<()> {
        future::ready(())
    }
}
