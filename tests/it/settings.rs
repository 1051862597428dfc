//! Each public setting that takes a time or a number takes 0, 1 and the largest: it is an error that
//! says what to write, or it works, and nothing panics.
#![cfg(all(feature = "axum", feature = "describe"))]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::Empty;
use tokio::runtime::{self, Runtime};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Category, HeaderStyle, Limiter, Matcher, Now, OnStoreFailure, Policy, Quota, RateLimitLayer,
    ResetFormat,
    key::{ClientIp, PeerAddr, body_field, header},
    store::{MemoryStore, Usage},
};

/// Whether a setting is accepted, or its error.
type Told = Result<(), String>;
/// A setting by its name, and what becomes of a value of it.
type Setting<T> = (&'static str, fn(T) -> Told);

const TIMES: [Duration; 4] =
    [Duration::ZERO, Duration::from_nanos(1), Duration::from_nanos(u64::MAX), Duration::MAX];
const NUMBERS: [u64; 4] = [0, 1, u64::MAX - 1, u64::MAX];

fn runtime() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

fn request() -> Parts {
    let mut request = Request::get("/a").header("x-key", "a").body(()).unwrap().into_parts().0;
    request.extensions.insert(PeerAddr(([192, 0, 2, 1], 80).into()));
    request
}

fn read(quota: Quota) -> Policy {
    Policy::token_bucket("read", quota).key(header("x-key")).or_refuse()
}

fn one() -> Policy {
    read(Quota::per_hour(1))
}

/// Uses one unit more than the quota, in each way, and writes the responses.
fn ask(policy: Policy) -> Told {
    ask_category(Category::new("a").on(Matcher::get("/a")).policy(policy))
}

fn ask_category(category: Category) -> Told {
    let limiter = Limiter::builder().category(category).build().map_err(|e| e.to_string())?;
    ask_limiter(limiter, Duration::ZERO)
}

fn ask_limiter(limiter: Limiter, spread: Duration) -> Told {
    for style in [
        HeaderStyle::x_ratelimit(),
        HeaderStyle::x_ratelimit().reset(ResetFormat::Seconds),
        HeaderStyle::ratelimit(),
        HeaderStyle::ratelimit_dictionary(),
        HeaderStyle::ratelimit_lists().partition_key(),
    ] {
        let layer = RateLimitLayer::builder(limiter.clone());
        let layer = layer.headers([style]).jitter_retry_after(spread).build();
        let layer = layer.map_err(|error| error.to_string())?;
        let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        runtime().block_on(async {
            for _ in 0..3 {
                let request = Request::from_parts(request(), Empty::new());
                let answered = service.clone().oneshot(request);
                // Who is held for longer than the units take is given up.
                let patience = Duration::from_secs(3 * 3_600);
                let _ = tokio::time::timeout(patience, answered).await;
            }
            drop(layer.describe().to_json());
            drop(limiter.peek("read", "a").await);
            drop(limiter.give_back("read", "a", 1).await);
            drop(limiter.reset("read", "a").await);
        });
    }
    Ok(())
}

fn check(cost: u64) -> Told {
    let limiter = Limiter::builder().check_only(one()).build().unwrap();
    for check in [Limiter::check, Limiter::peek, Limiter::check] {
        // Where nothing was used, there is nothing to give back.
        drop(check(&limiter, "read", "a").cost(cost).at_once());
        drop(runtime().block_on(check(&limiter, "read", "a").cost(cost)));
        drop(limiter.give_back("read", "a", cost).at_once());
        drop(runtime().block_on(limiter.give_back("read", "a", cost)));
    }
    Ok(())
}

fn plan(quota: Quota) -> Told {
    ask(one().quota_by(move |_| Some(quota)))?;
    let limiter = Limiter::builder().check_only(one()).build().unwrap();
    for check in [Limiter::check, Limiter::peek] {
        drop(check(&limiter, "read", "a").quota(quota).at_once());
        drop(limiter.give_back("read", "a", 1).quota(quota).at_once());
        drop(limiter.reset("read", "a").quota(quota).at_once());
    }
    ask(read(quota))
}

fn with_units(units: u64) -> Told {
    plan(Quota::per_second(units)).and(plan(Quota::per_day(units)))
}

fn with_replicas(replicas: u64) -> Told {
    let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    ask(one().on_store_failure(OnStoreFailure::CountLocally { replicas }))
}

fn with_store(store: MemoryStore) -> Told {
    let limiter = Limiter::builder().store(store).policy(one()).build();
    ask_limiter(limiter.map_err(|error| error.to_string())?, Duration::ZERO)
}

fn shown(value: &dyn std::fmt::Debug) -> Told {
    let _ = format!("{value:?}");
    Ok(())
}

fn as_size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[test]
fn a_time_of_nothing_and_one_of_for_ever_are_errors_or_work() {
    let settings: &[Setting<Duration>] = &[
        ("Policy::hold", |time| ask(one().hold(time))),
        ("Category::hold", |time| {
            ask_category(Category::new("a").on(Matcher::get("/a")).policy(one()).hold(time))
        }),
        ("Quota::per_window", |time| plan(Quota::per_window(5, time))),
        ("Quota::per_window with a burst", |time| plan(Quota::per_window(5, time).burst(3))),
        ("Quota::per_window in a fixed window", |time| {
            let policy = Policy::fixed_window("read", Quota::per_window(5, time));
            ask(policy.key(header("x-key")).or_refuse())
        }),
        ("Quota::per_window in a sliding window", |time| {
            let policy = Policy::sliding_window("read", Quota::per_window(5, time));
            ask(policy.key(header("x-key")).or_refuse())
        }),
        ("jitter_retry_after", |time| {
            ask_limiter(Limiter::builder().policy(one()).build().unwrap(), time)
        }),
        ("Now::new", |time| shown(&Now::new(time, time))),
        ("Usage::new", |time| shown(&Usage::new(time, 1, time))),
        #[cfg(feature = "usage-sqlite")]
        ("SqliteLog", sqlite::with_time),
        #[cfg(feature = "redis")]
        ("RedisStore", redis::with_time),
    ];
    all(settings, TIMES);
}

#[test]
fn a_number_of_nothing_and_the_largest_are_errors_or_work() {
    let settings: &[Setting<u64>] = &[
        ("Quota::per_second", with_units),
        ("Quota::burst", |units| plan(Quota::per_minute(1).burst(units))),
        ("Policy::cost", |units| ask(one().cost(move |_| units))),
        ("Policy::settle", |units| ask(one().settle(move |_| Some(units)))),
        ("Policy::lease", |units| ask(one().lease(units as u32))),
        ("OnStoreFailure::CountLocally", with_replicas),
        ("Check::cost", check),
        ("max_held", |held| {
            let builder = Limiter::builder().policy(one().hold(Duration::from_secs(7_200)));
            ask_limiter(builder.max_held(as_size(held)).build().unwrap(), Duration::ZERO)
        }),
        ("max_held_per_key", |held| {
            let builder = Limiter::builder().policy(one().hold(Duration::from_secs(7_200)));
            ask_limiter(builder.max_held_per_key(as_size(held)).build().unwrap(), Duration::ZERO)
        }),
        ("MemoryStore::with_max_keys", |keys| {
            with_store(MemoryStore::with_max_keys(as_size(keys)))
        }),
        ("MemoryStore::with_max_bytes", |bytes| {
            with_store(MemoryStore::with_max_bytes(as_size(bytes)))
        }),
        ("ClientIp::ipv6_prefix", |bits| {
            let key = ClientIp::new().ipv6_prefix(bits as u8);
            ask(Policy::token_bucket("read", Quota::per_hour(1)).key(key).or_refuse())
        }),
        ("ClientIp::trust_hops", |hops| {
            let key = ClientIp::new().trust_hops(as_size(hops));
            ask(Policy::token_bucket("read", Quota::per_hour(1)).key(key).or_refuse())
        }),
        ("body_field", |_| {
            ask(Policy::token_bucket("read", Quota::per_hour(1)).key(body_field("a")).or_skip())
        }),
        #[cfg(feature = "usage")]
        ("MemoryLog::with_max", |most| {
            let log = tower_quota::usage::MemoryLog::with_max(as_size(most), as_size(most));
            let log = tower_quota::usage::RequestLog::builder(header("x-key")).sink(log);
            let log = log.remember_keys(as_size(most)).build().map_err(|e| e.to_string())?;
            let limiter = Limiter::builder().policy(one()).build().unwrap();
            let layer = RateLimitLayer::builder(limiter).observe(log).build().unwrap();
            let service = layer.layer(service_fn(async |_: Request<Empty<Bytes>>| {
                Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
            }));
            let request = Request::from_parts(request(), Empty::new());
            drop(runtime().block_on(service.oneshot(request)));
            Ok(())
        }),
        #[cfg(feature = "usage-sqlite")]
        ("SqliteLog", sqlite::with_number),
        #[cfg(feature = "redis")]
        ("RedisStore", redis::with_number),
    ];
    all(settings, NUMBERS);
}

fn all<T: Copy + std::fmt::Debug>(settings: &[Setting<T>], values: [T; 4]) {
    let mut broken = Vec::new();
    for (name, set) in settings {
        for value in values {
            match catch_unwind(AssertUnwindSafe(|| set(value))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.contains(": ") && error.contains([';', '`']) => {}
                Ok(Err(error)) => broken.push(format!("{name}({value:?}): {error}")),
                Err(_) => broken.push(format!("{name}({value:?}) panics")),
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[cfg(feature = "usage-sqlite")]
mod sqlite {
    use tower_quota::usage::{SqliteLog, SqliteLogBuilder};

    use super::{Duration, Told, as_size};

    fn with(set: impl Fn(SqliteLogBuilder) -> SqliteLogBuilder) -> Result<SqliteLog, String> {
        let folder = tempfile::tempdir().unwrap();
        set(SqliteLog::builder(folder.path().join("log"))).build().map_err(|e| e.to_string())
    }

    pub(super) fn with_time(time: Duration) -> Told {
        let _ = with(|log| log).unwrap().flush(time);
        with(|log| log.max_age(time)).map(drop)
    }

    pub(super) fn with_number(number: u64) -> Told {
        for error in [
            with(|log| log.max_bytes(number)).map(drop),
            with(|log| log.max_waiting(as_size(number))).map(drop),
        ] {
            error?;
        }
        Ok(())
    }
}

#[cfg(feature = "redis")]
mod redis {
    use tower_quota::store::{RedisStore, RedisStoreBuilder};

    use super::{Duration, Limiter, Told, as_size, ask_limiter, one, runtime};

    /// Asks a server that there is not.
    fn with(set: impl Fn(RedisStoreBuilder) -> RedisStoreBuilder) -> Told {
        let runtime = runtime();
        let _inside = runtime.enter();
        let builder = RedisStore::builder("redis://127.0.0.1:1").secret(7);
        let store = set(builder).build().map_err(|error| error.to_string())?;
        let limiter = Limiter::builder().store(store).policy(one()).build();
        ask_limiter(limiter.map_err(|error| error.to_string())?, Duration::ZERO)
    }

    pub(super) fn with_time(time: Duration) -> Told {
        for told in [
            with(|store| store.connect_timeout(time)),
            with(|store| store.response_timeout(time)),
            with(|store| store.decision_timeout(time)),
        ] {
            told?;
        }
        Ok(())
    }

    pub(super) fn with_number(number: u64) -> Told {
        with(|store| store.max_denied(as_size(number)))
            .and(with(|store| store.max_leased(as_size(number))))
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(5_000))]

    #[test]
    fn settings_of_bytes_are_errors_or_work(
        data in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
    ) {
        crate::fuzz_targets::settings::settings(&data);
    }
}
