//! The future of an answer, without an allocation where the answer is there at once:
//! [`StoreFuture`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::answer::{Answer, StoreError};
#[cfg(feature = "metrics")]
use crate::metrics::OperationMetrics;

/// What a [`Store`](super::Store) answers: at once, or later.
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture(Inner);

enum Inner {
    /// `None` once it was polled.
    Ready(Option<Result<Answer, StoreError>>),
    Later(Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send>>),
}

impl StoreFuture {
    /// An answer that is known already. It needs no allocation.
    pub fn ready(answer: Result<Answer, StoreError>) -> Self {
        Self(Inner::Ready(Some(answer)))
    }

    /// An answer that comes later.
    pub fn later(
        answer: impl Future<Output = Result<Answer, StoreError>> + Send + 'static,
    ) -> Self {
        Self(Inner::Later(Box::pin(answer)))
    }

    /// The same answer. It is timed if it comes later, and counted if it is an error.
    #[cfg(feature = "metrics")]
    pub(crate) fn measured(self, metrics: &OperationMetrics) -> Self {
        match self.0 {
            Inner::Ready(Some(Err(_))) => metrics.count_error(),
            Inner::Ready(_) => {}
            Inner::Later(answer) => return Self::later(metrics.time(answer)),
        }
        self
    }
}

impl Future for StoreFuture {
    type Output = Result<Answer, StoreError>;

    /// # Panics
    /// When it is polled after it was ready.
    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Ready(answer) => Poll::Ready(answer.take().expect("polled after it was ready")),
            Inner::Later(answer) => answer.as_mut().poll(context),
        }
    }
}

impl fmt::Debug for StoreFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Inner::Ready(_) => "StoreFuture::ready(..)",
            Inner::Later(_) => "StoreFuture::later(..)",
        })
    }
}
