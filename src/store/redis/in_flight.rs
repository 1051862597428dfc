//! A charge that a caller waits for, and may stop waiting for.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use smallvec::SmallVec;
use tokio::runtime::Handle;

use super::{
    Shared,
    leases::{Asking, as_taken},
    shards::made,
};
use crate::store::{Answer, Charge, Correction, StoreError};

/// A charge on its way. If its caller leaves, it is given back once it is known to be made; or it is
/// never made, if it still waits for its turn.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    charges: Arc<[Charge]>,
    deciding: Option<Deciding>,
    /// Whether a server may have made it.
    has_asked: Arc<AtomicBool>,
}

type Deciding = Pin<Box<dyn Future<Output = Decided> + Send>>;
type Decided = Result<(Answer, Option<Asking>), StoreError>;

impl InFlight {
    pub(super) fn new(
        shared: Arc<Shared>,
        charges: Arc<[Charge]>,
        deciding: impl Future<Output = Decided> + Send + 'static,
        has_asked: Arc<AtomicBool>,
    ) -> Self {
        Self { shared, charges, deciding: Some(Box::pin(deciding)), has_asked }
    }
}

impl Future for InFlight {
    type Output = Result<Answer, StoreError>;

    #[expect(clippy::expect_used, reason = "no future answers twice")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, deciding, .. } = &mut *self;
        let under_way = deciding.as_mut().expect("a future is not polled after its end");
        let decided = ready!(under_way.as_mut().poll(context));
        *deciding = None;
        let told = decided.map(|(answer, asking)| {
            if let Some(asking) = asking {
                asking.told();
            }
            answer
        });
        shared.sweep_later();
        Poll::Ready(told)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(deciding) = self.deciding.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.has_asked.load(Relaxed) {
            drop(deciding);
            return self.shared.sweep_later();
        }
        let (shared, charges) = (Arc::clone(&self.shared), Arc::clone(&self.charges));
        runtime.spawn(async move {
            let Ok((answer, asking)) = deciding.await else { return shared.sweep_later() };
            // Units of a lease go back to where they are spent.
            let is_leased =
                |place| asking.as_ref().is_some_and(|asking: &Asking| asking.has_pool(place));
            let unleased: SmallVec<[Charge; 4]> =
                charges.iter().map(|charge| Charge { lease: 0, ..*charge }).collect();
            let made = made(&unleased, &answer).filter(|(place, _)| !is_leased(*place));
            let made = made.map(|(place, made)| Correction { charge: charges[place], ..made });
            let made: Vec<_> = made.map(|correction| as_taken(&correction)).collect();
            drop(asking);
            shared.sweep_later();
            if made.is_empty() {
                return;
            }
            let _ = shared.correct(&made).await;
        });
    }
}
