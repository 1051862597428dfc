//! Limits that are replaced beside threads that send requests, in real time: no result depends on
//! how fast the machine is.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tower_quota::{Category, Limiter, LimiterBuilder, Matcher, Policy, Quota};

use super::{ALGORITHMS, clock, daily, limits};
use crate::by_key::{policy, request};

const RELOADS: u64 = 1_000;
const THREADS: usize = 2;
/// Ends a test on a machine that is far too busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// In memory, and without a hold, the decision is there at once.
fn now<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the memory store answers at once"),
    }
}

/// Runs `work` in threads until `reload` was called often enough. They read the paused clock of this test.
fn beside(work: impl Fn() + Sync, reload: impl Fn(u64)) {
    let (is_over, start) = (AtomicBool::new(false), Barrier::new(THREADS + 1));
    let runtime = Handle::current();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let _clock = runtime.enter();
                start.wait();
                while !is_over.load(SeqCst) {
                    work();
                }
            });
        }
        start.wait();
        let began = Instant::now();
        for round in 0..RELOADS {
            reload(round);
            if began.elapsed() > PATIENCE {
                break;
            }
        }
        is_over.store(true, SeqCst);
        assert!(began.elapsed() <= PATIENCE, "{RELOADS} reloads take at most a minute");
    });
}

/// The clock stands still, so that all of the test is in one window.
#[tokio::test(start_paused = true)]
async fn never_more_passes_than_the_largest_quota_and_nothing_is_lost() {
    for algorithm in ALGORITHMS {
        // Of the first policy the quota changes, and the second is at another index each time.
        let of = |round: u64| {
            let units = [3_000, 2_000, 4_000, 1_000][round as usize % 4];
            let mut all =
                vec![policy("p", algorithm, Quota::per_day(units)), daily("all", 1_000_000)];
            all.extend((0..round % 3).map(|other| daily(&format!("other {other}"), 1_000_000)));
            all.rotate_left(round as usize % 2);
            limits(all)
        };
        let limiter = of(0).clock(clock()).build().unwrap();
        let head = request("/", "a");
        let (passed, without_limit) = (AtomicU64::new(0), AtomicU64::new(0));
        let work = || {
            let decision = now(limiter.decide(&head));
            let is_limited = |name| {
                decision.outcome(name).is_some_and(|outcome| {
                    name != "p" || [1_000, 2_000, 3_000, 4_000].contains(&outcome.limit())
                })
            };
            if !(is_limited("p") && is_limited("all")) {
                without_limit.fetch_add(1, SeqCst);
            }
            passed.fetch_add(u64::from(decision.is_allowed()), SeqCst);
        };
        beside(work, |round| drop(limiter.apply(of(round)).unwrap()));
        assert_eq!(without_limit.load(SeqCst), 0);
        limiter
            .apply(limits([policy("p", algorithm, Quota::per_day(4_000)), daily("all", 1_000_000)]))
            .unwrap();
        // Whatever the threads have not used before, they do now: nothing more, and nothing less.
        while now(limiter.decide(&head)).is_allowed() {
            passed.fetch_add(1, SeqCst);
        }
        assert_eq!(passed.load(SeqCst), 4_000, "{algorithm:?}");
        let used = now(limiter.peek("all", "a")).unwrap().remaining();
        assert_eq!(1_000_000 - used, 4_000, "each that passed was counted, and no other");
    }
}

/// Each rule set has its own categories at its own indices. A decision that mixed two of them would
/// count by the policy of another path, or panic.
#[tokio::test(start_paused = true)]
async fn no_decision_mixes_two_rule_sets() {
    const ALL: u64 = 5;
    let of = |round: u64| {
        let categories = (0..=round % ALL).map(|number| (number + round) % ALL);
        categories.fold(Limiter::builder(), |limits, number| {
            let category = Category::new(format!("c{number}"))
                .on(Matcher::path(&format!("/{number}")))
                .policy(daily(&format!("p{number}"), 1_000_000_000 + number));
            limits.category(category)
        })
    };
    let limiter: Limiter = LimiterBuilder::clock(of(4), clock()).build().unwrap();
    let handle = limiter.policy("p0").unwrap();
    let heads: Vec<_> = (0..ALL).map(|number| request(&format!("/{number}"), "a")).collect();
    let counted = AtomicU64::new(0);
    let work = || {
        for (number, head) in (0..ALL).zip(&heads) {
            let decision = now(limiter.decide(head));
            for outcome in decision.outcomes() {
                assert_eq!(outcome.policy(), format!("p{number}"));
                assert_eq!(outcome.limit(), 1_000_000_000 + number);
                counted.fetch_add(1, SeqCst);
            }
            let quotas: Vec<_> =
                decision.outcomes().filter_map(|outcome| outcome.quota_ref()).collect();
            for outcome in now(limiter.peek_quotas(&quotas, None)).outcomes() {
                assert_eq!(outcome.policy(), format!("p{number}"));
            }
            if let Ok(decision) = handle.check("a").at_once() {
                assert_eq!(decision.outcomes().next().unwrap().policy(), "p0");
                counted.fetch_add(1, SeqCst);
            }
        }
    };
    beside(work, |round| drop(limiter.apply(of(round)).unwrap()));
    limiter.apply(of(4)).unwrap();
    let used = (0..ALL).map(|number| {
        let left = now(limiter.peek(&format!("p{number}"), "a")).unwrap().remaining();
        1_000_000_000 + number - left
    });
    assert_eq!(used.sum::<u64>(), counted.load(SeqCst), "no count is lost");
}

/// Applies of two threads: each is whole, and the last one holds.
#[test]
fn applies_at_once_are_one_after_the_other() {
    let of = |name: &str| {
        let exports = Policy::fixed_window(format!("{name} exports"), Quota::per_day(1));
        limits([daily(name, 5)]).check_only(exports)
    };
    let limiter = of("first").build().unwrap();
    let changes: Vec<_> = thread::scope(|scope| {
        let threads = ["a", "b"].map(|name| {
            let (of, limiter) = (&of, &limiter);
            scope.spawn(move || {
                let all = (0..500).map(|round| {
                    limiter.apply(of(&format!("{name}{}", round % 2))).unwrap().to_string()
                });
                all.collect::<Vec<_>>()
            })
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    // What was added is removed by the next apply, so the numbers are equal but for the first and
    // the last.
    let lines = || changes.iter().flat_map(|told| told.lines());
    let count = |end: &str| lines().filter(|line| line.contains(end)).count();
    assert_eq!(count("exports`: added"), count("exports`: removed"));
    let names = format!("{limiter:?}");
    let last = ["a1", "b1"].map(|name| names.contains(&format!(r#""{name}", "{name} exports""#)));
    assert!(last[0] != last[1], "{names}");
}
