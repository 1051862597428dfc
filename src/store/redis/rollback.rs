//! A charge whose caller may leave before the answer: [`RollbackOnDrop`].

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
    clock::ClockAnchor,
    deny_cache::CacheMiss,
    leases::{Reservation, date_back, normalize_lease},
    replica::{Replica, Turn},
    shards::charges_made,
};
use crate::store::{Answer, Charge, Correction, StoreError};

/// The future of a charge. If it is dropped before the charge was sent, the charge is never made. If
/// later, a task waits for the answer and gives back what was charged.
pub(super) struct RollbackOnDrop {
    replica: Arc<Replica>,
    charges: Arc<[Charge]>,
    /// `None` at its end.
    deciding: Option<Deciding>,
    /// Whether a server may have made the charge.
    is_sent: Arc<AtomicBool>,
}

type Deciding = Pin<Box<dyn Future<Output = Decided> + Send>>;
type Decided = Result<(Answer, Option<Reservation>), StoreError>;

impl RollbackOnDrop {
    pub(super) fn new(
        replica: &Arc<Replica>,
        charges: &[Charge],
        clock: ClockAnchor,
        miss: CacheMiss,
        turn: Turn,
    ) -> Self {
        let replica = Arc::clone(replica);
        let charges: Arc<[Charge]> = charges.iter().map(normalize_lease).collect();
        let is_sent = Arc::default();
        let (own, sent) = (Arc::clone(&charges), Arc::clone(&is_sent));
        let deciding = Arc::clone(&replica).decide(own, miss, clock, turn, sent);
        Self { replica, charges, deciding: Some(Box::pin(deciding)), is_sent }
    }
}

impl Future for RollbackOnDrop {
    type Output = Result<Answer, StoreError>;

    #[expect(clippy::expect_used, reason = "a future may panic when it is polled after its end")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { replica, deciding, .. } = &mut *self;
        let pending = deciding.as_mut().expect("a future is not polled after its end");
        let decided = ready!(pending.as_mut().poll(context));
        *deciding = None;
        let answer = decided.map(|(answer, reservation)| {
            if let Some(reservation) = reservation {
                reservation.commit();
            }
            answer
        });
        replica.sweep_later();
        Poll::Ready(answer)
    }
}

impl Drop for RollbackOnDrop {
    fn drop(&mut self) {
        let Some(deciding) = self.deciding.take() else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.is_sent.load(Relaxed) {
            drop(deciding);
            return self.replica.sweep_later();
        }
        let (replica, charges) = (Arc::clone(&self.replica), Arc::clone(&self.charges));
        runtime.spawn(async move {
            let Ok((answer, reservation)) = deciding.await else { return replica.sweep_later() };
            let made = made_at_server(&charges, &answer, reservation.as_ref());
            // Puts the units of leases back into their pools.
            drop(reservation);
            replica.sweep_later();
            if !made.is_empty() {
                let _ = replica.correct(replica.in_flight.release(&made)).await;
            }
        });
    }
}

/// What gives back the charges that were made at a server, and not from a pool.
#[expect(clippy::indexing_slicing, reason = "an index is of the charges")]
fn made_at_server(
    charges: &[Charge],
    answer: &Answer,
    reservation: Option<&Reservation>,
) -> Vec<Correction> {
    let has_pool =
        |index| reservation.is_some_and(|reservation: &Reservation| reservation.has_pool(index));
    let unleased: SmallVec<[Charge; 4]> =
        charges.iter().map(|charge| Charge { lease: 0, ..*charge }).collect();
    let made = charges_made(&unleased, answer).filter(|(index, _)| !has_pool(*index));
    made.map(|(index, made)| date_back(&Correction { charge: charges[index], ..made })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        algorithm::Algorithm,
        clock::Now,
        quota::Quota,
        store::{RedisStore, Store},
    };

    /// It is moved before it is polled, and allocated.
    #[tokio::test]
    async fn the_future_of_a_decision_is_small() {
        let store = RedisStore::builder("redis://127.0.0.1:1/").secret(1).build().unwrap();
        let charge = Charge::new(1, 2, Algorithm::TokenBucket, Quota::per_minute(600));
        let replica = &store.replica;
        let Err(miss) = replica.decide_locally(&[charge], Now::ZERO) else {
            unreachable!("nothing is known of the key")
        };
        let (clock, turn) = (ClockAnchor::new(Now::ZERO), Turn::first(replica));
        let charges = Arc::new([charge]);
        let deciding = Arc::clone(replica).decide(charges, miss, clock, turn, Arc::default());
        let size = size_of_val(&deciding);
        assert!(size <= 2_048, "{size} bytes");
        drop((deciding, store.charge(&[charge], Now::ZERO)));
    }
}
