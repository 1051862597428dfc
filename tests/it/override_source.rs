//! Overrides that a source looks up: when a request waits for it, what holds while it is down, and that
//! they do what an operator's do.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use http::Request;
use proptest::prelude::*;
use tokio::time::{Instant, advance, sleep};
use tower_quota::{
    CheckError, Clock, Decision, Limiter, LimiterBuilder, Matcher, Policy, Quota, Reason,
    Rejection, Verdict,
    key::{Key, header},
    overrides::{CachedSource, OnSourceFailure, OverrideSource, SourceFuture, SourceOverrides},
    warning::{Code, Warning, warnings},
};

use crate::by_key::request;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);

/// What a database would be.
#[derive(Clone, Default)]
struct Database(Arc<Inner>);

#[derive(Default)]
struct Inner {
    rows: Mutex<HashMap<Vec<u8>, SourceOverrides>>,
    takes: Mutex<Duration>,
    state: Mutex<State>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Up,
    Fails,
    Hangs,
    Panics,
}

impl Database {
    fn set(&self, key: &str, overrides: SourceOverrides) {
        self.0.rows.lock().unwrap().insert(key.into(), overrides);
    }

    fn is(&self, state: State) {
        *self.0.state.lock().unwrap() = state;
    }

    fn asked(&self) -> usize {
        self.0.asked.swap(0, SeqCst)
    }
}

impl OverrideSource for Database {
    fn find(&self, caller: Key<'_>) -> SourceFuture {
        let (inner, key) = (Arc::clone(&self.0), caller.as_bytes().to_vec());
        inner.asked.fetch_add(1, SeqCst);
        let state = *inner.state.lock().unwrap();
        Box::pin(async move {
            let at_once = inner.at_once.fetch_add(1, SeqCst) + 1;
            inner.most_at_once.fetch_max(at_once, SeqCst);
            let takes = *inner.takes.lock().unwrap();
            sleep(takes).await;
            inner.at_once.fetch_sub(1, SeqCst);
            match state {
                State::Up => Ok(inner.rows.lock().unwrap().get(&key).cloned().unwrap_or_default()),
                State::Fails => Err("the database is down".into()),
                State::Hangs => pending().await,
                State::Panics => panic!("on purpose"),
            }
        })
    }
}

fn cached(database: &Database) -> CachedSource {
    CachedSource::new(database.clone()).fresh_for(10 * SECOND).max_age(HOUR).timeout(SECOND)
}

fn builder() -> LimiterBuilder {
    let policy = |name, quota| Policy::fixed_window(name, quota).key(header("x-key")).or_skip();
    Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH))
        .exempt(Matcher::get("/health"))
        .policy(policy("read", Quota::per_day(9)))
        .policy(policy("free", Quota::unlimited()))
        .check_only(Policy::token_bucket("jobs", Quota::per_day(9)))
        .caller(header("x-key"))
}

fn limiter(database: &Database) -> Limiter {
    builder().override_source(cached(database)).build().unwrap()
}

fn limits(decision: &Decision) -> Vec<(&str, u64)> {
    decision.outcomes().map(|outcome| (outcome.policy(), outcome.limit())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_miss_waits_for_the_source_and_what_is_remembered_does_not() {
    let database = Database::default();
    *database.0.takes.lock().unwrap() = SECOND / 4;
    database.set("a", SourceOverrides::new().quota("read", Quota::per_day(100)));
    let limiter = limiter(&database);
    let start = Instant::now();
    let decision = limiter.decide(&request("/", "a")).await;
    assert_eq!((decision.remaining(), start.elapsed()), (99, SECOND / 4));
    assert_eq!(decision.held(), Duration::ZERO, "it was not held");
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 98);
    assert_eq!((start.elapsed(), database.asked()), (SECOND / 4, 1));
    // A caller of whom the source knows nothing.
    assert_eq!(limiter.decide(&request("/", "b")).await.remaining(), 8);
    assert_eq!(limiter.decide(&request("/", "b")).await.remaining(), 7);
    assert_eq!(database.asked(), 1);
    // A request without a caller.
    let nobody = Request::get("/").body(()).unwrap().into_parts().0;
    assert!(limiter.decide(&nobody).await.is_allowed() && database.asked() == 0);
    // What is not fresh holds, and is looked up in the background.
    database.set("a", SourceOverrides::new().quota("read", Quota::per_day(50)));
    advance(10 * SECOND).await;
    let start = Instant::now();
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 97);
    assert_eq!(start.elapsed(), Duration::ZERO);
    sleep(SECOND).await;
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 46);
    assert_eq!(database.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_holds_in_each_way_of_asking() {
    let database = Database::default();
    database.set(
        "a",
        SourceOverrides::new()
            .quota("read", Quota::per_day(100))
            .quota("free", Quota::per_day(70))
            .quota("jobs", Quota::per_day(60)),
    );
    database.set("b", SourceOverrides::new().quota("read", Quota::unlimited()));
    database.set("c", SourceOverrides::new().block(HOUR));
    // Each first question of a caller is one that waits.
    let new = || limiter(&database);
    let decided = new().decide(&request("/", "a")).await;
    assert_eq!(limits(&decided), [("read", 100), ("free", 70)]);
    assert_eq!(limits(&new().decide(&request("/", "b")).await), []);
    assert_eq!(new().check("jobs", "a").await.unwrap().remaining(), 59);
    assert_eq!(new().peek("jobs", "a").await.unwrap().remaining(), 60);
    let peeked = new().peek_request(&request("/", "a")).await;
    assert_eq!(limits(&peeked), [("read", 100), ("free", 70)]);
    let limiter = new();
    let _ = limiter.check("jobs", "a").cost(50).await.unwrap();
    assert_eq!(limiter.give_back("jobs", "a", 20).await.unwrap().remaining(), 30);
    for path in ["/", "/health"] {
        let blocked = new().decide(&request(path, "c")).await;
        assert!(matches!(blocked.verdict(), Verdict::Blocked { wait } if wait == HOUR), "{path}");
    }
    assert_eq!(new().check("jobs", "c").await.unwrap().reason(), Some(Reason::Blocked));
    assert_eq!(new().peek("jobs", "c").await.unwrap().reason(), Some(Reason::Blocked));

    let limiter = new();
    let error = limiter.check("jobs", "a").at_once().unwrap_err();
    assert_eq!(error, CheckError::WouldWait);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(limiter.check("jobs", "a").at_once().unwrap().remaining(), 59);
    // The caller that cannot be read may be a blocked one.
    let twice = Request::get("/").header("x-key", "a").header("x-key", "b").body(()).unwrap();
    let refused = limiter.decide(&twice.into_parts().0).await;
    assert_eq!(refused.reason(), Some(Reason::UnreadableKey));
}

#[tokio::test(start_paused = true)]
async fn an_operators_quota_comes_before_the_sources_and_a_block_of_either_holds() {
    let database = Database::default();
    database.set("a", SourceOverrides::new().quota("read", Quota::per_day(50)));
    database.set("c", SourceOverrides::new().block(2 * SECOND));
    database.set("for ever", SourceOverrides::new().block(Duration::MAX));
    let limiter = limiter(&database);
    let of = |key| limiter.overrides().caller(key).unwrap();
    let decide = async |key| limiter.decide(&request("/", key)).await;
    let _ = of("a").set_quota("read", Quota::per_day(20), HOUR).await.unwrap();
    assert_eq!(limits(&decide("a").await), [("read", 20)]);
    let _ = of("a").restore_quota("read").await.unwrap();
    assert_eq!(limits(&decide("a").await), [("read", 50)]);
    let _ = of("a").block(HOUR).await.unwrap();
    assert_eq!(decide("a").await.retry_after(), Some(HOUR));
    assert_eq!(decide("c").await.retry_after(), Some(2 * SECOND));
    let _ = of("c").set_quota("read", Quota::per_day(20), HOUR).await.unwrap();
    advance(SECOND).await;
    assert_eq!(decide("c").await.retry_after(), Some(SECOND), "a quota lifts no block");
    advance(SECOND).await;
    assert!(decide("c").await.is_allowed());
    assert_eq!(decide("for ever").await.retry_after(), Some(366 * 24 * HOUR));
}

#[tokio::test(start_paused = true)]
async fn while_it_is_down_what_was_known_holds_and_then_what_is_set() {
    for (state, waits) in [(State::Fails, Duration::ZERO), (State::Hangs, SECOND)] {
        for on_failure in [OnSourceFailure::UsePlan, OnSourceFailure::Refuse] {
            let database = Database::default();
            database.set("a", SourceOverrides::new().quota("read", Quota::per_day(500)));
            let source = cached(&database).on_failure(on_failure);
            let limiter = builder().override_source(source).build().unwrap();
            let decide = async |key| {
                let start = Instant::now();
                (limiter.decide(&request("/", key)).await, start.elapsed())
            };
            assert_eq!(limits(&decide("a").await.0), [("read", 500)]);
            database.is(state);
            advance(HOUR - SECOND).await;
            let (decision, waited) = decide("a").await;
            assert_eq!((limits(&decision), waited), (vec![("read", 500)], Duration::ZERO));
            // Now it is too old, and so is what was never known.
            sleep(2 * SECOND).await;
            for key in ["a", "b"] {
                let (decision, waited) = decide(key).await;
                assert!((waits..waits + SECOND / 10).contains(&waited), "{waited:?}");
                match on_failure {
                    OnSourceFailure::UsePlan => assert_eq!(limits(&decision), [("read", 9)]),
                    _ => {
                        assert!(matches!(decision.verdict(), Verdict::SourceUnavailable));
                        #[cfg(feature = "describe")]
                        {
                            let explained = limiter.explain(&request("/", key)).await.to_string();
                            let why =
                                "The request is refused: the override source does not answer.";
                            assert!(explained.starts_with(why), "{explained}");
                        }
                        let rejection = Rejection::of(&decision).unwrap();
                        assert_eq!(rejection.status(), 503);
                        let text = rejection.to_string();
                        assert_eq!(
                            text,
                            "The source of the key's quotas does not answer. Retry after 1 second."
                        );
                    }
                }
                assert_eq!(decide(key).await.1, Duration::ZERO, "a second's pause");
            }
            database.is(State::Up);
            sleep(SECOND).await;
            assert_eq!(limits(&decide("a").await.0), [("read", 500)]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn look_ups_are_shared_by_the_requests_of_a_caller_and_bounded_in_all() {
    let database = Database::default();
    *database.0.takes.lock().unwrap() = SECOND / 10;
    let source = cached(&database).max_look_ups(4).max_callers(100).timeout(HOUR);
    let limiter = builder().override_source(source).build().unwrap();
    let ask = |key: String| {
        let limiter = limiter.clone();
        tokio::spawn(async move { limiter.decide(&request("/", &key)).await.is_allowed() })
    };
    let of_one: Vec<_> = (0..9).map(|_| ask("a".to_owned())).collect();
    for one in of_one {
        assert!(one.await.unwrap());
    }
    assert_eq!(database.asked(), 1);
    // A flood of callers that nobody knows.
    let flood: Vec<_> = (0..1_000).map(|number| ask(format!("{number}"))).collect();
    for one in flood {
        assert!(one.await.unwrap());
    }
    assert_eq!((database.asked(), database.0.most_at_once.load(SeqCst)), (1_000, 4));
    // A caller who leaves does not end the look-up of another one.
    let (leaves, stays) = (ask("z".to_owned()), ask("z".to_owned()));
    tokio::task::yield_now().await;
    leaves.abort();
    assert!(stays.await.unwrap());
    assert_eq!(database.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_quota_under_an_unknown_policy_is_warned_of() {
    let database = Database::default();
    database.set("a", SourceOverrides::new().quota("raed", Quota::per_day(1)));
    assert!(limiter(&database).decide(&request("/", "a")).await.is_allowed());
    let given = warnings();
    let of_name = |given: &&Warning| given.culprit() == "raed";
    let given = given.iter().find(of_name).expect("it is warned of");
    assert_eq!(given.code(), Code::UnknownOverridePolicy);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_has_not_answered() {
    let database = Database::default();
    database.is(State::Panics);
    let source = cached(&database).on_failure(OnSourceFailure::Refuse);
    let limiter = builder().override_source(source).build().unwrap();
    let refused = limiter.decide(&request("/", "a")).await;
    assert_eq!(refused.reason(), Some(Reason::SourceUnavailable));
    database.is(State::Up);
    sleep(2 * SECOND).await;
    assert!(limiter.decide(&request("/", "a")).await.is_allowed());
}

#[test]
fn without_a_runtime_it_counts_as_down() {
    let limiter = builder().clock(Clock::system()).override_source(cached(&Database::default()));
    let limiter = limiter.build().unwrap();
    assert_eq!(limiter.check("jobs", "a").at_once().unwrap().remaining(), 8);
}

#[test]
fn settings_that_cannot_work_are_errors() {
    let source = || CachedSource::new(Database::default());
    let build = |source| Limiter::builder().caller(header("x-key")).override_source(source).build();
    for (source, problem) in [
        (
            source().timeout(Duration::ZERO),
            "a time-out of 0 is over before it begins; write at least 1 ms",
        ),
        (
            source().max_age(SECOND),
            "an answer is fresh for longer than it holds; write a longer `max_age`",
        ),
        (source().max_callers(0), "it remembers no caller; write at least 1 in `max_callers`"),
        (source().max_look_ups(0), "it never asks; write at least 1 in `max_look_ups`"),
        (
            source().fresh_for(Duration::ZERO).max_age(Duration::ZERO),
            "no answer ever holds; write a longer `max_age`",
        ),
    ] {
        let error = build(source).unwrap_err().to_string();
        assert_eq!(error, format!("override source: {problem}"));
    }
    let error = Limiter::builder().override_source(source()).build().unwrap_err().to_string();
    assert_eq!(
        error,
        "override source: it is asked for the caller of a request, and none is known; add `.caller(…)`"
    );
}

fn quota() -> impl Strategy<Value = Option<Quota>> {
    let some = prop_oneof![
        Just(Quota::unlimited()),
        (0..4_u64).prop_map(Quota::per_day),
        (1..9_u64).prop_map(Quota::per_hour),
    ];
    proptest::option::of(some)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What a source says is awaited before the policies are evaluated anew; what an operator sets is
    /// known at once. Both lead to the same decisions.
    #[test]
    fn a_source_does_what_an_operator_does(
        policies in proptest::collection::vec((quota(), quota(), any::<bool>(), any::<bool>()), 1..5),
        blocked in proptest::bool::weighted(0.1),
        keys in proptest::collection::vec(0..3_usize, 1..12),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let names = ["p0", "p1", "p2", "p3"];
            let build = || {
                let mut builder = Limiter::builder().clock(Clock::tokio(UNIX_EPOCH));
                for (name, (base, _, is_dry_run, skips)) in names.iter().zip(&policies) {
                    // A quota of 0 units is no setting.
                    let base = base.filter(|base| base.units() > 0).unwrap_or(Quota::per_day(5));
                    let policy = Policy::fixed_window(*name, base).key(header("x-key"));
                    let policy = if *skips { policy.or_skip() } else { policy.or_refuse() };
                    builder = builder.policy(if *is_dry_run { policy.dry_run() } else { policy });
                }
                builder.caller(header("x-caller"))
            };
            let database = Database::default();
            let mut row = SourceOverrides::new();
            let operated = build().build().unwrap();
            let caller = operated.overrides().caller("a").unwrap();
            for (name, (_, own, ..)) in names.iter().zip(&policies) {
                if let Some(own) = own {
                    row = row.quota(*name, *own);
                    let _ = caller.set_quota(name, *own, HOUR).await.unwrap();
                }
            }
            if blocked {
                row = row.block(HOUR);
                let _ = caller.block(HOUR).await.unwrap();
            }
            database.set("a", row);
            let sourced = build().override_source(cached(&database).fresh_for(Duration::ZERO));
            let sourced = sourced.build().unwrap();
            for key in keys {
                let mut request = Request::get("/").header("x-caller", ["a", "b"][key % 2]);
                if key < 2 {
                    request = request.header("x-key", "k");
                }
                let request = request.body(()).unwrap().into_parts().0;
                let by_operator = operated.decide(&request).await;
                let by_source = sourced.decide(&request).await;
                let shown = |decision: &Decision| {
                    let each = decision.outcomes().chain(decision.dry_runs());
                    let each = each.map(|outcome| {
                        let numbers = (outcome.limit(), outcome.remaining(), outcome.reset());
                        format!("{} {numbers:?} {:?}", outcome.policy(), outcome.reason())
                    });
                    let each: Vec<_> = each.collect();
                    (decision.reason(), decision.retry_after(), each)
                };
                prop_assert_eq!(shown(&by_operator), shown(&by_source));
                let (by_operator, by_source) =
                    (operated.peek_request(&request).await, sourced.peek_request(&request).await);
                prop_assert_eq!(shown(&by_operator), shown(&by_source));
            }
            Ok(())
        })?;
    }
}
