//! A timer on the time of a clock: [`Timer`].

use std::{
    panic,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

#[cfg(feature = "testing")]
use super::manual::ManualSleep;

/// A future that is ready when its deadline has come. It is not polled after that, unless it is reset.
#[derive(Debug)]
pub(crate) enum Timer {
    /// The system's time or, while it is paused, tokio's.
    Tokio(Pin<Box<Sleep>>),
    #[cfg(feature = "testing")]
    Manual(ManualSleep),
}

impl Timer {
    /// `None` without a tokio runtime that has timers.
    pub(super) fn tokio(deadline: Instant) -> Option<Self> {
        // Tokio has no query for this: it panics if the runtime's timers are off.
        let timer = || panic::catch_unwind(|| tokio::time::sleep_until(deadline)).ok();
        let timer = Handle::try_current().ok().and_then(|_| timer())?;
        Some(Self::Tokio(Box::pin(timer)))
    }

    pub(crate) fn reset(&mut self, deadline: Instant) {
        match self {
            Self::Tokio(sleep) => sleep.as_mut().reset(deadline),
            #[cfg(feature = "testing")]
            Self::Manual(sleep) => sleep.reset(deadline),
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Tokio(sleep) => sleep.as_mut().poll(context),
            #[cfg(feature = "testing")]
            Self::Manual(sleep) => Pin::new(sleep).poll(context),
        }
    }
}
