//! What a limiter records with the `metrics` facade.
#![cfg(feature = "metrics")]

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use http::{Request, request::Parts};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::sleep;
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, Now, OnStoreFailure, Policy, Quota,
    key::header,
    store::{Charge, Correction, MemoryStore, Store, StoreError, StoreFuture},
};

const SECRET: &str = "sk_live_secret";

/// All that was recorded since the beginning.
struct Recorded {
    /// Tells what is new.
    snapshotter: Snapshotter,
    series: RefCell<BTreeMap<String, Told>>,
}

impl Recorded {
    /// All series as `name{label=value,…}`.
    fn series(&self) -> BTreeMap<String, Told> {
        let mut series = self.series.borrow_mut();
        for (key, _, help, value) in self.snapshotter.snapshot().into_vec() {
            let key = key.key();
            assert!(help.is_some(), "{key} says what it is");
            let labels = key.labels().map(|label| format!("{}={}", label.key(), label.value()));
            let labels = labels.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(",");
            let told = series.entry(format!("{}{{{labels}}}", key.name()));
            match (value, told.or_insert_with_key(|name| Told::nothing(name))) {
                (DebugValue::Counter(new), Told::Count(count)) => *count += new,
                (DebugValue::Gauge(change), Told::Level(level)) => *level += change.0,
                (DebugValue::Histogram(new), Told::Times(times)) => {
                    times.extend(new.iter().map(|time| time.0));
                }
                (value, told) => panic!("{key} is {value:?}, not {told:?}"),
            }
        }
        series.clone()
    }

    /// Keys in the store, and requests that wait.
    fn levels(&self) -> [Told; 2] {
        let series = self.series();
        ["tower_quota_live_keys{}", "tower_quota_held_requests{}"].map(|name| series[name].clone())
    }
}

/// Runs `story` on a paused clock, with a recorder of its own.
fn record(story: impl AsyncFnOnce(&Recorded)) -> BTreeMap<String, Told> {
    let recorder = DebuggingRecorder::new();
    let recorded = Recorded { snapshotter: recorder.snapshotter(), series: RefCell::default() };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(story(&recorded)));
    recorded.series()
}

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Count(u64),
    Level(f64),
    Times(Vec<f64>),
}

impl Told {
    /// What a series of this name begins with.
    fn nothing(name: &str) -> Self {
        match name {
            _ if name.contains("_total{") => Self::Count(0),
            _ if name.contains("_seconds{") => Self::Times(Vec::new()),
            _ => Self::Level(0.0),
        }
    }
}

/// The decisions that there were, without the series that stayed at 0.
fn decisions(series: &BTreeMap<String, Told>) -> Vec<(&str, u64)> {
    let counted = series.iter().filter_map(|(name, told)| match told {
        Told::Count(count) => Some((name.strip_prefix("tower_quota_decisions_total")?, *count)),
        _ => None,
    });
    counted.filter(|(_, count)| *count > 0).collect()
}

fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200)))
}

fn to(path: &str, key: &str) -> Parts {
    Request::get(path).header("x-key", key).body(()).unwrap().into_parts().0
}

fn per_key(name: &str, quota: Quota) -> Policy {
    Policy::sliding_window(name, quota).key(header("x-key")).or_refuse()
}

#[test]
fn reloads_are_counted_and_the_counts_of_policies_go_on() {
    let series = record(async |recorded| {
        let of = |category: &str, units| {
            let policy = Policy::fixed_window("p", Quota::per_hour(units)).global();
            let category = Category::new(category).on(Matcher::path("/")).policy(policy);
            Limiter::builder().category(category)
        };
        let limiter = of("first", 9).clock(Clock::tokio(UNIX_EPOCH)).build().unwrap();
        let head = Request::get("/").body(()).unwrap().into_parts().0;
        assert!(limiter.decide(&head).await.is_allowed());
        limiter.apply(of("first", 8)).unwrap();
        assert!(limiter.decide(&head).await.is_allowed());
        let reloads = |result| {
            recorded.series()[&format!("tower_quota_reloads_total{{result={result}}}")].clone()
        };
        assert_eq!([reloads("applied"), reloads("failed")], [Told::Count(1), Told::Count(0)]);
        limiter.apply(of("first", 0)).unwrap_err();
        limiter.apply(of("second", 8)).unwrap();
        assert!(limiter.decide(&head).await.is_allowed());
        assert_eq!([reloads("applied"), reloads("failed")], [Told::Count(2), Told::Count(1)]);
    });
    let allowed = |category| {
        series[&format!(
            "tower_quota_decisions_total{{category={category},policy=p,verdict=allowed}}"
        )]
            .clone()
    };
    assert_eq!([allowed("first"), allowed("second")], [Told::Count(2), Told::Count(1)]);
}

/// A charge that had no room is not counted again after a reload.
#[test]
fn what_was_reported_of_a_full_store_is_not_reported_again_after_a_reload() {
    let series = record(async |_| {
        let of = || Limiter::builder().check_only(Policy::fixed_window("p", Quota::per_hour(1)));
        let store = MemoryStore::with_max_keys(1);
        let limiter = of().store(store).clock(Clock::tokio(UNIX_EPOCH)).build().unwrap();
        for key in 0..1_000 {
            let _ = limiter.check("p", &*key.to_string()).at_once().unwrap();
        }
        limiter.update_gauges();
        limiter.apply(of()).unwrap();
        limiter.update_gauges();
        let overflowed = limiter.policy("p").unwrap().overflowed().unwrap();
        assert!(overflowed > 0);
        metrics::counter!("expected_total").increment(overflowed);
        metrics::describe_counter!("expected_total", "what the store says");
    });
    assert_eq!(series["tower_quota_overflowed_total{policy=p}"], series["expected_total{}"]);
}

#[test]
fn decisions_are_counted_by_policy_category_and_verdict() {
    let series = record(async |_| {
        let limiter = builder()
            .exempt(Matcher::get("/health"))
            .policy(per_key("each", Quota::per_minute(3)))
            .category(
                Category::new("read")
                    .on(Matcher::get("/read"))
                    .policy(per_key("read", Quota::per_minute(2)))
                    .policy(per_key("tried", Quota::per_minute(1)).dry_run()),
            )
            .category(
                Category::new("search")
                    .on(Matcher::get("/search"))
                    .policy(per_key("search", Quota::per_minute(9))),
            )
            .check_only(Policy::sliding_window("delivery", Quota::per_hour(1)))
            .build()
            .unwrap();
        for _ in 0..3 {
            let _ = limiter.decide(&to("/read", SECRET)).await;
        }
        let _ = limiter.decide(&to("/other", SECRET)).await;
        let _ = limiter.decide(&to("/search", SECRET)).await;
        let _ = limiter.decide(&to("/search", "")).await;
        let mut twice = to("/search", SECRET);
        twice.headers.append("x-key", SECRET.parse().unwrap());
        let _ = limiter.decide(&twice).await;
        let _ = limiter.decide(&to("/health", SECRET)).await;
        for _ in 0..2 {
            let _ = limiter.check("delivery", SECRET).await.unwrap();
        }
        // These use nothing, or take back.
        let _ = limiter.peek("delivery", SECRET).await.unwrap();
        let _ = limiter.give_back("delivery", SECRET, 1).await.unwrap();
        limiter.reset("delivery", SECRET).await.unwrap_err();
        let _ = limiter.peek("tried", SECRET).await.unwrap();
    });
    let expected = [
        ("{category=,policy=delivery,verdict=allowed}", 1),
        ("{category=,policy=delivery,verdict=refused}", 1),
        ("{category=,policy=each,verdict=allowed}", 1),
        ("{category=read,policy=each,verdict=allowed}", 3),
        ("{category=read,policy=read,verdict=allowed}", 2),
        ("{category=read,policy=read,verdict=refused}", 1),
        ("{category=read,policy=tried,verdict=dry_run_allowed}", 1),
        ("{category=read,policy=tried,verdict=dry_run_refused}", 2),
        ("{category=search,policy=each,verdict=missing_key}", 1),
        ("{category=search,policy=each,verdict=refused}", 1),
        ("{category=search,policy=each,verdict=unreadable_key}", 1),
        ("{category=search,policy=search,verdict=allowed}", 1),
        ("{category=search,policy=search,verdict=missing_key}", 1),
        ("{category=search,policy=search,verdict=unreadable_key}", 1),
    ];
    assert_eq!(decisions(&series), expected);
    // What has not happened yet is there, so that its first time shows.
    let never = "tower_quota_decisions_total{category=search,policy=search,verdict=refused}";
    assert_eq!(series[never], Told::Count(0));
    let names = format!("{:?}", series.keys());
    assert!(!names.contains(SECRET) && !names.contains("/read"), "{names}");
}

#[test]
fn what_is_answered_at_once_is_counted_like_what_is_awaited() {
    let series = record(async |_| {
        let policy = |name| Policy::sliding_window(name, Quota::per_hour(1));
        let read = Category::new("read").on(Matcher::get("/read"));
        let limiter = builder()
            .category(read.policy(per_key("read", Quota::per_hour(1))))
            .check_only(policy("delivery"))
            .check_only(policy("tried").dry_run())
            .build()
            .unwrap();
        for name in ["delivery", "tried", "tried", "read", "delivery", "delivery"] {
            let _ = limiter.check(name, SECRET).at_once().unwrap();
        }
        let _ = limiter.peek("delivery", SECRET).at_once().unwrap();
        let _ = limiter.give_back("delivery", SECRET, 1).at_once().unwrap();
        let _ = limiter.reset("tried", SECRET).at_once().unwrap();
    });
    let expected = [
        ("{category=,policy=delivery,verdict=allowed}", 1),
        ("{category=,policy=delivery,verdict=refused}", 2),
        ("{category=,policy=read,verdict=allowed}", 1),
        ("{category=,policy=tried,verdict=dry_run_allowed}", 1),
        ("{category=,policy=tried,verdict=dry_run_refused}", 1),
    ];
    assert_eq!(decisions(&series), expected);
}

/// Routers may read the path differently, so policies of both categories decide.
#[test]
fn policies_of_another_category_that_a_router_may_choose_are_counted_without_a_category() {
    let series = record(async |_| {
        let category = |name, path| {
            let policy = per_key(name, Quota::per_minute(9));
            Category::new(name).on(Matcher::get(path)).policy(policy)
        };
        let (ping, any) = (category("ping", "/ping"), category("any", "/{name}"));
        let limiter = builder().category(ping).category(any).build().unwrap();
        let _ = limiter.decide(&to("/%70ing", SECRET)).await;
    });
    let expected = [
        ("{category=,policy=ping,verdict=allowed}", 1),
        ("{category=any,policy=any,verdict=allowed}", 1),
    ];
    assert_eq!(decisions(&series), expected);
}

#[test]
fn held_requests_are_counted_and_timed_and_shown_while_they_wait() {
    let series = record(async |recorded| {
        let slow = Policy::token_bucket("slow", Quota::per_second(1)).key(header("x-key"));
        let category = Category::new("jobs").on(Matcher::get("/jobs")).policy(slow.or_refuse());
        let limiter = builder().category(category.hold(Duration::from_secs(2))).build().unwrap();
        assert!(limiter.decide(&to("/jobs", SECRET)).await.is_allowed());
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let (limiter, request) = (limiter.clone(), to("/jobs", SECRET));
            waiting.push(tokio::spawn(async move { limiter.decide(&request).await }));
        }
        sleep(Duration::from_millis(1)).await;
        limiter.update_gauges();
        assert_eq!(recorded.levels(), [Told::Level(1.0), Told::Level(2.0)]);
        for task in waiting {
            let _ = task.await.unwrap();
        }
        limiter.update_gauges();
        assert_eq!(recorded.levels()[1], Told::Level(0.0));
    });
    let expected = [
        ("{category=jobs,policy=slow,verdict=allowed}", 1),
        ("{category=jobs,policy=slow,verdict=held}", 2),
        ("{category=jobs,policy=slow,verdict=refused}", 1),
    ];
    assert_eq!(decisions(&series), expected);
    let held = &series["tower_quota_held_duration_seconds{category=jobs}"];
    assert_eq!(held, &Told::Times(vec![1.0, 2.0]));
}

#[test]
fn gauges_are_the_sum_over_limiters_and_forget_those_that_are_gone() {
    record(async |recorded| {
        let limiter = || builder().policy(per_key("each", Quota::per_minute(3))).build().unwrap();
        let (one, other) = (limiter(), limiter());
        for key in ["a", "b", "c"] {
            let _ = one.decide(&to("/", key)).await;
        }
        let _ = other.decide(&to("/", "a")).await;
        for limiter in [&one, &other, &one] {
            limiter.update_gauges();
        }
        assert_eq!(recorded.levels()[0], Told::Level(4.0));
        drop(one);
        assert_eq!(recorded.levels()[0], Told::Level(1.0));
    });
}

#[test]
fn what_had_no_room_in_the_store_is_counted_by_policy() {
    let series = record(async |_| {
        let limiter = builder()
            .store(MemoryStore::with_max_keys(10))
            .policy(per_key("many", Quota::per_minute(2)))
            .policy(Policy::token_bucket("all", Quota::per_minute(1_000)).global())
            .build()
            .unwrap();
        limiter.update_gauges();
        for key in 0..100 {
            let _ = limiter.decide(&to("/", &key.to_string())).await;
        }
        assert_eq!(limiter.policy("many").unwrap().overflowed(), Some(2));
        for _ in 0..2 {
            limiter.update_gauges();
        }
    });
    assert_eq!(series["tower_quota_overflowed_total{policy=many}"], Told::Count(2));
    assert_eq!(series["tower_quota_overflowed_total{policy=all}"], Told::Count(0));
}

/// While this store is asked for its overflows, another thread updates the gauges of this limiter.
struct Asked(Arc<Mutex<Option<Limiter>>>);

impl Store for Asked {
    fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
        StoreFuture::ready(Err(StoreError::new("it only counts overflows")))
    }

    fn correct(&self, _: &[Correction], _: Now) -> StoreFuture {
        StoreFuture::ready(Err(StoreError::new("it only counts overflows")))
    }

    fn overflowed(&self, _: u64) -> Option<u64> {
        let limiter = self.0.lock().unwrap().take();
        if let Some(limiter) = limiter {
            let (updated, ended) = mpsc::channel();
            thread::spawn(move || {
                limiter.update_gauges();
                updated.send(()).unwrap();
            });
            ended.recv_timeout(Duration::from_secs(20)).expect("no lock is held meanwhile");
        }
        Some(7)
    }
}

#[test]
fn gauges_are_updated_without_a_lock_while_the_store_is_asked() {
    record(async |_| {
        let asked = Arc::new(Mutex::new(None));
        let store = Asked(Arc::clone(&asked));
        let limiter =
            builder().store(store).policy(per_key("each", Quota::per_minute(3))).build().unwrap();
        *asked.lock().unwrap() = Some(limiter.clone());
        limiter.update_gauges();
        assert!(asked.lock().unwrap().is_none(), "the store was asked");
    });
}

/// A store that answers after this time.
struct Slow(Arc<MemoryStore>, Duration);

impl Slow {
    fn later(&self, answer: StoreFuture) -> StoreFuture {
        let delay = self.1;
        StoreFuture::later(async move {
            sleep(delay).await;
            answer.await
        })
    }
}

impl Store for Slow {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.later(self.0.charge(charges, now))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.later(self.0.correct(corrections, now))
    }
}

/// A store that is down, which is known at once or later.
struct Down {
    at_once: bool,
}

impl Store for Down {
    fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
        let error = || Err(StoreError::new("it is down"));
        match self.at_once {
            true => StoreFuture::ready(error()),
            false => StoreFuture::later(async move { error() }),
        }
    }

    fn correct(&self, _: &[Correction], now: Now) -> StoreFuture {
        self.charge(&[], now)
    }
}

#[test]
fn what_a_store_does_not_answer_is_counted() {
    for at_once in [true, false] {
        let series = record(async |_| {
            let policy = per_key("each", Quota::per_minute(3));
            let policy = policy.on_store_failure(OnStoreFailure::Refuse);
            let limiter = builder().store(Down { at_once }).policy(policy).build().unwrap();
            for _ in 0..2 {
                assert!(!limiter.decide(&to("/", SECRET)).await.is_allowed());
            }
            let _ = limiter.reset("each", SECRET).await.unwrap();
        });
        // A reset looks first whether there is something to reset.
        for (operation, errors) in [("charge", 3), ("correct", 1)] {
            let name = format!("tower_quota_store_errors_total{{operation={operation}}}");
            assert_eq!(series[&name], Told::Count(errors));
        }
        assert_eq!(decisions(&series), [("{category=,policy=each,verdict=unavailable}", 2)]);
    }
}

#[test]
fn a_store_that_answers_later_is_timed_and_one_that_answers_at_once_is_not() {
    let story = async |store: LimiterBuilder| {
        let limiter = store.policy(per_key("each", Quota::per_minute(3))).build().unwrap();
        assert!(limiter.decide(&to("/", SECRET)).await.is_allowed());
        let _ = limiter.reset("each", SECRET).await.unwrap();
        limiter.update_gauges();
    };
    let delay = Duration::from_millis(250);
    let slow = record(async |_| story(builder().store(Slow(Arc::default(), delay))).await);
    // A reset looks first whether there is something to reset.
    for (operation, times) in [("charge", 2), ("correct", 1)] {
        let name = format!("tower_quota_store_duration_seconds{{operation={operation}}}");
        assert_eq!(slow[&name], Told::Times(vec![0.25; times]));
    }
    assert!(!slow.contains_key("tower_quota_live_keys{}"), "it does not know");
    assert_eq!(decisions(&slow), [("{category=,policy=each,verdict=allowed}", 1)], "and not held");

    let at_once = record(async |_| story(builder().store(MemoryStore::new())).await);
    assert!(at_once.contains_key("tower_quota_live_keys{}"));
    assert!(at_once.keys().all(|name| !name.contains("store")), "{at_once:?}");
}

/// What is registered with no recorder stays so; no request has come before this one.
#[test]
fn a_recorder_may_come_after_the_limiter() {
    let limiter = builder().policy(per_key("each", Quota::per_minute(3))).build().unwrap();
    let series = record(async |_| {
        let _ = limiter.decide(&to("/", SECRET)).await;
    });
    assert_eq!(decisions(&series), [("{category=,policy=each,verdict=allowed}", 1)]);
}

#[cfg(feature = "describe")]
#[test]
fn an_example_refusal_is_no_decision() {
    let series = record(async |_| {
        let limiter = builder().policy(per_key("each", Quota::per_minute(3))).build().unwrap();
        let layer = tower_quota::RateLimitLayer::new(limiter);
        assert!(layer.describe().responses.unwrap().refusal.is_some());
    });
    assert_eq!(series, BTreeMap::new());
}
