//! The processor's counter, held to the system's monotonic clock: [`Counter`].
//!
//! Reading the counter takes half the time of reading the system's clock. But the length of a tick is
//! measured only once, when the process begins, and is wrong by about 30 millionths for as long as the
//! process runs. So a tick counts for slightly less than was measured, and every few milliseconds the
//! time is set forward to the system's clock. It is never set back.
//!
//! These promises hold whatever the counter does:
//! - A thread never reads a time before one that it has read. Two threads agree to a microsecond.
//! - If the counter is right to 200 millionths, the time is never ahead of the system's clock, and at
//!   most 5 microseconds behind it.
//! - If the counter jumps ahead, the time follows it for at most 10 milliseconds. Then the time stands
//!   still until the system's clock has caught up. From then on, the system's clock is read. The same
//!   happens if the counter steps back below its start.
//! - If the counter steps back or stands still, the time is right again after the counter has counted
//!   17 milliseconds, and mostly at the next reading.

use std::{
    cell::Cell,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Instant,
};

use super::{now::Now, reference::Reference, wall::WallOffset};

/// How long the offset to the system's clock holds, in nanoseconds: 8.4 ms.
const INTERVAL: u64 = 1 << 23;
/// The part of a tick that is not counted, as a shift: 244 millionths. No counter is faster than that.
const SLOWER: u32 = 12;
/// A counter that is further ahead than this is abandoned, in nanoseconds.
const TOLERANCE: u64 = 1_000_000;
/// A bit of [`Counter::measured`]: the counter is not read any more.
const ABANDONED: u64 = 1 << 63;

thread_local! {
    /// The time that this thread read last. A process has only one counter.
    static LAST: Cell<u64> = const { Cell::new(0) };
}

/// All times are nanoseconds.
#[derive(Debug)]
pub(super) struct Counter {
    ticks: quanta::Clock,
    reference: Reference,
    /// The ticks at time 0.
    origin: u64,
    /// What 2^32 ticks count for: slightly less than they take.
    pace: u64,
    /// Is added to what the ticks count for; only grows.
    offset: AtomicU64,
    /// The time at which the offset was measured last; only grows.
    measured: AtomicU64,
    wall: WallOffset,
}

impl Counter {
    pub(super) fn new() -> Self {
        let ticks = quanta::Clock::new();
        Self::held_to(Reference::System { origin: Instant::now() }, ticks)
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a part is less than the whole")]
    fn held_to(reference: Reference, ticks: quanta::Clock) -> Self {
        let exact = ticks.delta_as_nanos(0, 1 << 32);
        Self {
            origin: ticks.raw(),
            pace: exact - (exact >> SLOWER),
            offset: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            wall: WallOffset::new(&reference),
            ticks,
            reference,
        }
    }

    #[inline]
    pub(super) fn now(&self) -> Now {
        // In this order, and `Acquire`: the offset is at least as new as `measured`.
        let measured = self.measured.load(Acquire);
        let offset = self.offset.load(Relaxed);
        let counted = self.counted(self.ticks.raw().saturating_sub(self.origin));
        let mut monotonic = counted.wrapping_add(offset);
        // A counter that stepped back is before `measured`, and one that stands still is at `LAST`.
        let is_plain = monotonic > LAST.get() && monotonic.wrapping_sub(measured) < INTERVAL;
        if !is_plain {
            monotonic = self.measure().max(LAST.get());
        }
        LAST.set(monotonic);
        Now { monotonic, unix: self.wall.get().saturating_add(monotonic) }
    }

    /// What so many ticks count for.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "64 by 64 bits are at most 128")]
    #[expect(clippy::cast_possible_truncation, reason = "584 years of nanoseconds fit")]
    fn counted(&self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.pace)) >> 32) as u64
    }

    /// The time by the system's clock. Sets the counter forward to it.
    #[cold]
    #[inline(never)]
    fn measure(&self) -> u64 {
        let monotonic = match self.measured.load(Acquire) {
            measured if measured & ABANDONED == 0 => {
                self.set_forward().unwrap_or_else(|| self.abandon())
            }
            measured => self.without_counter(measured),
        };
        self.wall.refresh(&self.reference, monotonic);
        monotonic
    }

    /// `None` if the counter is too far ahead, or below its start.
    fn set_forward(&self) -> Option<u64> {
        // The counter is read last. If this thread is interrupted between the two readings, the offset
        // is too small, and the one before it stays.
        let real = self.reference.monotonic();
        let counted = self.counted(self.ticks.raw().checked_sub(self.origin)?);
        let offset = real.saturating_sub(counted);
        let offset = self.offset.fetch_max(offset, Release).max(offset);
        let monotonic = counted.saturating_add(offset);
        let is_ahead = |real: u64| monotonic > real.saturating_add(TOLERANCE);
        if is_ahead(real) && is_ahead(self.reference.monotonic()) {
            return None;
        }
        let before = self.measured.fetch_max(monotonic, AcqRel);
        Some(if before & ABANDONED == 0 { monotonic } else { self.without_counter(before) })
    }

    /// Reads the system's clock from now on.
    fn abandon(&self) -> u64 {
        let before = self.measured.fetch_or(ABANDONED, AcqRel);
        #[cfg(feature = "tracing")]
        if before & ABANDONED == 0 {
            tracing::warn!("the processor's counter is not steady; the system's clock is read");
        }
        self.without_counter(before)
    }

    /// The system's time, but not before any time that a thread may have read by the counter.
    fn without_counter(&self, measured: u64) -> u64 {
        self.reference.monotonic().max((measured & !ABANDONED).saturating_add(INTERVAL))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Barrier, atomic::AtomicBool},
        thread,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::clock::reference::Mock;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    /// A counter beside the clocks to which it is held, and a thread that reads it.
    struct World {
        counter: Counter,
        ticks: Arc<quanta::Mock>,
        real: &'static Mock,
        /// By how many millionths the counter is too fast.
        drift: i64,
        stands_still: bool,
        last: u64,
    }

    impl World {
        fn new() -> Self {
            let (clock, ticks) = quanta::Clock::mock();
            ticks.increment(100 * SECOND);
            let real: &'static Mock = Box::leak(Box::default());
            real.wall.store(1_700_000_000 * SECOND, Relaxed);
            let counter = Counter::held_to(Reference::Mock(real), clock);
            Self { counter, ticks, real, drift: 0, stands_still: false, last: 0 }
        }

        fn pass(&self, nanos: u64) {
            self.real.monotonic.fetch_add(nanos, Relaxed);
            self.real.wall.fetch_add(nanos, Relaxed);
            if !self.stands_still {
                let more = nanos as i128 * i128::from(self.drift) / 1_000_000;
                self.ticks.increment((i128::from(nanos) + more) as u64);
            }
        }

        /// By how much the time is ahead of the real one.
        fn read(&mut self) -> i128 {
            let now = self.counter.now().monotonic;
            assert!(now >= self.last, "{now} after {}", self.last);
            self.last = now;
            i128::from(now) - i128::from(self.real.monotonic.load(Relaxed))
        }

        fn is_abandoned(&self) -> bool {
            self.counter.measured.load(Relaxed) & ABANDONED != 0
        }
    }

    /// In a thread that has read no time before.
    fn in_world(test: impl FnOnce(World) + Send) {
        thread::scope(|scope| {
            let done = scope.spawn(|| test(World::new())).join();
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Drift(i64),
        Ahead(u64),
        Back(u64),
        StandStill,
        GoOn,
    }

    fn time() -> impl Strategy<Value = u64> {
        (0_u32..42, any::<u64>()).prop_map(|(bits, nanos)| nanos % (1 << bits))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => time().prop_map(Step::Pass),
            2 => (-100_i64..=100).prop_map(Step::Drift),
            1 => time().prop_map(Step::Ahead),
            1 => time().prop_map(Step::Back),
            1 => Just(Step::StandStill),
            1 => Just(Step::GoOn),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_counter_that_drifts_is_held_to_the_systems_clock(
            passes in prop::collection::vec((time(), -100_i64..=100), 1..100),
        ) {
            in_world(|mut world| for (nanos, drift) in passes {
                world.drift = drift;
                world.pass(nanos);
                let ahead = world.read();
                assert!((-5_000..=0).contains(&ahead), "{ahead} ns");
                assert!(!world.is_abandoned());
            });
        }

        #[test]
        fn whatever_the_counter_does_time_goes_on_and_never_back(
            steps in prop::collection::vec(step(), 1..100),
        ) {
            in_world(|mut world| {
                for step in steps {
                    match step {
                        Step::Pass(nanos) => world.pass(nanos),
                        Step::Drift(millionths) => world.drift = millionths,
                        Step::Ahead(nanos) => world.ticks.increment(nanos),
                        Step::Back(nanos) => {
                            world.ticks.decrement(nanos.min(world.counter.ticks.raw()));
                        }
                        Step::StandStill => world.stands_still = true,
                        Step::GoOn => world.stands_still = false,
                    }
                    let ahead = world.read();
                    assert!(ahead <= i128::from(INTERVAL + TOLERANCE), "{ahead} ns");
                }
                world.stands_still = false;
                for _ in 0..5 {
                    world.pass(INTERVAL / 2);
                    world.read();
                }
                let ahead = world.read();
                assert!((-5_000..=i128::from(TOLERANCE)).contains(&ahead), "{ahead} ns");
            });
        }
    }

    #[test]
    fn time_goes_on_when_the_counter_steps_below_its_start() {
        in_world(|mut world| {
            world.pass(3 * SECOND);
            assert!(world.read().abs() <= 5_000);
            world.ticks.decrement(50 * SECOND);
            for _ in 0..3 {
                world.pass(SECOND);
                assert!(world.read().abs() <= 5_000);
            }
            assert!(world.is_abandoned());
        });
    }

    #[test]
    fn a_counter_that_jumps_ahead_is_not_followed() {
        in_world(|mut world| {
            world.pass(3 * SECOND);
            world.read();
            world.ticks.increment(3_600 * SECOND);
            world.pass(1);
            assert!(world.read() <= i128::from(INTERVAL + TOLERANCE));
            world.pass(INTERVAL);
            assert_eq!(world.read(), 0);
            assert!(world.is_abandoned());
        });
    }

    #[test]
    fn a_step_of_the_wall_clock_shows_within_a_second_and_moves_nothing_else() {
        in_world(|mut world| {
            world.pass(SECOND);
            world.read();
            for step in [3_600 * SECOND, (-7_200 * SECOND as i64) as u64] {
                world.real.wall.fetch_add(step, Relaxed);
                world.pass(SECOND);
                assert!(world.read().abs() <= 5_000);
                let read = i128::from(world.counter.now().unix);
                let real = i128::from(world.real.wall.load(Relaxed));
                assert!((read - real).abs() <= 5_000, "{read} and not {real}");
            }
        });
    }

    #[test]
    fn a_later_measurement_of_the_wall_clock_is_not_overwritten_by_an_earlier_one() {
        in_world(|world| {
            // As if another thread measured meanwhile.
            world.counter.wall.is_measuring.store(true, Relaxed);
            world.pass(2 * SECOND);
            let before = world.counter.now().unix;
            world.counter.wall.is_measuring.store(false, Relaxed);
            world.real.wall.fetch_add(SECOND, Relaxed);
            let later = world.counter.now().unix;
            assert!(
                later >= before + SECOND - 5_000,
                "the other thread has not counted as this one"
            );
        });
    }

    #[test]
    fn threads_that_measure_at_once_do_not_move_time_back() {
        let world = &World { drift: -150, ..World::new() };
        let (latest, is_over) = (&AtomicU64::new(0), &AtomicBool::new(false));
        let have_begun = &Barrier::new(5);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    have_begun.wait();
                    while !is_over.load(Relaxed) {
                        let seen = latest.load(Acquire);
                        let now = world.counter.now().monotonic;
                        assert!(now >= seen, "{now} after {seen}");
                        latest.fetch_max(now, Release);
                    }
                });
            }
            have_begun.wait();
            for _ in 0..2_000 {
                world.pass(100_000);
                thread::yield_now();
            }
            is_over.store(true, Relaxed);
        });
        assert!(!world.is_abandoned());
        // On a busy machine, the threads may have read no time for long.
        let now = world.counter.now().monotonic;
        assert!(now >= latest.load(Relaxed));
        let off = world.real.monotonic.load(Relaxed).abs_diff(now);
        assert!(off < 2 * INTERVAL, "{off}");
    }
}
