//! Promises to a key whose plan changes, each as a property over random plans and uses.

use std::{collections::BTreeSet, iter};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::runtime::Runtime;

use super::{calendars::or_by_calendar, *};

/// Up to as many plans as a key tracks.
const PLANS: std::ops::Range<usize> = 1..5;

/// One request of a key: after so many thousandths of the first plan's window, it charges so many
/// units under one of the plans.
#[derive(Clone, Debug)]
struct Step {
    later: u64,
    plan: usize,
    cost: u64,
}

#[derive(Clone, Debug)]
struct Life {
    algorithm: Algorithm,
    plans: Vec<Quota>,
    steps: Vec<Step>,
}

fn lives() -> impl Strategy<Value = Life> {
    let window = prop_oneof![Just(1), Just(7), Just(60), Just(3_600), 1..100_000_u64];
    let of = |(units, seconds)| Quota::per_window(units, Duration::from_secs(seconds));
    let quota = (1..30_u64, window).prop_map(of);
    let quota = (quota.clone(), or_by_calendar(quota), prop::option::of(1..40_u64));
    let plans = prop::collection::vec(quota, PLANS);
    let steps = (prop_oneof![Just(0), 0..30_u64, 0..1_500_u64], 0..4_usize, 0..12_u64);
    let steps = steps.prop_map(|(later, plan, cost)| Step { later, plan, cost });
    let steps = prop::collection::vec(steps, 1..60);
    (prop::sample::select(&ALGORITHMS[..]), plans, steps).prop_map(|(algorithm, plans, steps)| {
        let quota = |(quota, fixed, burst): (Quota, Quota, Option<u64>)| match algorithm {
            TokenBucket => burst.map_or(quota, |burst| quota.burst(burst)),
            FixedWindow => fixed,
            SlidingWindow | InFlight => quota,
        };
        Life { algorithm, plans: plans.into_iter().map(quota).collect(), steps }
    })
}

/// A use that was admitted: when, how much, and under which plan.
type Use = (u64, u64, usize);

impl Life {
    fn charge(&self, subject: &Subject<'_>, number: u64, plan: usize, cost: u64) -> Charge {
        let quota = self.plans[plan % self.plans.len()];
        Charge { cost, ..subject.one(number, self.algorithm, quota) }
    }

    /// So many thousandths of the first plan's window.
    fn micros(&self, later: u64) -> u64 {
        self.plans[0].window().as_micros() as u64 / 1_000 * later
    }

    /// Makes all steps, and returns what was admitted.
    async fn run(&self, subject: &Subject<'_>) -> Vec<Use> {
        let mut admitted = Vec::new();
        for &Step { later, plan, cost } in &self.steps {
            subject.advance(self.micros(later));
            if subject.charge_one(self.charge(subject, 1, plan, cost)).await.0 == 0 {
                admitted.push((subject.micros(), cost, plan % self.plans.len()));
            }
        }
        admitted
    }

    /// The most that a plan admits within an interval that begins and ends with a use.
    fn max_admitted(&self, plan: usize, from: u64, to: u64) -> u64 {
        let quota = &self.plans[plan];
        let window = quota.window().as_micros() as u64;
        match self.algorithm {
            TokenBucket => {
                let refill = u128::from(to - from) * u128::from(quota.units());
                quota.capacity() + (refill / u128::from(window)) as u64
            }
            FixedWindow => {
                let start = quota.window_start(from * 1_000);
                let ends = iter::successors(Some(start), |end| Some(quota.windows_end(*end, 1)));
                // No life uses as much as a thousand windows admit.
                let windows = ends.take_while(|start| *start <= to * 1_000).take(1_000).count();
                quota.units() * windows as u64
            }
            SlidingWindow | InFlight => quota.units() * ((to - from) / window + 1),
        }
    }
}

use Algorithm::*;

/// (a) A retry passes after the wait, and not earlier.
async fn a_retry_passes_after_the_wait_and_not_earlier(subject: &Subject<'_>, life: &Life) {
    life.run(subject).await;
    for plan in 0..life.plans.len() {
        let cost = life.algorithm.capacity(&life.plans[plan]).min(3);
        let charge = life.charge(subject, 1, plan, cost);
        let (wait, ..) = subject.charge_one(charge).await;
        if wait > 0 {
            subject.advance(wait - 1);
            assert!(subject.charge_one(charge).await.0 > 0, "{charge:?} passes early");
            subject.advance(1);
            assert_eq!(subject.charge_one(charge).await.0, 0, "{charge:?} after {wait} us");
        }
    }
}

/// (b) No key is locked out longer than a fresh key that has used all it can.
async fn no_key_is_locked_out_longer_than_a_fresh_one(subject: &Subject<'_>, life: &Life) {
    life.run(subject).await;
    for plan in 0..life.plans.len() {
        let one = life.charge(subject, 1, plan, 1);
        let all = life.algorithm.capacity(&one.quota);
        let fresh = life.charge(subject, 2 + plan as u64, plan, all);
        assert_eq!(subject.charge_one(fresh).await.0, 0);
        let longest = subject.peek(Charge { cost: 1, ..fresh }).await.0;
        let wait = subject.charge_one(one).await.0;
        assert!(wait <= longest, "{one:?} waits {wait} us, a fresh one {longest} us");
    }
}

/// (c) A key that switches away and back has no more left than a key that stayed and used less.
async fn to_switch_away_and_back_frees_nothing(subject: &Subject<'_>, life: &Life) {
    for &Step { later, plan, cost } in &life.steps {
        subject.advance(life.micros(later));
        let admitted = subject.charge_one(life.charge(subject, 1, plan, cost)).await.0 == 0;
        if admitted && plan % life.plans.len() == 0 {
            subject.correct_one(life.charge(subject, 2, 0, 1), None, Change::Take(cost)).await;
        }
        let switches = subject.peek(life.charge(subject, 1, 0, 1)).await.1;
        let stays = subject.peek(life.charge(subject, 2, 0, 1)).await.1;
        // The plan begins with what the other plans have used.
        assert!(switches <= stays, "{switches} are left after switching, {stays} after staying");
    }
}

/// (d) As long as a bucket has not been empty, its refill is that of a key that has stayed.
async fn no_refill_is_lost_or_won(subject: &Subject<'_>, life: &Life) {
    let stays = life.charge(subject, 2, 0, 0);
    let mut was_empty = false;
    // Both keys begin under the first plan, which one of them keeps.
    for number in [1, 2] {
        subject.charge_one(life.charge(subject, number, 0, 1)).await;
    }
    for &Step { later, plan, cost } in &life.steps {
        let later = life.micros(later);
        // A key of which all has come back is forgotten, with all of its plans.
        let left = subject.peek(stays).await;
        subject.advance(if left.1 + 1 < stays.quota.capacity() { later.min(left.2) } else { 0 });
        if subject.charge_one(life.charge(subject, 1, plan, cost)).await.0 == 0 {
            let left = subject.peek(stays).await.1;
            was_empty |= cost > left;
            subject.correct_one(stays, None, Change::Take(cost)).await;
        }
        if was_empty || life.algorithm != TokenBucket {
            break;
        }
        let switches = subject.peek(life.charge(subject, 1, 0, 0)).await;
        assert_eq!(switches, subject.peek(stays).await);
    }
}

/// (e) In no interval is more admitted than the plans used in it admit together.
async fn no_interval_has_more_than_its_plans_admit(subject: &Subject<'_>, life: &Life) {
    let admitted = life.run(subject).await;
    for (first, &(from, ..)) in admitted.iter().enumerate() {
        let mut used = 0;
        let mut plans = BTreeSet::new();
        for &(to, cost, plan) in &admitted[first..] {
            used += cost;
            plans.insert(plan);
            let most: u64 = plans.iter().map(|plan| life.max_admitted(*plan, from, to)).sum();
            assert!(used <= most, "{used} from {from} to {to}, where {plans:?} admit {most}");
        }
    }
}

/// A plan whose window holds all of a life, and is no window of another plan.
const LONGEST_PLAN: Quota = Quota::per_window(1_000, Duration::from_secs(50 * 365 * 86_400));

impl Life {
    /// The same life, and a window that counts all of it beside the others.
    fn with_longest_plan(&self) -> Self {
        let mut life = self.clone();
        if life.algorithm != TokenBucket {
            life.plans.truncate(PLANS.end - 2);
            life.plans.insert(0, LONGEST_PLAN);
        }
        life
    }

    /// When a plan's window began that holds a time; for a bucket that never does, 0.
    fn counts_since(&self, plan: usize, at: u64) -> u64 {
        let quota = &self.plans[plan];
        match self.algorithm {
            TokenBucket => 0,
            FixedWindow => quota.window_start(at * 1_000) / 1_000,
            // The use at its beginning has just left.
            SlidingWindow | InFlight => (at + 1).saturating_sub(quota.window().as_micros() as u64),
        }
    }

    /// The most that buckets admit of a burst, and then of a refill, from one time to another.
    fn largest_bucket(&self, plans: &BTreeSet<usize>, from: u64, to: u64) -> u64 {
        let burst = plans.iter().map(|plan| self.plans[*plan].capacity()).max().unwrap();
        let refill = |plan: &usize| {
            let quota = &self.plans[*plan];
            let parts = u128::from(to - from) * u128::from(quota.units());
            (parts / quota.window().as_micros()) as u64
        };
        burst + plans.iter().map(refill).max().unwrap()
    }
}

/// (f) What passes under a plan fits in its window beside all that any plan has admitted there. Of
/// buckets, no interval has more than the largest burst and the fastest refill.
async fn no_switch_frees_what_a_plan_has_counted(subject: &Subject<'_>, life: &Life) {
    let life = life.with_longest_plan();
    // So short that little comes back in a bucket: in a window, all does.
    let thousandth = match life.algorithm {
        TokenBucket => life.micros(1) / 100,
        _ => life.plans[life.plans.len() - 1].window().as_micros() as u64 / 1_000,
    };
    subject.charge_one(life.charge(subject, 1, 0, 1)).await;
    let mut admitted: Vec<Use> = vec![(subject.micros(), 1, 0)];
    for &Step { later, plan, cost } in &life.steps {
        subject.advance(thousandth * later);
        let (now, plan) = (subject.micros(), plan % life.plans.len());
        if subject.charge_one(life.charge(subject, 1, plan, cost)).await.0 > 0 || cost == 0 {
            continue;
        }
        admitted.push((now, cost, plan));
        let (mut used, mut plans) = (0, BTreeSet::new());
        let since = life.counts_since(plan, now);
        for &(from, cost, of) in admitted.iter().rev().take_while(|(at, ..)| *at >= since) {
            used += cost;
            plans.insert(of);
            let most = match life.algorithm {
                TokenBucket => life.largest_bucket(&plans, from, now),
                _ => life.plans[plan].units(),
            };
            assert!(used <= most, "{used} from {from} to {now}, under {plans:?}, at most {most}");
        }
    }
}

/// (g) A new window begins with no more than any window counts that began no later.
async fn no_switch_counts_what_a_window_has_passed(subject: &Subject<'_>, life: &Life) {
    if life.algorithm == TokenBucket {
        return;
    }
    life.run(subject).await;
    let window = life.plans[0].window();
    for quota in [life.plans[0].with_units(10_000), Quota::per_window(10_000, window / 2)] {
        let new = subject.one(1, life.algorithm, quota);
        let used = 10_000 - subject.peek(new).await.1;
        let since =
            |quota| Life { plans: vec![quota], ..life.clone() }.counts_since(0, subject.micros());
        for plan in (0..life.plans.len()).filter(|plan| since(life.plans[*plan]) <= since(quota)) {
            let left = subject.peek(life.charge(subject, 1, plan, 0)).await.1;
            let counted = life.plans[plan].units() - left;
            let is_tracked = life.steps.iter().any(|step| step.plan % life.plans.len() == plan);
            assert!(
                used <= counted || left == 0 || !is_tracked,
                "{quota:?} begins with {used}, and {:?} counts {counted}",
                life.plans[plan],
            );
        }
    }
}

/// Checks each promise for so many random lives.
pub(crate) fn keeps_what_plans_promise(store: &dyn Store, runtime: &Runtime, cases: u32) {
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let run = |promise: &dyn Fn(&Subject<'_>, &Life)| {
        let result = TestRunner::new(config.clone()).run(&lives(), |life| {
            promise(&Subject::new(store), &life);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{error}"));
    };
    macro_rules! promises {
        ($($promise:ident)*) => {
            $(run(&|subject, life| runtime.block_on($promise(subject, life)));)*
        };
    }
    promises!(
        a_retry_passes_after_the_wait_and_not_earlier
        no_key_is_locked_out_longer_than_a_fresh_one
        to_switch_away_and_back_frees_nothing
        no_refill_is_lost_or_won
        no_interval_has_more_than_its_plans_admit
        no_switch_frees_what_a_plan_has_counted
        no_switch_counts_what_a_window_has_passed
    );
}
