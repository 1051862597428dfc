//! Settings that cannot work fail at `build()`, and the error says what to write instead.

use std::time::Duration;

use http::Method;
use tower_quota::{
    Category, HeaderStyle, Limiter, LimiterBuilder, Matcher, OnStoreFailure, Policy, Quota,
    RateLimitLayer, ResetFormat,
    key::{ClientIp, bearer, from_fn, header, path_param},
};

const ONE: Quota = Quota::per_minute(1);

fn with(policy: Policy) -> LimiterBuilder {
    Limiter::builder().policy(policy)
}

fn quota(quota: Quota) -> LimiterBuilder {
    with(Policy::token_bucket("read", quota).global())
}

/// Beside a policy for every request, so that the category needs none of its own.
fn category(category: Category) -> LimiterBuilder {
    let all = Policy::token_bucket("all", Quota::per_minute(1)).global();
    Limiter::builder().policy(all).category(category)
}

/// A policy with these calls about its keys, in this order.
fn keyed(say: impl FnOnce(Policy) -> Policy) -> LimiterBuilder {
    with(say(Policy::token_bucket("read", Quota::per_minute(1))))
}

/// A category `first` before a category `second`.
fn behind(first: Matcher, second: Matcher) -> LimiterBuilder {
    category(Category::new("first").on(first)).category(Category::new("second").on(second))
}

/// By a parameter of `path`, in a category with `matcher`.
fn by_path(path: &str, matcher: Matcher) -> LimiterBuilder {
    let policy = Policy::token_bucket("read", Quota::per_minute(1));
    let policy = policy.key((bearer(), path_param(path, "id"))).or_refuse();
    category(Category::new("reads").on(matcher).policy(policy))
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
            with(valid().lease(10).settle_at_end()),
            "policy `read`: it has a lease, and responses settle its cost: each request asks the store anyway; leave one out",
        ),
        (
            with(Policy::in_flight("read", 4).global().settle_at_end()),
            "policy `read`: its units come back when the request ends, whatever it has cost; leave `.settle_at_end()` out",
        ),
        (
            with(valid().shard(header("x tenant"))),
            "policy `read`: `x tenant` is no header name; write one like `x-api-key`",
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
            quota(Quota::per_minute(u64::MAX)),
            "policy `read`: 18446744073709551614 units are more than a header can carry; write at most 999999999999999, or `Quota::unlimited()`",
        ),
        (
            quota(Quota::per_day(1).burst(1_000_000)),
            "policy `read`: the burst takes more than a hundred years to come back; write a smaller one, or more units in a window",
        ),
        (
            quota(Quota::per_minute(1).burst(999_999_999_999_999)),
            "policy `read`: the burst takes more than a hundred years to come back; write a smaller one, or more units in a window",
        ),
        (
            with(valid().plans([("pro", Quota::per_day(1).burst(36_501))], |_| None)),
            "policy `read`: plan `pro`: the burst takes more than a hundred years to come back; write a smaller one, or more units in a window",
        ),
        (
            with(valid().plans(Vec::<(&str, Quota)>::new(), |_| None)),
            "policy `read`: its table of plans is empty; write one there, or leave `.plans(…)` out",
        ),
        (
            with(Policy::token_bucket("", Quota::per_minute(1)).global()),
            "a policy without a name: write one like `read`",
        ),
        (
            with(valid()).policy(Policy::fixed_window("read", Quota::per_minute(2)).global()),
            "policy `read`: two policies have this name; give each its own, or clone the one",
        ),
        (
            with(valid()).check_only(Policy::fixed_window("read", Quota::per_minute(2))),
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
            keyed(|policy| policy.key(bearer()).or_key(ClientIp::new())),
            "policy `read`: it does not say what happens to a request with none of its keys; add `.or_skip()` or `.or_refuse()`",
        ),
        (
            keyed(|policy| policy.or_key(ClientIp::new()).key(bearer())),
            "policy `read`: it does not say what happens to a request with none of its keys; add `.or_skip()` or `.or_refuse()`",
        ),
        (
            keyed(|policy| policy.or_key(ClientIp::new()).or_refuse()),
            "policy `read`: it has another key and none that is tried first; write `.key(…)` for the first `.or_key(…)`",
        ),
        (
            keyed(|policy| policy.or_refuse().or_key(ClientIp::new()).or_key(bearer())),
            "policy `read`: it has another key and none that is tried first; write `.key(…)` for the first `.or_key(…)`",
        ),
        (
            keyed(|policy| {
                policy.global().plans([("a", ONE)], |_| None).plans([("b", ONE)], |_| None)
            }),
            "policy `read`: it says `.plans(…)` twice, and the first would be lost; write it once",
        ),
        (
            keyed(|policy| policy.global().quota_by(|_| None).quota_by(|_| Some(ONE))),
            "policy `read`: it says `.quota_by(…)` twice, and the first would be lost; write it once",
        ),
        (
            keyed(|policy| policy.global().cost(|_| 1).cost(|_| 2)),
            "policy `read`: it says `.cost(…)` twice, and the first would be lost; write it once",
        ),
        (
            keyed(|policy| policy.global().settle(|_| None).settle(|_| Some(1))),
            "policy `read`: it says `.settle(…)` twice, and the first would be lost; write it once",
        ),
        (
            keyed(|policy| policy.global().shard(bearer()).shard(ClientIp::new())),
            "policy `read`: it says `.shard(…)` twice, and the first would be lost; write it once",
        ),
        (
            with(Policy::token_bucket("read", Quota::unlimited().burst(3)).global()),
            "policy `read`: an unlimited quota has no burst; leave `burst` out, or write the units",
        ),
        (
            Limiter::builder().category(Category::new("exports").on(Matcher::get("/exports"))),
            "category `exports`: it has no policy, and its requests would pass uncounted; add `.policy(…)`, or write `.exempt(…)` for its matchers",
        ),
        (
            keyed(|policy| policy.or_refuse()),
            "policy `read`: it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
        ),
        (
            keyed(|policy| policy.key(bearer()).or_key(ClientIp::new()).key(bearer()).or_skip()),
            "policy `read`: it has two keys; write `.key((a, b))` to count by both together, or `.key(a).or_key(b)`",
        ),
        (
            keyed(|policy| policy.key(bearer()).or_skip().or_refuse()),
            "policy `read`: it both skips and refuses a request without its key; leave `.or_skip()` or `.or_refuse()` out",
        ),
        (
            keyed(|policy| policy.or_refuse().or_skip().key(bearer())),
            "policy `read`: it both skips and refuses a request without its key; leave `.or_skip()` or `.or_refuse()` out",
        ),
        (
            keyed(|policy| policy.or_skip().key(bearer()).or_skip()),
            "policy `read`: it says `.or_skip()` twice; write it once",
        ),
        (
            keyed(|policy| policy.key(bearer()).or_refuse().or_refuse()),
            "policy `read`: it says `.or_refuse()` twice; write it once",
        ),
        (
            keyed(|policy| policy.key(bearer()).or_key(bearer()).or_refuse()),
            "policy `read`: it tries the key `bearer token` twice; leave one out",
        ),
        (
            keyed(|policy| policy.global().or_key(bearer())),
            "policy `read`: it is global and has a key; leave one out",
        ),
        (
            keyed(|policy| policy.or_skip().global()),
            "policy `read`: it is global and has no key to lack; leave `.or_skip()` out",
        ),
        (
            keyed(|policy| policy.global().or_refuse()),
            "policy `read`: it is global and has no key to lack; leave `.or_refuse()` out",
        ),
        (
            keyed(|policy| policy.global().unreadable_as_missing()),
            "policy `read`: it is global and has no key to lack; leave `.unreadable_as_missing()` out",
        ),
        (
            with(Policy::token_bucket("read", Quota::per_minute(1)).key(header("x key")).or_skip()),
            "policy `read`: `x key` is no header name; write one like `x-api-key`",
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
            category(Category::new("").on(Matcher::get("/bulk"))),
            "a category without a name: write one like `read`",
        ),
        (
            category(Category::new("bulk").on(Matcher::get("/a")))
                .category(Category::new("bulk").on(Matcher::get("/b"))),
            "category `bulk`: two categories have this name; give each its own",
        ),
        (
            category(Category::new("bulk").on(Matcher::methods([], "/bulk"))),
            "category `bulk`: `/bulk` has no method; write one, or `Matcher::path` for any method",
        ),
        (
            category(Category::new("bulk").on(Matcher::client_ip(ClientIp::new(), [""; 0]))),
            "category `bulk`: requests by an empty list of networks or keys match nothing; write some, or leave them out",
        ),
        (
            category(Category::new("bulk").on(Matcher::key(bearer(), [""; 0]))),
            "category `bulk`: requests by an empty list of networks or keys match nothing; write some, or leave them out",
        ),
        (
            behind(Matcher::path("/v1/{*rest}"), Matcher::get("/v1/users/{id}")),
            "category `second`: category `first` comes before it and has all its requests to `/v1/users/{id}`; put the narrower one first, or leave one out",
        ),
        (
            behind(Matcher::get("/v1/{id}"), Matcher::get("/v1/me")),
            "category `second`: category `first` comes before it and has all its requests to `/v1/me`; put the narrower one first, or leave one out",
        ),
        (
            category(Category::new("first").on(Matcher::post("/v1/a")).on(Matcher::get("/v1/{a}")))
                .category(
                    Category::new("second")
                        .on(Matcher::post("/v1/b"))
                        .on(Matcher::methods([Method::GET, Method::POST], "/v1/a")),
                ),
            "category `second`: category `first` comes before it and has all its requests to `/v1/a`; put the narrower one first, or leave one out",
        ),
        (
            category(Category::new("bulk").on(Matcher::post("/v1/bulk")))
                .exempt(Matcher::path("/v1/{*rest}")),
            "category `bulk`: an exemption has all its requests to `/v1/bulk`; leave one of them out",
        ),
        (
            by_path("/v1/users/{id}", Matcher::get("/v1/tenants/{id}")),
            "policy `read`: it counts by a parameter of the path `/v1/users/{id}`, and no category that it is in has such a path; write the path of one, or add it there",
        ),
        (
            by_path("/v1/users/{id}", Matcher::get("/v1/users")),
            "policy `read`: it counts by a parameter of the path `/v1/users/{id}`, and no category that it is in has such a path; write the path of one, or add it there",
        ),
        (
            with(valid()).exempt(Matcher::path("/{*all}")),
            "an exemption: it has all requests, so that none is counted; write the paths that are free",
        ),
        (
            with(valid()).exempt(Matcher::client_ip(ClientIp::new(), ["::/0"])),
            "an exemption: its networks are all addresses, so that no request is counted; write those of your own",
        ),
        (
            with(valid()).exempt(Matcher::client_ip(ClientIp::new(), ["2000::/3"])),
            "an exemption: its networks are all addresses, so that no request is counted; write those of your own",
        ),
        (
            with(valid()).exempt(Matcher::client_ip(ClientIp::new(), ["0.0.0.0/1", "128.0.0.0/1"])),
            "an exemption: its networks are all addresses, so that no request is counted; write those of your own",
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
fn an_error_has_all_problems_in_the_order_of_the_settings() {
    let nowhere =
        Policy::fixed_window("nowhere", ONE.burst(2)).plans([("pro", ONE.burst(0))], |_| None);
    let error = Limiter::builder()
        .check_only(Policy::token_bucket("jobs", Quota::per_minute(0)))
        .exempt(Matcher::get("/health"))
        .exempt(Matcher::get("health"))
        .policy(nowhere.clone())
        .category(Category::new("bulk").on(Matcher::get("bulk")).policy(nowhere))
        .category(Category::new("bulk").on(Matcher::get("/health")))
        .caller(header("x key"))
        .build()
        .unwrap_err();
    let problems: Vec<_> = error.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "an exemption: the path `health` does not begin with a slash; write `/health`",
            "category `bulk`: the path `bulk` does not begin with a slash; write `/bulk`",
            "category `bulk`: two categories have this name; give each its own",
            "category `bulk`: an exemption has all its requests to `/health`; leave one of them out",
            "policy `nowhere`: only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out",
            "policy `nowhere`: plan `pro`: a burst of 0 refuses every request; write at least 1",
            "policy `nowhere`: it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
            "category `bulk`: policy `nowhere` holds for it twice; leave one out",
            "policy `jobs`: a quota of 0 units refuses every request; write at least 1",
            "caller: `x key` is no header name; write one like `x-api-key`",
        ]
    );
    assert_eq!(error.to_string(), problems.join("\n"));
}

#[test]
fn a_layer_has_all_problems_of_its_headers() {
    let policy = |name| Policy::fixed_window(name, ONE).global();
    let limiter = with(policy("größe")).policy(policy("read")).build().unwrap();
    let error = RateLimitLayer::builder(limiter)
        .headers([
            HeaderStyle::ratelimit_dictionary().reset(ResetFormat::Seconds),
            HeaderStyle::ratelimit_lists(),
        ])
        .header_policy("reed")
        .jitter_retry_after(Duration::from_secs(86_401))
        .build()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "header style `ratelimit_dictionary`: it always tells the reset in seconds; leave `.reset(…)` out\n\
         header style `ratelimit_lists`: `ratelimit_dictionary` writes the same header otherwise; leave one out\n\
         policy `größe`: header style `ratelimit_lists` tells its name, which is not printable ASCII; rename it\n\
         header policy `reed`: no policy for requests has this name; write one of `größe`, `read`\n\
         jitter of `Retry-After`: it lengthens waits by more than a day; write a shorter time, such as 10 seconds"
    );
}

#[test]
fn a_policy_holds_once_for_a_request() {
    let policy = Policy::token_bucket("read", Quota::per_minute(1)).global();
    let reads = || Category::new("reads").on(Matcher::get("/"));
    let twice = reads().policy(policy.clone()).policy(policy.clone());
    let message = "category `reads`: policy `read` holds for it twice; leave one out";
    assert_eq!(category(twice).build().unwrap_err().to_string(), message);
    let everywhere = with(policy.clone()).policy(policy.clone());
    let of_all = "every request: policy `read` holds for it twice; leave one out";
    assert_eq!(everywhere.build().unwrap_err().to_string(), of_all);
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
        Quota::per_day(1).burst(36_500),
    ] {
        assert!(self::quota(quota).build().is_ok(), "{quota:?}");
    }
    for builder in [
        keyed(|policy| policy.or_skip().or_key(ClientIp::new()).key(bearer())),
        keyed(|policy| policy.key(from_fn("a", |_| None)).or_key(from_fn("a", |_| None)).or_skip()),
        behind(Matcher::get("/v1/users/{id}"), Matcher::path("/v1/{*rest}")),
        behind(Matcher::get("/v1/{*rest}"), Matcher::path("/v1/users")),
        behind(Matcher::from_fn(|_| true), Matcher::path("/v1/users")),
        by_path("/v1/users/{id}", Matcher::get("/v1/{*rest}")),
        by_path("/v1/{id}/{*rest}", Matcher::get("/v1/users/{user}")),
        by_path("/v1/users/{id}", Matcher::from_fn(|_| true)),
        Limiter::builder().exempt(Matcher::client_ip(ClientIp::new(), [""; 0])),
        Limiter::builder().exempt(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"])),
        Limiter::builder().exempt(Matcher::get("/{*all}")),
    ] {
        let description = format!("{builder:?}");
        assert!(builder.build().is_ok(), "{description}");
    }
}
