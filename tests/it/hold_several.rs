//! Requests that several policies hold, beside a simple simulation.
#![cfg(feature = "testing")]

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use tokio::{
    task::{LocalSet, spawn_local, yield_now},
    time::{Instant, sleep, sleep_until},
};
use tower_quota::{
    AcquireError, Clock, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer,
    testing::TestClient,
};

const SECOND: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_secs(90);

/// When each job passes, in milliseconds; `Err` with the time of its refusal.
type Passed = Result<u64, u64>;

#[derive(Clone, Copy, Debug)]
struct Job {
    /// In milliseconds after the one before.
    later: u64,
    keys: [u8; 2],
    cost: u64,
    /// For how many milliseconds it keeps units in flight.
    works: u64,
}

/// A job that comes together with the one before.
fn job(works: u64) -> Job {
    Job { later: 0, keys: [0, 0], cost: 1, works }
}

/// Sends jobs that reserve units of two policies, `first` and `second`, from midnight on.
fn run(policies: [Policy; 2], jobs: &[Job]) -> Vec<Passed> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), async {
        let midnight = UNIX_EPOCH + Duration::from_secs(86_400);
        let limiter = Limiter::builder().clock(Clock::tokio(midnight)).max_held(1_000);
        let limiter =
            policies.into_iter().fold(limiter, LimiterBuilder::check_only).build().unwrap();
        let start = Instant::now();
        let now = move || (Instant::now() - start).as_millis() as u64;
        let passed = Rc::new(RefCell::new(vec![Err(u64::MAX); jobs.len()]));
        let mut tasks = Vec::new();
        let mut at = 0;
        for (place, job) in jobs.iter().copied().enumerate() {
            at += job.later;
            sleep_until(start + Duration::from_millis(at)).await;
            let (limiter, passed) = (limiter.clone(), Rc::clone(&passed));
            tasks.push(spawn_local(async move {
                let [first, second] = job.keys.map(|key| key.to_string());
                let reserve = limiter
                    .reserve(["first", "second"], "caller")
                    .key("first", first.as_str())
                    .key("second", second.as_str())
                    .cost("first", job.cost)
                    .cost("second", job.cost)
                    .keep_if_dropped();
                let reserved = reserve.await;
                passed.borrow_mut()[place] = match reserved {
                    Ok(_) => Ok(now()),
                    Err(AcquireError::Refused(_)) => Err(now()),
                    Err(error) => panic!("{error}"),
                };
                sleep(Duration::from_millis(job.works)).await;
                drop(reserved);
            }));
            // It has arrived when it has been polled.
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        passed.take()
    })
}

fn rates(name: &str) -> [Policy; 3] {
    let quota = Quota::per_minute(2);
    [Policy::sliding_window, Policy::fixed_window, Policy::token_bucket]
        .map(|algorithm| algorithm(name, quota))
}

#[test]
fn a_rate_and_units_in_flight_hold_together_what_each_of_them_holds_alone() {
    for seconds in [90, 600, 6_000] {
        let hold = Duration::from_secs(seconds);
        let passed =
            |policies: [Policy; 2]| run(policies.map(|policy| policy.hold(hold)), &[job(200); 4]);
        let [sliding, fixed, bucket] = rates("first");
        let flight = || Policy::in_flight("second", 1);
        // Uses in one sixtieth of a window leave it together.
        assert_eq!(passed([sliding, flight()]), [Ok(0), Ok(200), Ok(60_200), Ok(60_400)]);
        assert_eq!(passed([fixed, flight()]), [Ok(0), Ok(200), Ok(60_000), Ok(60_200)]);
        assert_eq!(passed([bucket, flight()]), [Ok(0), Ok(200), Ok(30_000), Ok(60_000)]);
        let [sliding, ..] = rates("second");
        let passed = passed([Policy::in_flight("first", 1), sliding]);
        assert_eq!(passed, [Ok(0), Ok(200), Ok(60_200), Ok(60_400)]);
    }
}

#[test]
fn a_hold_counts_what_a_policy_adds_to_the_waits_for_others() {
    let [_, fixed, _] = rates("first");
    let flight = |hold| Policy::in_flight("second", 1).hold(hold);
    let fixed = || fixed.clone().hold(300 * SECOND);
    let expected: Vec<_> = (0..8).map(|place| Ok(place / 2 * 60_000 + place % 2 * 200)).collect();
    assert_eq!(run([fixed(), flight(10 * SECOND)], &[job(200); 8]), expected);
    // The fourth waits a second for the third, and not longer.
    let passed = run([fixed(), flight(SECOND)], &[job(900), job(0), job(2_000), job(0)]);
    assert_eq!(passed, [Ok(0), Ok(900), Ok(60_000), Err(61_000)]);
    // The same for units that come back at a known time.
    let bucket = Policy::token_bucket("second", Quota::per_second(1).burst(1)).hold(SECOND);
    let after = |later| Job { later, ..job(0) };
    let jobs = [after(0), after(2_000), after(3_000), after(0), after(0)];
    let passed = run([fixed(), bucket], &jobs);
    // The bucket alone would let the fifth wait for two seconds.
    assert_eq!(passed, [Ok(0), Ok(2_000), Ok(60_000), Ok(61_000), Err(5_000)]);
}

#[test]
fn in_all_no_request_waits_longer_than_the_longest_hold() {
    let [_, fixed, _] = rates("first");
    let flight = Policy::in_flight("second", 1).hold(10 * SECOND);
    let passed = run([fixed.hold(61 * SECOND), flight], &[job(0), job(0), job(9_000), job(0)]);
    assert_eq!(passed, [Ok(0), Ok(0), Ok(60_000), Err(61_000)]);
}

#[test]
fn a_request_that_is_refused_after_its_hold_lets_those_behind_it_move_up() {
    let [_, fixed, _] = rates("first");
    let policies = [fixed.hold(200 * SECOND), Policy::in_flight("second", 1).hold(30 * SECOND)];
    let of = |key, works| Job { keys: [0, key], ..job(works) };
    // The second one waits for the unit of the first in vain. The third needs another.
    let passed = run(policies, &[of(0, 50_000), of(0, 0), of(1, 0), of(2, 0)]);
    assert_eq!(passed, [Ok(0), Err(30_000), Ok(30_000), Ok(60_000)]);
}

#[test]
fn a_layer_holds_what_two_rates_let_pass_within_their_holds() {
    let limiter = Limiter::builder()
        .clock(Clock::manual())
        .policy(Policy::fixed_window("minute", Quota::per_minute(3)).global().hold(HOLD))
        .policy(Policy::token_bucket("second", Quota::per_second(1).burst(1)).global().hold(HOLD))
        .build()
        .unwrap();
    let mut client = TestClient::new(RateLimitLayer::new(limiter));
    client.send(7, "/").expect_admitted(1).expect_held(5).expect_refused(1);
    client.expect_retry_after(120 * SECOND);
    for admitted in [2, 3] {
        client.advance(SECOND).expect_admitted(admitted);
    }
    client.advance(58 * SECOND).expect_admitted(4);
    client.advance(2 * SECOND).expect_admitted(6).expect_held(0);
}

#[test]
fn a_layer_holds_what_a_rate_and_units_in_flight_let_pass() {
    let limiter = Limiter::builder()
        .clock(Clock::manual())
        .policy(Policy::fixed_window("rate", Quota::per_minute(2)).global().hold(HOLD))
        .policy(Policy::in_flight("flight", 1).global().hold(HOLD))
        .build()
        .unwrap();
    let mut client = TestClient::new(RateLimitLayer::new(limiter));
    client.open(4, "/").expect_admitted(1).expect_held(3);
    client.close().expect_admitted(2).close().expect_held(2);
    client.advance(60 * SECOND).expect_admitted(3).close().expect_admitted(4).close();
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Bucket,
    Fixed,
    Sliding,
    InFlight,
}

/// A quota whose times are whole milliseconds, as tokio's timers are.
#[derive(Clone, Copy, Debug)]
struct Rule {
    algorithm: Algorithm,
    units: u64,
    window: u64,
}

/// Units that were used, and when.
#[derive(Clone, Copy, Debug)]
struct Use {
    at: u64,
    ends: u64,
    cost: u64,
}

impl Rule {
    fn policy(self, name: &str, hold: u64) -> Policy {
        let quota = Quota::per_window(self.units, Duration::from_millis(self.window));
        let policy = match self.algorithm {
            Algorithm::Bucket => Policy::token_bucket(name, quota),
            Algorithm::Fixed => Policy::fixed_window(name, quota),
            Algorithm::Sliding => Policy::sliding_window(name, quota),
            Algorithm::InFlight => Policy::in_flight(name, self.units),
        };
        policy.hold(Duration::from_millis(hold))
    }

    /// The first time from `now` on at which this cost fits, if no unit is used meanwhile.
    fn fits_at(self, uses: &[Use], cost: u64, now: u64) -> u64 {
        let Self { algorithm, units, window } = self;
        if let Algorithm::Bucket = algorithm {
            // In units of 1/window: a millisecond adds `units` of these.
            let (mut level, mut last) = (units * window, 0);
            for used in uses {
                level = (level + (used.at - last) * units).min(units * window);
                level = level.checked_sub(used.cost * window).expect("never overdrawn");
                last = used.at;
            }
            let level = (level + (now - last) * units).min(units * window);
            return match cost > units {
                true => u64::MAX,
                false => now + (cost * window).saturating_sub(level).div_ceil(units),
            };
        }
        let step = |at: u64| at * 60 / window;
        let comes_back = |used: &Use| match algorithm {
            Algorithm::Fixed => (used.at / window + 1) * window,
            // Uses in one step leave the window with the last of them.
            Algorithm::Sliding => {
                let same = uses.iter().filter(|other| step(other.at) == step(used.at));
                same.map(|other| other.at).max().unwrap() + window
            }
            _ => used.ends,
        };
        let back: Vec<_> = uses.iter().map(|used| (comes_back(used), used.cost)).collect();
        let used_at = |at| back.iter().filter(|used| used.0 > at).map(|used| used.1).sum::<u64>();
        assert!(used_at(now) <= units, "{self:?}: {uses:?}");
        let later = back.iter().map(|used| used.0).filter(|back| *back > now);
        let times = std::iter::once(now).chain(later);
        times.filter(|at| used_at(*at) + cost <= units).min().unwrap_or(u64::MAX)
    }
}

/// When each job passes, in order of arrival: as soon as its units fit under both rules, beside those
/// that earlier jobs wait for.
fn simulate(rules: [Rule; 2], jobs: &[Job]) -> Vec<u64> {
    let mut uses: [[Vec<Use>; 3]; 2] = Default::default();
    let mut arrivals = Vec::new();
    for job in jobs {
        arrivals.push(arrivals.last().copied().unwrap_or(0) + job.later);
    }
    let mut passed = vec![u64::MAX; jobs.len()];
    let mut now = 0;
    while passed.contains(&u64::MAX) {
        let mut next = arrivals.iter().copied().filter(|at| *at > now).min().unwrap_or(u64::MAX);
        let mut ahead = [[0; 3]; 2];
        for place in 0..jobs.len() {
            if arrivals[place] > now || passed[place] < u64::MAX {
                continue;
            }
            let Job { keys, cost, works, .. } = jobs[place];
            let places = [0, 1].map(|which| (which, usize::from(keys[which])));
            let fits = places.map(|(which, key)| {
                rules[which].fits_at(&uses[which][key], ahead[which][key] + cost, now)
            });
            if fits == [now, now] {
                passed[place] = now;
                let used = Use { at: now, ends: now + works, cost };
                places.iter().for_each(|(which, key)| uses[*which][*key].push(used));
            } else {
                fits.into_iter().filter(|at| *at > now).for_each(|at| next = next.min(at));
                places.iter().for_each(|(which, key)| ahead[*which][*key] += cost);
            }
        }
        assert!(next > now && (next < u64::MAX || !passed.contains(&u64::MAX)));
        now = next;
    }
    passed
}

fn rule() -> impl Strategy<Value = Rule> {
    let algorithm = prop_oneof![
        Just(Algorithm::Bucket),
        Just(Algorithm::Fixed),
        Just(Algorithm::Sliding),
        Just(Algorithm::InFlight)
    ];
    // A unit is a whole number of milliseconds, and so is a sixtieth of a window.
    let window = prop_oneof![Just(600), Just(1_200), Just(6_000)];
    let units = prop_oneof![Just(1), Just(2), Just(3), Just(5), Just(10)];
    (algorithm, units, window).prop_map(|(algorithm, units, window)| Rule {
        algorithm,
        units,
        window,
    })
}

fn jobs() -> impl Strategy<Value = Vec<Job>> {
    let later = prop_oneof![3 => Just(0), 3 => 0..100_u64, 1 => 0..2_000_u64];
    let keys = prop_oneof![2 => Just([0, 0]), 1 => [0..3_u8, 0..3_u8]];
    let cost = prop_oneof![5 => Just(1), 1 => 1..4_u64];
    let works = prop_oneof![1 => Just(1), 3 => 1..300_u64, 1 => 1..2_000_u64];
    let job = (later, keys, cost, works).prop_map(|(later, keys, cost, works)| Job {
        later,
        keys,
        cost,
        works,
    });
    prop::collection::vec(job, 1..50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// The holds are as long as the longest wait, so each job passes, and when the simulation says.
    #[test]
    fn each_job_passes_as_soon_as_its_units_fit_under_both(
        rules in [rule(), rule()],
        mut jobs in jobs(),
    ) {
        let most = rules[0].units.min(rules[1].units);
        jobs.iter_mut().for_each(|job| job.cost = job.cost.min(most));
        let expected = simulate(rules, &jobs);
        let mut at = 0;
        let waits = jobs.iter().zip(&expected).map(|(job, passed)| {
            at += job.later;
            passed - at
        });
        // A unit in flight may come back in the same millisecond in which the hold ends.
        let hold = waits.max().unwrap() + 1;
        let policies = [rules[0].policy("first", hold), rules[1].policy("second", hold)];
        let expected: Vec<Passed> = expected.into_iter().map(Ok).collect();
        prop_assert_eq!(run(policies, &jobs), expected);
    }
}
