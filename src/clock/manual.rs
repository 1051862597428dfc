//! A clock that tests move by hand: [`ManualTime`].

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use slab::Slab;
use tokio::time::Instant;

use super::now::{Now, nanos};
use crate::lock::Mutex;

/// The time of all clones of a clock, and the timers that wait for it.
#[derive(Debug)]
pub(super) struct ManualTime {
    /// The moment of the monotonic time zero, from which deadlines are computed.
    origin: Instant,
    /// The wall clock's time at the origin, in nanoseconds.
    unix: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In nanoseconds since the origin.
    monotonic: u64,
    sleepers: Slab<Sleeper>,
}

#[derive(Debug)]
struct Sleeper {
    deadline: Instant,
    waker: Waker,
}

impl ManualTime {
    pub(super) fn new(unix: u64) -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), unix, state: Mutex::default() })
    }

    pub(super) fn now(&self) -> Now {
        let monotonic = self.state.lock().monotonic;
        Now { monotonic, unix: self.unix.saturating_add(monotonic) }
    }

    pub(super) fn instant(&self) -> Instant {
        self.instant_at(self.state.lock().monotonic)
    }

    #[expect(clippy::arithmetic_side_effects, reason = "584 years, the longest, lead to a moment")]
    fn instant_at(&self, monotonic: u64) -> Instant {
        self.origin + Duration::from_nanos(monotonic)
    }

    /// Moves the time, and wakes the timers that are due, in the order of their deadlines.
    pub(super) fn advance(&self, by: Duration) {
        let mut due: Vec<_> = {
            let mut state = self.state.lock();
            state.monotonic = state.monotonic.saturating_add(nanos(by));
            let now = self.instant_at(state.monotonic);
            let due = state.sleepers.iter().filter(|(_, sleeper)| sleeper.deadline <= now);
            due.map(|(_, sleeper)| (sleeper.deadline, sleeper.waker.clone())).collect()
        };
        due.sort_by_key(|(deadline, _)| *deadline);
        due.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// How many timers wait for a later time, to wake `waker`. It has data of its own, by which it is known:
    /// `will_wake` may be wrong, as a table of functions may be there twice.
    pub(super) fn sleeping(&self, waker: &Waker) -> usize {
        let state = self.state.lock();
        let now = self.instant_at(state.monotonic);
        let wakes =
            |sleeper: &Sleeper| sleeper.deadline > now && sleeper.waker.data() == waker.data();
        state.sleepers.iter().filter(|(_, sleeper)| wakes(sleeper)).count()
    }

    /// How long until the next timer is due; `None` if none waits.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.waits(&self.state.lock()).min()
    }

    /// How long each timer waits that is not due yet.
    fn waits(&self, state: &State) -> impl Iterator<Item = Duration> {
        let now = self.instant_at(state.monotonic);
        let sleepers = state.sleepers.iter();
        sleepers
            .map(move |(_, sleeper)| sleeper.deadline.saturating_duration_since(now))
            .filter(|wait| !wait.is_zero())
    }
}

/// A timer of a clock that is moved by hand.
#[derive(Debug)]
pub(crate) struct ManualSleep {
    time: Arc<ManualTime>,
    deadline: Instant,
    /// Its index among the sleepers; `None` while it does not wait.
    index: Option<usize>,
}

impl ManualSleep {
    pub(super) fn new(time: Arc<ManualTime>, deadline: Instant) -> Self {
        Self { time, deadline, index: None }
    }

    pub(super) fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if let Some(index) = self.index
            && let Some(sleeper) = self.time.state.lock().sleepers.get_mut(index)
        {
            sleeper.deadline = deadline;
        }
    }

    fn leave(&mut self, state: &mut State) {
        if let Some(index) = self.index.take() {
            state.sleepers.remove(index);
        }
    }
}

impl Future for ManualSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let time = Arc::clone(&this.time);
        let mut state = time.state.lock();
        if this.deadline <= time.instant_at(state.monotonic) {
            this.leave(&mut state);
            return Poll::Ready(());
        }
        let sleeper = Sleeper { deadline: this.deadline, waker: context.waker().clone() };
        match this.index.and_then(|index| state.sleepers.get_mut(index)) {
            Some(known) => *known = sleeper,
            None => this.index = Some(state.sleepers.insert(sleeper)),
        }
        Poll::Pending
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        let time = Arc::clone(&self.time);
        self.leave(&mut time.state.lock());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
    };

    use super::*;
    use crate::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_timer_wakes_when_the_time_has_come_and_not_before() {
        let clock = Clock::manual();
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let mut context = Context::from_waker(&waker);
        let mut timer = pin!(clock.timer(clock.instant() + SECOND).unwrap());
        assert!(timer.as_mut().poll(&mut context).is_pending());
        assert_eq!(clock.sleeping(Waker::noop()), 0, "of others");
        clock.advance(SECOND - Duration::from_nanos(1));
        assert_eq!((woken.0.load(SeqCst), clock.sleeping(&waker)), (0, 1));
        assert!(timer.as_mut().poll(&mut context).is_pending());
        clock.clone().advance(Duration::from_nanos(1));
        assert_eq!((woken.0.load(SeqCst), clock.sleeping(&waker)), (1, 0));
        assert!(timer.as_mut().poll(&mut context).is_ready());
        timer.reset(clock.instant() + SECOND);
        assert!(timer.as_mut().poll(&mut context).is_pending());
        timer.reset(clock.instant() + 2 * SECOND);
        clock.advance(SECOND);
        assert!(timer.as_mut().poll(&mut context).is_pending());
        assert_eq!(woken.0.load(SeqCst), 1, "its deadline is later now");
    }

    #[test]
    fn a_dropped_timer_is_forgotten() {
        let clock = Clock::manual();
        let mut timer = Box::pin(clock.timer(clock.instant() + SECOND).unwrap());
        let mut context = Context::from_waker(Waker::noop());
        assert!(timer.as_mut().poll(&mut context).is_pending());
        assert_eq!(clock.sleeping(Waker::noop()), 1);
        drop(timer);
        assert_eq!(clock.sleeping(Waker::noop()), 0);
    }

    #[test]
    fn both_clocks_move_together() {
        let clock = Clock::manual();
        let before = clock.now();
        clock.advance(90 * SECOND);
        let after = clock.now();
        assert_eq!(after.monotonic() - before.monotonic(), 90 * SECOND);
        assert_eq!(after.unix() - before.unix(), 90 * SECOND);
    }

    #[test]
    #[should_panic(expected = "this clock is the system's, and no test can move it")]
    fn the_systems_clock_is_not_moved() {
        Clock::system().advance(SECOND);
    }
}
