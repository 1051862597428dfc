//! Corrections and resets while units come back, beside a model that keeps every use for ever.

use std::time::{Duration, UNIX_EPOCH};

use proptest::{prelude::*, sample::Index};
use tokio::time::{Instant, advance};
use tower_quota::{Algorithm, Clock, Limiter, Policy, Quota, Reservation};

use crate::by_key::policy;

const UNITS: u64 = 8;
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
enum Step {
    Check(u64),
    Reserve(u64),
    /// Commits the reservation at an index, with the number of units that were used.
    Commit(Index, u64),
    Drop(Index),
    Reset,
    Advance(Duration),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let time = prop_oneof![
        3 => Just(Duration::ZERO),
        8 => (0..20_000_u64).prop_map(Duration::from_millis),
        1 => (0..90_u64).prop_map(Duration::from_secs),
    ];
    let step = prop_oneof![
        8 => (1..4_u64).prop_map(Step::Check),
        12 => (1..5_u64).prop_map(Step::Reserve),
        6 => (any::<Index>(), 0..6_u64).prop_map(|(index, units)| Step::Commit(index, units)),
        8 => any::<Index>().prop_map(Step::Drop),
        1 => Just(Step::Reset),
        14 => time.prop_map(Step::Advance),
    ];
    prop::collection::vec(step, 1..40)
}

/// Units that were used, when they were charged, and whether a reset came after that.
#[derive(Clone, Copy, Debug)]
struct Use {
    at: Duration,
    units: u64,
    was_reset: bool,
}

#[derive(Default)]
struct Model(Vec<Use>);

impl Model {
    fn add(&mut self, at: Duration, units: u64) -> usize {
        self.0.push(Use { at, units, was_reset: false });
        self.0.len() - 1
    }

    /// The most that may be left at a time, in thousandths.
    fn most_left(&self, algorithm: Algorithm, now: Duration) -> u64 {
        let uses = self.0.iter().filter(|used| !used.was_reset);
        let counted = |from: Duration| uses.clone().filter(move |used| used.at >= from);
        let used = match algorithm {
            Algorithm::TokenBucket => {
                let (mut missing, mut since) = (0_u128, Duration::ZERO);
                let refill = |time: Duration| time.as_nanos() * u128::from(UNITS);
                let mut uses: Vec<&Use> = uses.collect();
                uses.sort_by_key(|used| used.at);
                for used in uses {
                    missing = missing.saturating_sub(refill(used.at - since));
                    missing += u128::from(used.units) * WINDOW.as_nanos();
                    since = used.at;
                }
                let missing = missing.saturating_sub(refill(now - since));
                missing.div_ceil(WINDOW.as_nanos()) as u64
            }
            Algorithm::FixedWindow => {
                let start = Duration::from_secs(now.as_secs() / 60 * 60);
                counted(start).map(|used| used.units).sum()
            }
            _ => {
                let in_window = |used: &&Use| used.at + WINDOW > now;
                uses.filter(in_window).map(|used| used.units).sum()
            }
        };
        UNITS.saturating_sub(used)
    }
}

async fn run(algorithm: Algorithm, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let begin = Instant::now();
    let policy = policy("p", algorithm, Quota::per_window(UNITS, WINDOW));
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400));
    let limiter = Limiter::builder().clock(clock).policy(policy).build().unwrap();
    let mut model = Model::default();
    let mut under_way: Vec<(usize, Reservation)> = Vec::new();
    for step in steps {
        let now = begin.elapsed();
        match step {
            Step::Check(cost) => {
                if limiter.check("p", "a").cost(cost).at_once().unwrap().is_allowed() {
                    model.add(now, cost);
                }
            }
            Step::Reserve(cost) => {
                if let Ok(reservation) = limiter.reserve(["p"], "a").cost("p", cost).await {
                    under_way.push((model.add(now, cost), reservation));
                }
            }
            Step::Commit(index, units) if !under_way.is_empty() => {
                let (index, reservation) = under_way.swap_remove(index.index(under_way.len()));
                drop(reservation.commit([("p", units)]).await.unwrap());
                let Use { at, units: before, was_reset } = model.0[index];
                // A bucket owes more units from now on, and after a reset nothing is given back.
                if !was_reset {
                    model.0[index].units = before.min(units);
                }
                let at = if algorithm == Algorithm::TokenBucket { now } else { at };
                model.add(at, units.saturating_sub(before));
            }
            Step::Drop(index) if !under_way.is_empty() => {
                let (index, reservation) = under_way.swap_remove(index.index(under_way.len()));
                drop(reservation);
                let used = &mut model.0[index];
                used.units = if used.was_reset { used.units } else { 0 };
            }
            Step::Commit(..) | Step::Drop(_) => {}
            Step::Reset => {
                drop(limiter.reset("p", "a").at_once());
                model.0.iter_mut().for_each(|used| used.was_reset = true);
            }
            Step::Advance(time) => advance(time).await,
        }
        let left = limiter.peek("p", "a").await.unwrap().remaining();
        let most = model.most_left(algorithm, begin.elapsed());
        prop_assert!(left <= most, "{algorithm:?}: {left} are left, at most {most} may be");
        // The others round up, and give back less where uses overlap.
        if algorithm == Algorithm::FixedWindow {
            prop_assert_eq!(left, most);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever is committed, given back and reset, no more is left than a model allows that counts
    /// each use at its final cost.
    #[test]
    fn no_correction_frees_more_than_its_use_took(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
            runtime.block_on(run(algorithm, steps.clone()))?;
        }
    }
}

/// After the first reservation has given its units back, those of the second come back by the clock.
#[tokio::test(start_paused = true)]
async fn units_that_were_given_back_do_not_come_back_by_the_clock_as_well() {
    let policy = policy("p", Algorithm::TokenBucket, Quota::per_hour(4));
    let limiter =
        Limiter::builder().clock(Clock::tokio(UNIX_EPOCH)).policy(policy).build().unwrap();
    let reserve = async || limiter.reserve(["p"], "a").cost("p", 2).await.unwrap();
    let (first, second) = (reserve().await, reserve().await);
    drop(first);
    advance(Duration::from_secs(1_800)).await;
    assert!(limiter.check("p", "a").cost(2).at_once().unwrap().is_allowed());
    drop(second);
    assert_eq!(limiter.peek("p", "a").await.unwrap().remaining(), 2);
}

fn checks_only(quota: Quota) -> Limiter {
    let (clock, policy) = (Clock::tokio(UNIX_EPOCH), Policy::token_bucket("p", quota));
    Limiter::builder().clock(clock).check_only(policy).build().unwrap()
}

/// An empty bucket cannot record what another plan admits.
#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_dropped_does_not_hide_uses_under_another_plan() {
    let (small, large) = (Quota::per_day(5), Quota::per_day(100));
    for reserves in [false, true] {
        let limiter = checks_only(small);
        let check = |quota: Quota| limiter.check("p", "k").quota(quota).cost(5).at_once().unwrap();
        let reserve = || limiter.reserve(["p"], "k").quota("p", small).cost("p", 5).at_once();
        let held = reserves.then(|| reserve().unwrap());
        assert!((0..10).all(|_| check(large).is_allowed()));
        drop(held);
        let one = limiter.check("p", "k").quota(small).at_once().unwrap();
        assert!(!one.is_allowed(), "50 units were used, and the plan has 5");
    }
}

/// A plan that counts since a short time only has not recorded what was used before.
#[tokio::test(start_paused = true)]
async fn a_plan_gives_back_no_use_that_it_never_recorded() {
    let (fast, slow) = (Quota::per_second(10), Quota::per_day(100));
    let limiter = checks_only(fast);
    let mut held = Vec::new();
    for _ in 0..9 {
        let reserve = limiter.reserve(["p"], "k").quota("p", fast).cost("p", 10);
        held.push(reserve.at_once().unwrap());
        advance(Duration::from_secs(1)).await;
    }
    let check = |cost| limiter.check("p", "k").quota(slow).cost(cost).at_once().unwrap();
    assert!(check(90).is_allowed());
    drop(held);
    assert!(!check(11).is_allowed(), "90 of 100 a day are used");
}
