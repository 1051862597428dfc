//! Charges that may be made from a lease, and units that go back.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{
    Shared,
    deny_cache::Begun,
    leases::{self, Asking},
    time_budget::TimeBudget,
    wire::Request,
};
use crate::{
    clock::{Now, nanos},
    store::{Answer, Charge, StoreError},
};

/// A request waits for batches that others have asked for, as long as they come in full. When so
/// many have not, it asks by itself.
const FRUITLESS: u32 = 3;
/// Between two looks at what has expired.
const PAUSE: Duration = Duration::from_millis(50);
/// So much is given back at once: others are served in between.
const AT_ONCE: usize = 64;

/// A moment by the clock of the callers, and by tokio's.
#[derive(Debug)]
pub(super) struct Moment(Mutex<(u64, Instant)>);

impl Moment {
    pub(super) fn new() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }

    fn set(&self, now: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }

    fn now(&self) -> u64 {
        let (at, instant) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.saturating_add(nanos(instant.elapsed()))
    }
}

impl Shared {
    /// What is decided without a server: by what is known to be refused, or by units that are here.
    pub(super) fn decide_at_once(&self, charges: &[Charge], now: Now) -> Result<Answer, Begun> {
        let at = now.monotonic_nanos();
        if let [charge] = charges
            && leases::is_leased(charge)
            && let Some(answer) = self.leases.spend(charge, at)
        {
            return Ok(answer);
        }
        let is_covered =
            |charge: &Charge| leases::is_leased(charge) && self.leases.covers(charge, at);
        let begun = match self.deny_cache.look(charges, now, is_covered) {
            Ok(denied) => return Ok(denied),
            Err(begun) => begun,
        };
        if charges.len() > 1
            && charges.iter().all(is_covered)
            && let Ok(mut asking) = self.leases.begin(charges, at, true)
            && let Some(answer) = asking.spend_covered(at)
        {
            return Ok(answer);
        }
        Err(begun)
    }

    /// Makes all charges or none; with what was reserved for those that have a lease.
    pub(super) async fn decide(
        self: Arc<Self>,
        charges: Arc<[Charge]>,
        now: Now,
        begun: Begun,
        since: Instant,
        has_asked: Arc<AtomicBool>,
    ) -> Result<(Answer, Option<Asking>), StoreError> {
        let mut budget = self.manager.time_budget().with_sent_flag(has_asked);
        if !charges.iter().any(leases::is_leased) {
            let answer = self.charge(&[], &charges, &mut budget).await?;
            let asked = budget.wait_began().saturating_duration_since(since);
            self.deny_cache.remember(&charges, &begun, &answer, (asked, since.elapsed()));
            return Ok((answer, None));
        }
        // Boxed: others would be moved about with room for it.
        Box::pin(self.decide_leased(&charges, now, begun, since, budget)).await
    }

    async fn decide_leased(
        self: &Arc<Self>,
        charges: &[Charge],
        now: Now,
        mut begun: Begun,
        since: Instant,
        mut budget: TimeBudget,
    ) -> Result<(Answer, Option<Asking>), StoreError> {
        // Who has waited half of its time for others asks by itself.
        let own_half = budget.left() / 2;
        let (mut is_first, mut fruitless) = (true, 0);
        loop {
            let passed = since.elapsed();
            let now = Now::new(now.monotonic() + passed, now.unix() + passed);
            let asked = now.monotonic_nanos();
            if !mem::take(&mut is_first) {
                begun = match self.decide_at_once(charges, now) {
                    Ok(answer) => return Ok((answer, None)),
                    Err(begun) => begun,
                };
            }
            let mut asking = match self.leases.begin(charges, asked, fruitless < FRUITLESS) {
                Ok(asking) => asking,
                Err(mut filling) => {
                    let for_others = budget.left().saturating_sub(own_half);
                    match budget.wait(for_others, filling.changed()).await {
                        Some(Ok(())) => {}
                        Some(Err(_)) => fruitless += 1,
                        None => fruitless = FRUITLESS,
                    }
                    continue;
                }
            };
            if let Some(answer) = asking.spend_covered(asked) {
                return Ok((answer, None));
            }
            let expired = mem::take(&mut asking.expired);
            if !expired.is_empty() {
                // They go back even if the caller leaves.
                budget.mark_sent();
            }
            expired.iter().for_each(|correction| self.deny_cache.forget(&correction.charge));
            let answer = self.charge(&expired, &asking.charges(), &mut budget).await?;
            let heard = asked.saturating_add(nanos(since.elapsed() - passed));
            let answer = asking.hear(&answer, (asked, heard));
            let times = (Duration::ZERO, since.elapsed() - passed);
            self.deny_cache.remember(charges, &begun, &answer, times);
            self.moment.set(heard);
            return Ok((answer, Some(asking)));
        }
    }

    /// Sees to it that units go back when they have expired, in the background.
    pub(super) fn sweep_later(self: &Arc<Self>) {
        if self.leases.begins_sweep() {
            tokio::spawn(sweep(Sweeping(Arc::downgrade(self))));
        }
    }

    /// Gives back all that is not spent.
    pub(super) async fn give_back_leases(self: &Arc<Self>) -> Result<(), StoreError> {
        let mut given_back = Ok(());
        for some in self.leases.take_all().chunks(AT_ONCE) {
            let answer = self.correct(some).await;
            given_back = given_back.and(answer.map(drop));
        }
        given_back
    }
}

/// The last to use a store gives back what is not spent, if there is time for it.
impl Drop for Shared {
    fn drop(&mut self) {
        let (left, Ok(runtime)) = (self.leases.take_all(), Handle::try_current()) else { return };
        if left.is_empty() {
            return;
        }
        let at_once = if self.manager.is_cluster() { 1 } else { AT_ONCE };
        let (manager, names) = (Arc::clone(&self.manager), self.names.clone());
        runtime.spawn(async move {
            for some in left.chunks(at_once) {
                let _ =
                    manager.run(&Request::correct(&names, some), &mut manager.time_budget()).await;
            }
        });
    }
}

/// The task that gives back what has expired. If its runtime ends first, another begins it anew.
struct Sweeping(Weak<Shared>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.leases.stop_sweep();
        }
    }
}

async fn sweep(sweeping: Sweeping) {
    loop {
        sleep(PAUSE).await;
        let Some(shared) = sweeping.0.upgrade() else { return };
        let (back, goes_on) = shared.leases.sweep(shared.moment.now());
        for some in back.chunks(AT_ONCE) {
            // What cannot be given back comes back with its window.
            let _ = shared.correct(some).await;
        }
        if !goes_on {
            return;
        }
    }
}
