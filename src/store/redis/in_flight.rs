use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use smallvec::SmallVec;
use tokio::{runtime::Handle, time::Instant};

use super::{Shared, deny_cache::Begun, shards::made};
use crate::store::{Answer, Charge, StoreError};

/// A charge on its way. If its caller leaves, it is given back once it is known to be made.
pub(super) struct InFlight {
    shared: Arc<Shared>,
    charges: SmallVec<[Charge; 4]>,
    begun: Begun,
    charging: Option<Charging>,
    since: Instant,
}

type Charging = Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send>>;

impl InFlight {
    pub(super) fn new(shared: Arc<Shared>, charges: SmallVec<[Charge; 4]>, begun: Begun) -> Self {
        Self { shared, charges, begun, charging: None, since: Instant::now() }
    }
}

impl Future for InFlight {
    type Output = Result<Answer, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { shared, charges, begun, charging, since } = &mut *self;
        let under_way = charging.get_or_insert_with(|| {
            let (shared, charges) = (Arc::clone(shared), charges.clone());
            Box::pin(async move { shared.charge(&charges).await })
        });
        let answer = ready!(under_way.as_mut().poll(context));
        *charging = None;
        if let Ok(answer) = &answer {
            shared.deny_cache.remember(charges, begun, answer, since.elapsed());
        }
        Poll::Ready(answer)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(charging) = self.charging.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        let (shared, charges) = (Arc::clone(&self.shared), std::mem::take(&mut self.charges));
        runtime.spawn(async move {
            let Ok(answer) = charging.await else { return };
            let made: Vec<_> = made(&charges, &answer).map(|(_, correction)| correction).collect();
            let _ = shared.correct(&made).await;
        });
    }
}
