//! Settings that cannot work fail at `build()`, and the error says what to write instead.

use std::time::Duration;

use tower_quota::{
    Category, Limiter, LimiterBuilder, Matcher, OnStoreFailure, Policy, Quota,
    key::{ClientIp, bearer, header, path_param},
};

fn with(policy: Policy) -> LimiterBuilder {
    Limiter::builder().policy(policy)
}

fn quota(quota: Quota) -> LimiterBuilder {
    with(Policy::token_bucket("read", quota).global())
}

fn category(category: Category) -> LimiterBuilder {
    Limiter::builder().category(category)
}

#[test]
fn each_error_names_the_culprit_and_says_what_to_write() {
    let valid = || Policy::token_bucket("read", Quota::per_minute(1)).global();
    let nobody = OnStoreFailure::CountLocally { replicas: 0 };
    for (builder, message) in [
        (
            with(valid().on_store_failure(nobody)),
            "policy `read`: 0 replicas have no share of the quota; write how many there are",
        ),
        (
            with(valid().lease(10).settle(|_| None)),
            "policy `read`: it has a lease, and responses settle its cost: each request asks the store anyway; leave one out",
        ),
        (
            with(valid().shard(header("x tenant"))),
            "policy `read`: `\"x tenant\"` is no header name; write one like `x-api-key`",
        ),
        (
            quota(Quota::per_minute(0)),
            "policy `read`: a quota of 0 units refuses every request; write at least 1",
        ),
        (
            quota(Quota::per_window(5, Duration::ZERO)),
            "policy `read`: a window of 0 has no end; write its length, as in `Quota::per_window(5, Duration::from_secs(600))`",
        ),
        (
            quota(Quota::per_minute(u64::MAX - 1)),
            "policy `read`: 18446744073709551614 units are more than a header can carry; write at most 999999999999999, or `Quota::unlimited()`",
        ),
        (
            quota(Quota::per_window(1, Duration::MAX)),
            "policy `read`: the window is longer than a hundred years; write a shorter one",
        ),
        (
            quota(Quota::per_minute(1).burst(0)),
            "policy `read`: a burst of 0 refuses every request; write at least 1",
        ),
        (
            quota(Quota::per_minute(1).burst(u64::MAX)),
            "policy `read`: the burst is more than a header can carry; write at most 999999999999999",
        ),
        (
            with(Policy::fixed_window("read", Quota::per_minute(1).burst(2)).global()),
            "policy `read`: only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out",
        ),
        (
            with(valid()).policy(Policy::fixed_window("read", Quota::per_minute(2)).global()),
            "policy `read`: two policies have this name; give each its own, or clone the one",
        ),
        (
            with(valid()).direct(Policy::fixed_window("read", Quota::per_minute(2))),
            "policy `read`: two policies have this name; give each its own, or clone the one",
        ),
        (
            with(Policy::token_bucket("read", Quota::per_minute(1))),
            "policy `read`: it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
        ),
        (
            with(Policy::token_bucket("read", Quota::per_minute(1)).key(bearer())),
            "policy `read`: it does not say what happens to a request without its key; add `.or_key(…)`, `.or_skip()` or `.or_refuse()`",
        ),
        (
            with(Policy::token_bucket("read", Quota::per_minute(1)).key(bearer()).global()),
            "policy `read`: it is global and has a key; leave one out",
        ),
        (
            with(
                Policy::token_bucket("read", Quota::per_minute(1))
                    .key(bearer())
                    .key(ClientIp::new())
                    .or_skip(),
            ),
            "policy `read`: it has two keys; write `.key((a, b))` to count by both together, or `.key(a).or_key(b)`",
        ),
        (
            with(Policy::token_bucket("read", Quota::per_minute(1)).key(header("x key")).or_skip()),
            "policy `read`: `\"x key\"` is no header name; write one like `x-api-key`",
        ),
        (
            with(
                Policy::token_bucket("read", Quota::per_minute(1))
                    .key((bearer(), path_param("/{user}", "tenant")))
                    .or_skip(),
            ),
            "policy `read`: the path `/{user}` has no parameter `{tenant}`; write it there",
        ),
        (
            category(Category::new("bulk").policy(valid())),
            "category `bulk`: it holds for no request; add `.on(Matcher::…)`",
        ),
        (
            category(Category::new("bulk").on(Matcher::get("bulk"))),
            "category `bulk`: the path `bulk` does not begin with a slash; write `/bulk`",
        ),
        (
            category(Category::new("bulk").on(Matcher::get("/{a}{b}"))),
            "category `bulk`: the path `/{a}{b}` has `{a}{b}`, which does not parse; write one like `{id}` or `{*path}`",
        ),
        (
            Limiter::builder().exempt(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/99"])),
            "an exemption: `10.0.0.0/99` is no address or network; write one like `10.0.0.0/8` or `192.0.2.1`",
        ),
    ] {
        assert_eq!(builder.build().unwrap_err().to_string(), message);
    }
}

#[test]
fn a_policy_holds_once_for_a_request() {
    let policy = Policy::token_bucket("read", Quota::per_minute(1)).global();
    let reads = || Category::new("reads").on(Matcher::get("/"));
    let twice = reads().policy(policy.clone()).policy(policy.clone());
    let message = "category `reads`: policy `read` holds for it twice; leave one out";
    assert_eq!(category(twice).build().unwrap_err().to_string(), message);
    let everywhere_and_here = with(policy.clone()).category(reads().policy(policy));
    assert_eq!(everywhere_and_here.build().unwrap_err().to_string(), message);
}

#[test]
fn what_can_be_is_built() {
    for quota in [
        Quota::unlimited(),
        Quota::per_second(1),
        Quota::per_minute(999_999_999_999_999),
        Quota::per_window(1, Duration::from_nanos(1)),
        Quota::per_day(1).burst(1_000_000),
    ] {
        assert!(self::quota(quota).build().is_ok(), "{quota:?}");
    }
}
