//! Units that are held as long as a request or a piece of work lasts: [`Permit`].

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use smallvec::SmallVec;

use super::{Limiter, release::correct_unawaited};
use crate::store::Correction;

/// The units [in flight](crate::Policy::in_flight) that a request has taken. They come back when the
/// last clone of the permit is dropped, on any thread, inside of a runtime or not.
///
/// The layer keeps one permit for each request: until the body of the response has ended, failed or
/// was dropped; or until the handler has panicked, the inner service has failed, or the caller has
/// left. A clone is in the extensions of the request. Keep it where a request lasts longer than its
/// response: in the task that reads the socket of an upgraded connection, such as a WebSocket, and not in a task
/// that only starts it; or in work that goes on in the background.
///
/// ```
/// use axum::{
///     Extension,
///     extract::ws::{WebSocket, WebSocketUpgrade},
///     response::Response,
/// };
/// use tower_quota::Permit;
///
/// // The extension is not there if nothing was counted, as under an unlimited plan.
/// async fn open(upgrade: WebSocketUpgrade, permit: Option<Extension<Permit>>) -> Response {
///     upgrade.on_upgrade(|socket| async move {
///         echo(socket).await;
///         drop(permit); // the socket has closed: its place is free
///     })
/// }
///
/// async fn echo(mut socket: WebSocket) {
///     while let Some(Ok(message)) = socket.recv().await {
///         if socket.send(message).await.is_err() {
///             return;
///         }
///     }
/// }
/// # let _ = axum::Router::<()>::new().route("/ws", axum::routing::any(open));
/// ```
///
/// If no clone is kept of a response that upgrades its connection, the units come back at once, and
/// the warning [`upgrade_without_permit`](crate::warning#upgrade_without_permit) is given.
#[derive(Clone)]
#[must_use = "its units come back when it is dropped"]
pub struct Permit(Arc<Held>);

/// Gives its units back when it is dropped, which happens once.
struct Held {
    limiter: Limiter,
    /// What gives the units back.
    corrections: SmallVec<[Correction; 1]>,
    /// Whether this replica has counted them alone, as the store did not answer.
    counted_locally: bool,
    /// The permit of a layer around this one, for whoever keeps only this one.
    outer: OnceLock<Permit>,
    /// Whether the request asks for a tunnel, so that any successful response upgrades the connection.
    asks_for_tunnel: AtomicBool,
}

impl Permit {
    /// A permit for what is not counted.
    #[cold]
    pub(super) fn of_nothing(limiter: &Limiter) -> Self {
        Self::new(limiter, SmallVec::new(), false)
    }

    /// A permit for what these corrections give back.
    #[cold]
    pub(super) fn new(
        limiter: &Limiter,
        corrections: SmallVec<[Correction; 1]>,
        counted_locally: bool,
    ) -> Self {
        Self(Arc::new(Held {
            limiter: limiter.clone(),
            corrections,
            counted_locally,
            outer: OnceLock::new(),
            asks_for_tunnel: AtomicBool::new(false),
        }))
    }

    /// Keeps the permit of an outer layer as long as this one.
    pub(crate) fn keep(&self, outer: Self) {
        // A request passes a layer once.
        let _ = self.0.outer.set(outer);
    }

    pub(crate) fn set_asks_for_tunnel(&self) {
        self.0.asks_for_tunnel.store(true, Relaxed);
    }

    pub(crate) fn asks_for_tunnel(&self) -> bool {
        self.0.asks_for_tunnel.load(Relaxed)
    }

    /// Whether there is another clone.
    pub(crate) fn is_kept_elsewhere(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The name of the first policy whose units it holds.
    pub(crate) fn policy(&self) -> Option<Arc<str>> {
        let rules = self.0.limiter.core.rules();
        let rule = rules.of_charge(&self.0.corrections.first()?.charge)?;
        Some(Arc::clone(&rule.policy.settings.name))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.corrections.is_empty() {
            correct_unawaited(&self.limiter, self.counted_locally, &self.corrections);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("policy", &self.policy()).finish_non_exhaustive()
    }
}
