//! A request of one leased charge, which may wait for units that another one asks for: [`InTurn`].

use std::sync::Arc;

use tokio::runtime::Handle;

use super::{
    clock::ClockAnchor,
    deny_cache::CacheMiss,
    leases::Handed,
    replica::{Replica, Turn},
    rollback::RollbackOnDrop,
    time_budget,
};
use crate::{
    clock::Now,
    store::{Answer, Charge, StoreError},
};

/// A busy key has many such requests: the future of one that waits is small, and takes one allocation.
pub(super) struct InTurn {
    replica: Arc<Replica>,
    /// Whether units may have to go back if it is dropped.
    is_waiting: bool,
}

impl InTurn {
    pub(super) fn new(replica: &Arc<Replica>) -> Self {
        Self { replica: Arc::clone(replica), is_waiting: false }
    }

    pub(super) async fn decide(
        mut self,
        charge: Charge,
        mut miss: CacheMiss,
        now: Now,
    ) -> Result<Answer, StoreError> {
        let clock = ClockAnchor::new(now);
        let mut left = self.replica.decision_timeout();
        let (mut handed, mut fruitless_waits) = (None, 0);
        let waiting = self.replica.leases.join_queue(&charge, now.monotonic_nanos());
        if let Some(waiting) = waiting {
            self.is_waiting = true;
            let for_others = left.saturating_sub(self.replica.own_half());
            let waited = time_budget::wait(clock.instant(), for_others, &mut left, waiting).await;
            match waited.0 {
                Some(Ok(Handed::Units(grant))) => {
                    if let Some(answer) = grant.spend(clock.now().monotonic_nanos()) {
                        self.is_waiting = false;
                        return Ok(answer);
                    }
                }
                Some(Ok(baton)) => handed = Some(baton),
                Some(Err(_)) => fruitless_waits = 1,
                None => {}
            }
            miss = match self.replica.decide_locally(&[charge], clock.now()) {
                Ok(answer) => return Ok(answer),
                Err(miss) => miss,
            };
        }
        let turn = Turn { left, handed, fruitless_waits };
        RollbackOnDrop::new(&self.replica, &[charge], clock, miss, turn).await
    }
}

impl Drop for InTurn {
    fn drop(&mut self) {
        if self.is_waiting && Handle::try_current().is_ok() {
            self.replica.sweep_later();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        algorithm::Algorithm,
        quota::Quota,
        store::{RedisStore, Store},
    };

    #[tokio::test]
    async fn the_future_of_one_that_waits_is_small() {
        let store = RedisStore::builder("redis://127.0.0.1:1/").secret(1).build().unwrap();
        let quota = Quota::per_minute(600);
        let charge = Charge { lease: 100, ..Charge::new(1, 2, Algorithm::TokenBucket, quota) };
        let replica = &store.replica;
        let Err(miss) = replica.decide_locally(&[charge], Now::ZERO) else {
            unreachable!("nothing is leased")
        };
        let deciding = InTurn::new(replica).decide(charge, miss, Now::ZERO);
        let size = size_of_val(&deciding);
        assert!(size <= 1_024, "{size} bytes");
        drop((deciding, store.charge(&[charge], Now::ZERO)));
    }
}
