//! A caller whose overrides are not known yet: [`AwaitedCaller`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::StatusCode;

use super::Answer;

/// The caller of a request or a check, until its overrides are known. The future ends when they are.
pub(in crate::limiter) struct AwaitedCaller {
    /// The caller's fingerprint; none for a request without a caller; the status for a caller that
    /// cannot be read.
    pub(in crate::limiter) caller: Result<Option<u128>, StatusCode>,
    /// Whether a block of the caller does not matter, as for a usage page.
    pub(in crate::limiter) ignores_block: bool,
    /// What the source says of the caller, if there is one.
    pub(in crate::limiter) answer: Option<Answer>,
    known: Pin<Box<dyn Future<Output = Option<Answer>> + Send>>,
}

impl AwaitedCaller {
    pub(in crate::limiter) fn new(
        caller: Result<Option<u128>, StatusCode>,
        known: impl Future<Output = Option<Answer>> + Send + 'static,
    ) -> Self {
        Self { caller, ignores_block: false, answer: None, known: Box::pin(known) }
    }
}

impl Future for AwaitedCaller {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.known.as_mut().poll(context).map(|answer| self.answer = answer)
    }
}

impl fmt::Debug for AwaitedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwaitedCaller").finish_non_exhaustive()
    }
}
