//! Wakes held requests when units have come back, once the store has given them back.

use std::{
    pin::Pin,
    task::{Context, Waker},
};

use tokio::runtime::Handle;

use super::{Core, Limiter};
use crate::store::{Charge, Correction, StoreFuture};

/// Makes corrections without waiting for them, and then wakes requests that wait for these keys.
pub(super) fn correct_unawaited(
    limiter: &Limiter,
    counted_locally: bool,
    corrections: &[Correction],
) {
    let core = &*limiter.core;
    let answer = core.correct(counted_locally, corrections, core.clock.now());
    release_later(limiter, answer, corrections.iter().map(|correction| &correction.charge));
}

/// Wakes requests that wait for the keys of these charges, once the store has answered.
pub(super) fn release_later<'a>(
    limiter: &Limiter,
    mut answer: StoreFuture,
    charges: impl Iterator<Item = &'a Charge>,
) {
    let mut context = Context::from_waker(Waker::noop());
    if Pin::new(&mut answer).poll(&mut context).is_pending()
        && let Ok(runtime) = Handle::try_current()
    {
        let (limiter, charges) = (limiter.clone(), charges.copied().collect::<Vec<_>>());
        drop(runtime.spawn(async move {
            let _ = answer.await;
            release(&limiter.core, &charges);
        }));
        return;
    }
    release(&limiter.core, charges);
}

/// Wakes requests that wait for the keys of these charges.
pub(super) fn release<'a>(core: &Core, charges: impl IntoIterator<Item = &'a Charge>) {
    core.queue.on_released(charges, core.clock.now());
}
