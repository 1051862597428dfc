//! What one replica decides: from what it remembers, by units that it holds, or else by the servers.

use std::{
    mem,
    pin::pin,
    sync::{Arc, Weak, atomic::AtomicBool},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::{
    clock::{ClockAnchor, RoundTrip},
    deny_cache::CacheMiss,
    in_flight::{InFlightTable, Released},
    leases::{Baton, Handed, LeaseTable, Reservation, is_leased},
    shards::Shards,
    time_budget::TimeBudget,
};
use crate::{
    clock::Now,
    lock::Mutex,
    store::{Answer, Change, Charge, StoreError},
};

/// A request waits for batches that others have asked for. After this many that did not come in full,
/// it asks the server itself.
const MAX_FRUITLESS_WAITS: u32 = 3;
const SWEEP_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Replica {
    pub(super) shards: Arc<Shards>,
    pub(super) leases: Arc<LeaseTable>,
    pub(super) in_flight: Arc<InFlightTable>,
    /// The clock of the last caller that leased units, for the sweeper.
    clock: Mutex<ClockAnchor>,
}

/// What a request has waited for before it decides by itself.
pub(super) struct Turn {
    /// How much of its time is left.
    pub(super) left: Duration,
    pub(super) handed: Option<Handed>,
    /// How many batches have not come in full.
    pub(super) fruitless_waits: u32,
}

impl Turn {
    /// Of a request that has waited for nothing.
    pub(super) fn first(replica: &Replica) -> Self {
        Self { left: replica.decision_timeout(), handed: None, fruitless_waits: 0 }
    }
}

impl Replica {
    pub(super) fn new(shards: Shards, leases: LeaseTable) -> Self {
        let holder = &shards.manager.names.holder;
        let in_flight = InFlightTable::new(Arc::clone(&holder.statement), holder.lasts);
        let (shards, leases) = (Arc::new(shards), Arc::new(leases));
        Self {
            shards,
            leases,
            in_flight: Arc::new(in_flight),
            clock: Mutex::new(ClockAnchor::new(Now::ZERO)),
        }
    }

    /// Decides without a server, if it can: by a refusal that is remembered, or by units that are here.
    pub(super) fn decide_locally(
        self: &Arc<Self>,
        charges: &[Charge],
        now: Now,
    ) -> Result<Answer, CacheMiss> {
        let at = now.monotonic_nanos();
        if let [charge] = charges
            && let Some((answer, baton)) = self.leases.spend(charge, at)
        {
            baton.into_iter().for_each(|baton| self.ask_ahead(baton, now));
            return Ok(answer);
        }
        // A single charge would be spent by now.
        let is_covered = |charge: &Charge| charges.len() > 1 && self.leases.covers(charge, at);
        let miss = match self.shards.deny_cache.look_up(charges, now, is_covered) {
            Ok(refusal) => return Ok(refusal),
            Err(miss) => miss,
        };
        if charges.len() > 1
            && charges.iter().all(is_covered)
            && let Ok(mut reservation) = Reservation::new(&self.leases, charges, at, true, None)
            && let Some(answer) = reservation.spend_if_covered(at)
        {
            let batons = charges.iter().filter_map(|charge| self.leases.baton_if_low(charge));
            batons.for_each(|baton| self.ask_ahead(baton, now));
            return Ok(answer);
        }
        Err(miss)
    }

    /// Makes all charges or none. The caller commits the reservation when it has the answer. `is_sent`
    /// is set when a server may have charged something.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` has room for each argument twice")]
    pub(super) fn decide(
        self: Arc<Self>,
        charges: Arc<[Charge]>,
        miss: CacheMiss,
        clock: ClockAnchor,
        turn: Turn,
        is_sent: Arc<AtomicBool>,
    ) -> impl Future<Output = Result<(Answer, Option<Reservation>), StoreError>> + Send {
        async move {
            let mut budget = TimeBudget::of_sent(turn.left, clock.instant(), is_sent);
            let begun = self.in_flight.begin(&charges, &mut budget).await;
            if begun.is_some() {
                self.start_heart();
            }
            if charges.iter().any(is_leased) {
                // Boxed, so that the futures of other requests stay small.
                let deciding = self.decide_leased(&charges, miss, clock, turn, &mut budget);
                let decided = Box::pin(deciding).await?;
                begun.into_iter().for_each(|begun| begun.settle(&charges, &decided.0, &budget));
                return Ok(decided);
            }
            let answer = self.shards.charge(&[], &charges, &mut budget).await?;
            begun.into_iter().for_each(|begun| begun.settle(&charges, &answer, &budget));
            let times = RoundTrip {
                sent: clock.at(budget.wait_began).monotonic_nanos(),
                received: clock.at(budget.wait_ended).monotonic_nanos(),
            };
            self.shards.deny_cache.remember(&charges, &miss, &answer, times);
            Ok((answer, None))
        }
    }

    async fn decide_leased(
        self: &Arc<Self>,
        charges: &[Charge],
        mut miss: CacheMiss,
        clock: ClockAnchor,
        turn: Turn,
        budget: &mut TimeBudget,
    ) -> Result<(Answer, Option<Reservation>), StoreError> {
        let own_half = self.own_half();
        let Turn { mut handed, mut fruitless_waits, .. } = turn;
        loop {
            let now = clock.now();
            let may_wait = fruitless_waits < MAX_FRUITLESS_WAITS;
            let at = now.monotonic_nanos();
            let reserved = Reservation::new(&self.leases, charges, at, may_wait, handed.take());
            let mut reservation = match reserved {
                Ok(reservation) => reservation,
                Err(waiting) => {
                    let for_others = budget.left.saturating_sub(own_half);
                    match budget.wait(for_others, waiting).await {
                        Some(Ok(Handed::Units(grant))) if charges.len() == 1 => {
                            match grant.spend(clock.now().monotonic_nanos()) {
                                Some(answer) => return Ok((answer, None)),
                                None => continue,
                            }
                        }
                        Some(Ok(units_or_baton)) => {
                            handed = Some(units_or_baton);
                            continue;
                        }
                        Some(Err(_)) => fruitless_waits = fruitless_waits.saturating_add(1),
                        None => fruitless_waits = MAX_FRUITLESS_WAITS,
                    }
                    miss = match self.decide_locally(charges, clock.now()) {
                        Ok(answer) => return Ok((answer, None)),
                        Err(miss) => miss,
                    };
                    continue;
                }
            };
            if let Some(answer) = reservation.spend_if_covered(at) {
                return Ok((answer, None));
            }
            let (answer, times) = self.ask(&mut reservation, clock, budget).await?;
            self.shards.deny_cache.remember(charges, &miss, &answer, times);
            reservation.close_batons();
            return Ok((answer, Some(reservation)));
        }
    }

    /// A request that has waited for others until only so much of its time is left asks the server itself.
    #[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
    pub(super) fn own_half(&self) -> Duration {
        self.decision_timeout() / 2
    }

    pub(super) fn decision_timeout(&self) -> Duration {
        self.shards.manager.decision_timeout()
    }

    /// Asks the servers for what a reservation lacks.
    async fn ask(
        &self,
        reservation: &mut Reservation,
        clock: ClockAnchor,
        budget: &mut TimeBudget,
    ) -> Result<(Answer, RoundTrip), StoreError> {
        let sent = clock.now().monotonic_nanos();
        let expired = mem::take(&mut reservation.expired);
        if !expired.is_empty() {
            // They go back even if the caller leaves.
            budget.mark_sent();
        }
        expired.iter().for_each(|correction| self.shards.deny_cache.forget(&correction.charge));
        let answer = match self.shards.charge(&expired, &reservation.to_server(), budget).await {
            Ok(answer) => answer,
            Err(error) => {
                reservation.close_batons();
                return Err(error);
            }
        };
        let times = RoundTrip { sent, received: clock.now().monotonic_nanos() };
        *self.clock.lock() = clock;
        Ok((reservation.apply_reply(&answer, times), times))
    }

    /// Asks for the next batch of a key, in the background.
    fn ask_ahead(self: &Arc<Self>, baton: Baton, now: Now) {
        let Ok(runtime) = Handle::try_current() else { return };
        let (replica, clock) = (Arc::clone(self), ClockAnchor::new(now));
        runtime.spawn(async move {
            let at = clock.now().monotonic_nanos();
            let charge = *baton.charge();
            if let Some(mut reservation) = Reservation::ahead(&replica.leases, baton, at) {
                let mut budget = replica.shards.manager.time_budget();
                let _ = replica.ask(&mut reservation, clock, &mut budget).await;
                // What is refused is refused for longer now.
                replica.shards.deny_cache.forget(&charge);
                reservation.close_batons();
            }
            replica.sweep_later();
        });
    }

    /// Makes all corrections. Forgets what is known here of the keys.
    pub(super) async fn correct(&self, released: Released) -> Result<Answer, StoreError> {
        let corrections = &*released.corrections;
        // A second time, for units that were taken meanwhile.
        let forget_pools = || {
            let resets = corrections.iter().filter(|correction| correction.change == Change::Reset);
            resets.for_each(|correction| self.leases.forget(&correction.charge));
        };
        forget_pools();
        let answer = self.shards.correct(corrections).await;
        forget_pools();
        if answer.is_ok() {
            released.settle();
        }
        answer
    }

    /// Starts the task that states what is held, if there is none that does.
    fn start_heart(self: &Arc<Self>) {
        if let Some(number) = self.in_flight.needs_heart() {
            Heart::start(Arc::downgrade(self), number, Handle::current());
        }
    }

    /// Has units given back in the background when they have expired.
    pub(super) fn sweep_later(self: &Arc<Self>) {
        self.leases.start_sweeper(|| tokio::spawn(sweep(Arc::downgrade(self))).abort_handle());
    }
}

/// With its last user, a store gives back the units that are not spent, as far as there is time for it.
impl Drop for Replica {
    fn drop(&mut self) {
        let (unspent, Ok(runtime)) = (self.leases.drain(), Handle::try_current()) else { return };
        if unspent.is_empty() {
            return;
        }
        let shards = Arc::clone(&self.shards);
        runtime.spawn(async move { shards.correct_all(&unspent).await });
    }
}

/// States again and again which units in flight a replica holds. If its runtime ends, another one goes on
/// with it, as what is held may be of that one.
struct Heart {
    replica: Weak<Replica>,
    number: u64,
    runtime: Handle,
}

impl Heart {
    fn start(replica: Weak<Replica>, number: u64, runtime: Handle) {
        let heart = Self { replica, number, runtime: runtime.clone() };
        runtime.spawn(heart.beat());
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
    async fn beat(self) {
        loop {
            let Some(pause) = self.replica.upgrade().map(|replica| replica.in_flight.pause())
            else {
                return;
            };
            sleep(pause).await;
            let Some(replica) = self.replica.upgrade() else { return };
            let Replica { shards, in_flight, .. } = &*replica;
            let Some(keys) = in_flight.keys(self.number) else { return };
            // At most as long as charges wait for a statement, and so that no statement comes late.
            let each = shards.manager.time_budget().left / 2;
            let mut draining = TimeBudget::new(pause / 2);
            for some in shards.chunks(&keys) {
                let barred = in_flight.bar(if draining.left.is_zero() { &[] } else { some });
                draining.wait(each, pin!(barred.drained())).await;
                // A statement gets its number only now. The server leaves a statement out if a charge or a
                // correction comes between its number and the statement.
                let (number, statements) = in_flight.state(some);
                let at = Instant::now();
                let is_heard = shards.correct(&statements).await.is_ok();
                in_flight.stated(number, at, &statements, is_heard);
            }
        }
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        let Some(replica) = self.replica.upgrade() else { return };
        if let Some((number, runtime)) =
            replica.in_flight.next_heart(self.number, self.runtime.id())
        {
            Self::start(Weak::clone(&self.replica), number, runtime);
        }
    }
}

async fn sweep(replica: Weak<Replica>) {
    loop {
        sleep(SWEEP_PAUSE).await;
        let Some(replica) = replica.upgrade() else { return };
        let clock = *replica.clock.lock();
        let (back, goes_on) = replica.leases.sweep(clock.now().monotonic_nanos());
        // Units that cannot be given back return as the quota's window passes.
        let _ = replica.shards.correct_all(&back).await;
        if !goes_on {
            return;
        }
    }
}
