//! Limits that cannot be applied change nothing.

use http::Request;
use tower::{Layer, Service, service_fn};
use tower_quota::{
    HeaderStyle, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer,
    key::{Caller, header},
    store::MemoryStore,
};

use super::{clock, daily, limits};
use crate::by_key::request;

fn problems(limiter: &Limiter, next: LimiterBuilder) -> Vec<String> {
    let before = format!("{limiter:?}");
    let error = limiter.apply(next).expect_err("it cannot be applied");
    assert_eq!(format!("{limiter:?}"), before);
    error.problems().iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn a_failed_apply_says_all_that_is_wrong_and_changes_nothing() {
    let limiter = limits([daily("read", 10)]).clock(clock()).build().unwrap();
    let wrong = limits([daily("read", 0), daily("new", 5), daily("new", 6)])
        .caller(header("x-key"))
        .store(MemoryStore::new())
        .clock(clock())
        .max_held(0);
    let fixed = |setting: &str| {
        format!(
            "{setting}: it cannot change while the limiter runs; leave `.{setting}(…)` out, or build another limiter"
        )
    };
    assert_eq!(
        problems(&limiter, wrong),
        [
            "policy `read`: a quota of 0 units refuses every request; write at least 1",
            "policy `new`: two policies have this name; give each its own, or clone the one",
            &fixed("caller"),
            &fixed("store"),
            &fixed("clock"),
        ]
    );
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 9);
}

#[test]
fn settings_may_repeat_the_caller_of_the_limiter() {
    let by = |caller: Caller| limits([daily("p", 9)]).caller(caller);
    let limiter = by(header("x-key").into()).build().unwrap();
    limiter.apply(by(header("X-Key").into())).unwrap();
    limiter.apply(limits([])).unwrap();
    assert_eq!(problems(&limiter, by(header("x-user").into())).len(), 1);
    assert_eq!(problems(&limiter, by(Caller::new(header("x-key")).secret(7))).len(), 1);
    let limiter = by(Caller::new(header("x-key")).secret(7)).build().unwrap();
    limiter.apply(by(Caller::new(header("x-key")).secret(7))).unwrap();
    limiter.apply(by(header("x-key").into())).unwrap();
    assert_eq!(problems(&limiter, by(Caller::new(header("x-key")).secret(8))).len(), 1);
}

#[tokio::test]
async fn limits_that_a_layer_cannot_show_are_an_error_while_the_layer_is_there() {
    let of = |names: &[&str]| limits(names.iter().map(|name| daily(name, 9)));
    let limiter = of(&["hourly", "burst"]).build().unwrap();
    let layer = RateLimitLayer::builder(limiter.clone()).header_policy("hourly").build().unwrap();
    let lists = RateLimitLayer::builder(limiter.clone())
        .headers([HeaderStyle::ratelimit_lists()])
        .build()
        .unwrap();
    let gone = "header policy `hourly`: no policy for requests has this name; write one of `burst`";
    assert_eq!(problems(&limiter, of(&["burst"])), [gone]);
    assert_eq!(
        problems(&limiter, limits([daily("hourly", 9).dry_run(), daily("burst", 9)])),
        [gone]
    );
    let unfit = "policy `größe`: header style `ratelimit_lists` tells its name, which is not printable ASCII; rename it";
    assert_eq!(problems(&limiter, of(&["hourly", "größe"])), [unfit]);

    // A service of the layer is as good as the layer.
    let service = service_fn(async |_: Request<()>| {
        Ok::<_, ()>(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
    });
    let mut service = layer.layer(service);
    drop(layer);
    assert_eq!(problems(&limiter, of(&["burst"])), [gone]);
    assert!(service.call(Request::new(())).await.is_ok());
    drop((service, lists));
    limiter.apply(of(&["größe"])).unwrap();
    let error = RateLimitLayer::builder(limiter.clone()).header_policy("hourly").build();
    assert!(error.unwrap_err().to_string().contains("write one of `größe`"));
    assert!(RateLimitLayer::builder(limiter).header_policy("größe").build().is_ok());
}

#[test]
fn a_key_extractor_of_no_use_is_found_like_at_build() {
    let limiter = limits([daily("p", 9)]).build().unwrap();
    let without_key = Policy::fixed_window("p", Quota::per_day(9));
    let built = limits([without_key.clone()]).build().unwrap_err();
    assert_eq!(limiter.apply(limits([without_key])).unwrap_err(), built);
}
