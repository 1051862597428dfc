//! One change of a caller's overrides, before it is made: [`OverrideChange`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use super::{ActiveOverrides, OverrideError, penalties::Penalties};
use crate::{
    key::Fingerprint,
    override_record::{MAX_TIME, Override, OverrideKind},
    store::OverrideUpdate,
};

/// A change of a caller's overrides; from [`CallerOverrides`](super::CallerOverrides). It is made when
/// it is awaited, or by [`at_once`](Self::at_once) in code that is not async.
///
/// The result is what it has replaced or ended: the overrides that held before it and do not any
/// more. It is empty if there was none.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::{Limiter, key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder().caller(key::bearer()).build()?;
/// let caller = limiter.overrides().caller("sk_live_1")?;
/// caller.block(Duration::from_secs(3_600)).reason("scraping").author("ana").await?;
///
/// let ended = caller.unblock().await?;
/// assert_eq!(ended[0].reason.as_deref(), Some("scraping"));
/// assert!(caller.unblock().await?.is_empty(), "it is not blocked any more");
/// # Ok(())
/// # }
/// ```
#[must_use = "a change is not made unless it is awaited, or made `at_once`"]
pub struct OverrideChange {
    overrides: Arc<ActiveOverrides>,
    caller: Fingerprint,
    what: Result<What, OverrideError>,
    reason: Option<String>,
    author: Option<String>,
    /// The penalties that are lifted first.
    penalties: Option<Penalties>,
    /// Begins at the first poll.
    changing: Option<Changing>,
}

type Changing = Pin<Box<dyn Future<Output = Result<Vec<Override>, OverrideError>> + Send>>;

/// What is changed.
#[derive(Clone, Debug)]
pub(super) enum What {
    Set { kind: OverrideKind, time: Duration },
    End { policy: Option<String> },
    EndAll,
}

impl OverrideChange {
    pub(super) fn new(
        overrides: &Arc<ActiveOverrides>,
        caller: Fingerprint,
        what: Result<What, OverrideError>,
    ) -> Self {
        let overrides = Arc::clone(overrides);
        let (reason, author, penalties, changing) = (None, None, None, None);
        Self { overrides, caller, what, reason, author, penalties, changing }
    }

    /// Lifts these penalties as well.
    pub(super) fn lift(mut self, penalties: Option<Penalties>) -> Self {
        self.penalties = penalties;
        self
    }

    /// Says why, in at most 200 characters. Default: nothing. Operators see it beside the override.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Says who makes the change, in at most 100 characters. Default: nothing.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// Makes the change in code that is not async.
    ///
    /// # Errors
    /// Those of the change itself, and [`OverrideError::WouldWait`] if the store shares overrides, as
    /// Redis does. Then nothing is changed.
    pub fn at_once(mut self) -> Result<Vec<Override>, OverrideError> {
        let update = self.update()?;
        let changed = self.overrides.change_at_once(update)?;
        // A store that does not answer at once makes it later.
        drop(self.penalties.take().and_then(|penalties| penalties.lift()));
        Ok(changed)
    }

    /// The change, by the time of this moment.
    fn update(&mut self) -> Result<OverrideUpdate, OverrideError> {
        let caller = self.caller;
        let since = self.overrides.clock.now().unix();
        let (kind, until) = match self.what.clone()? {
            What::Set { time, .. } if time < Duration::from_micros(1) || time > MAX_TIME => {
                return Err(OverrideError::InvalidTime);
            }
            What::Set { kind, time } => (kind, since.saturating_add(time)),
            What::End { policy } => return Ok(OverrideUpdate::End { caller, policy }),
            What::EndAll => return Ok(OverrideUpdate::EndAll(caller)),
        };
        let (reason, author) = (self.reason.take(), self.author.take());
        let new = Override { caller, kind, reason, author, since, until };
        if let Some(problem) = new.text_problem() {
            return Err(OverrideError::InvalidText(problem));
        }
        Ok(OverrideUpdate::Set(new))
    }
}

impl Future for OverrideChange {
    type Output = Result<Vec<Override>, OverrideError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(changing) = &mut self.changing {
            return changing.as_mut().poll(context);
        }
        let update = self.update()?;
        let lifting = self.penalties.take().and_then(|penalties| penalties.lift());
        if lifting.is_none() && !self.overrides.is_shared() {
            return Poll::Ready(self.overrides.change_at_once(update));
        }
        let overrides = Arc::clone(&self.overrides);
        let changing = async move {
            if let Some(lifting) = lifting {
                lifting.await.map_err(OverrideError::Store)?;
            }
            if overrides.is_shared() {
                overrides.change(update).await
            } else {
                overrides.change_at_once(update)
            }
        };
        self.changing.insert(Box::pin(changing)).as_mut().poll(context)
    }
}

impl fmt::Debug for OverrideChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverrideChange")
            .field("caller", &self.caller)
            .field("what", &self.what)
            .field("reason", &self.reason)
            .field("author", &self.author)
            .finish_non_exhaustive()
    }
}
