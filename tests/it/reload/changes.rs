//! What an apply says that it has changed.

use std::time::Duration;

use tower_quota::{
    Category, Limiter, LimiterBuilder, Matcher, OnStoreFailure, Policy, Quota,
    key::{self, ClientIp, header},
};

use super::{daily, limits};

/// The lines that `after` is told in, applied to a limiter of `before`.
fn told(before: LimiterBuilder, after: LimiterBuilder) -> Vec<String> {
    let changes = before.build().unwrap().apply(after).unwrap();
    assert_eq!(changes.is_empty(), changes.all().is_empty());
    let lines: Vec<_> = changes.all().iter().map(ToString::to_string).collect();
    assert_eq!(changes.to_string(), lines.join("\n"));
    lines
}

fn bucket(quota: Quota) -> Policy {
    Policy::token_bucket("p", quota).key(header("x-key")).or_refuse()
}

#[test]
fn equal_limits_are_no_change() {
    let settings = || {
        let read = bucket(Quota::per_minute(60))
            .plans([("pro", Quota::per_minute(600))], |_| None)
            .cost(|_| 2)
            .settle(|_| None);
        Limiter::builder()
            .exempt(Matcher::from_fn(|_| false))
            .exempt(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]))
            .exempt(Matcher::key(header("x-key"), ["internal"]))
            .category(Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(read))
            .policy(daily("all", 9))
            .check_only(Policy::fixed_window("jobs", Quota::per_hour(5)))
            .max_held(7)
    };
    assert_eq!(told(settings(), settings()), [""; 0]);
}

#[test]
fn each_setting_of_a_policy_is_told() {
    let minute = Quota::per_minute(60);
    let changed: [(Policy, &str); 15] = [
        (bucket(Quota::per_hour(60)), "quota 60 per minute, 60 at once → 60 per hour, 60 at once"),
        (bucket(minute.burst(5)), "quota 60 per minute, 60 at once → 60 per minute, 5 at once"),
        (bucket(Quota::unlimited()), "quota 60 per minute, 60 at once → unlimited"),
        (bucket(minute).or_key(ClientIp::new()), "keys x-key → x-key, or else ip"),
        (
            Policy::token_bucket("p", minute).key(header("x-key")).or_skip(),
            "without_key refused → not counted",
        ),
        (bucket(minute).unreadable_as_missing(), "unreadable_as_missing none → yes"),
        (
            bucket(minute)
                .plans([("pro", Quota::per_minute(600)), ("none", Quota::unlimited())], |_| None),
            "plans none → `pro` 600 per minute, 600 at once, `none` unlimited",
        ),
        (bucket(minute).quota_by(|_| None), "quota_by none → a function"),
        (bucket(minute).cost(|_| 2), "cost none → by the request"),
        (bucket(minute).settle(|_| None), "settle none → by the response"),
        (bucket(minute).settle_at_end(), "settle_at_end none → yes"),
        (bucket(minute).hold(Duration::from_secs(2)), "hold none → 2 seconds"),
        (bucket(minute).dry_run(), "dry_run none → yes"),
        (
            bucket(minute).on_store_failure(OnStoreFailure::Refuse),
            "on_store_failure counted by each of 1 replicas → all are refused",
        ),
        (bucket(minute).lease(10), "lease none → 10"),
    ];
    for (policy, line) in changed {
        let line = format!("policy `p`: {line}");
        assert_eq!(told(limits([bucket(minute)]), limits([policy.clone()])), [&*line]);
        let (setting, values) = line.split_once(": ").unwrap();
        let (from, to) = values.split_once(" → ").unwrap();
        let back = told(limits([policy]), limits([bucket(minute)]));
        let is_back = |part: &str| back[0].contains(part);
        assert!(
            is_back(setting) && is_back(to) && is_back(from.split(' ').next_back().unwrap()),
            "{back:?}"
        );
    }
    let held = || bucket(minute).hold(Duration::from_secs(2));
    let fair = held().fair_by(header("x-tenant"));
    let weighted = fair.clone().fair_weights([("free", 1), ("pro", 5)], |_| None);
    assert_eq!(
        told(limits([held()]), limits([fair.clone()])),
        ["policy `p`: fair_by none → x-tenant"]
    );
    assert_eq!(
        told(limits([fair.clone()]), limits([weighted])),
        ["policy `p`: fair_weights none → `free` 1, `pro` 5"]
    );
    let other = held().fair_by(key::bearer());
    assert_eq!(
        told(limits([fair]), limits([other])),
        ["policy `p`: fair_by x-tenant → bearer token"]
    );
    let window = Policy::sliding_window("p", minute).key(header("x-key")).or_refuse();
    assert_eq!(
        told(limits([bucket(minute)]), limits([window])),
        [
            "policy `p`: quota 60 per minute, 60 at once → 60 per minute",
            "policy `p`: algorithm token bucket → sliding window; counts begin anew",
        ]
    );
    let tokens = bucket(minute).unit("tokens");
    assert_eq!(
        told(limits([bucket(minute)]), limits([tokens])),
        ["policy `p`: quota 60 per minute, 60 at once → 60 tokens per minute, 60 at once"]
    );
}

#[test]
fn policies_categories_exemptions_and_bounds_are_told() {
    let category = |name: &str, path: &str| Category::new(name).on(Matcher::get(path));
    let before = Limiter::builder()
        .exempt(Matcher::get("/health"))
        .category(category("auth", "/auth").policy(daily("auth", 5)))
        .category(category("read", "/v1").policy(daily("read", 9)))
        .policy(daily("all", 100))
        .check_only(Policy::fixed_window("jobs", Quota::per_hour(5)));
    let after = Limiter::builder()
        .exempt(Matcher::get("/health"))
        .exempt(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]))
        .category(category("read", "/v2").policy(daily("read", 9)).policy(daily("bulk", 1)))
        .category(category("auth", "/auth").hold(Duration::from_secs(60)).policy(daily("auth", 5)))
        .category(category("write", "/w").policy(daily("write", 7)))
        .max_held(50)
        .max_held_per_caller(5);
    assert_eq!(
        told(before, after),
        [
            "policy `all`: removed",
            "policy `jobs`: removed",
            "policy `read`: added (quota 9 per day; algorithm fixed window; keys x-key; without_key refused; on_store_failure counted by each of 1 replicas)",
        ]
        .into_iter()
        .take(2)
        .map(str::to_owned)
        .chain(
            [
                "policy `bulk`: added (quota 1 per day; algorithm fixed window; keys x-key; without_key refused; on_store_failure counted by each of 1 replicas)",
                "policy `write`: added (quota 7 per day; algorithm fixed window; keys x-key; without_key refused; on_store_failure counted by each of 1 replicas)",
                "category `auth`: hold none → 1 minute",
                "category `read`: requests GET, HEAD /v1 → GET, HEAD /v2",
                "category `read`: policies `read` → `read`, `bulk`",
                "category `write`: added (requests GET, HEAD /w; policies `write`)",
                "every request: policies `all` → none",
                "checks: policies `jobs` → none",
                "categories: order `auth`, `read` → `read`, `auth`",
                "exemptions: requests GET, HEAD /health → GET, HEAD /health; addresses in 10.0.0.0/8",
                "held requests: max_held 10000 → 50",
                "held requests: max_held_per_caller none → 5",
            ]
            .map(str::to_owned)
        )
        .collect::<Vec<_>>()
    );
}

/// Trusting a proxy is a change of security, though the kind of key stays.
#[test]
fn other_settings_of_a_key_are_told_wherever_it_is_used() {
    let limits = |client_ip: ClientIp| {
        let policy =
            Policy::fixed_window("p", Quota::per_day(9)).key(client_ip.clone()).or_refuse();
        let matcher = Matcher::client_ip(client_ip, ["10.1.0.0/16"]);
        let by_closure = key::from_fn("host", |request| Some(request.uri.host()?.into()));
        let category = Category::new("c").on(matcher.clone());
        let other = Policy::fixed_window("q", Quota::per_day(9)).key(by_closure).or_refuse();
        Limiter::builder().exempt(matcher).policy(policy).category(category.policy(other))
    };
    let trusting = || ClientIp::new().trust_proxies(["10.0.0.0/8"]);
    assert_eq!(
        told(limits(ClientIp::new()), limits(trusting())),
        [
            "policy `p`: keys ip → ip, with other settings",
            "category `c`: requests addresses in 10.1.0.0/16 → addresses in 10.1.0.0/16, with other settings",
            "exemptions: requests addresses in 10.1.0.0/16 → addresses in 10.1.0.0/16, with other settings",
        ]
    );
    assert_eq!(told(limits(trusting()), limits(trusting())), [""; 0]);
}
