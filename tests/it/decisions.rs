//! Which policies apply to a request, whose quota it uses, and the decision.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use http::{Method, Request, request::Parts};
use tokio::time::advance;
use tower_quota::{
    Category, Clock, Decision, Limiter, LimiterBuilder, Matcher, Policy, Quota, Reason, Rejection,
    key::{self, ClientIp, PeerAddr, bearer, header},
};

/// Midnight, so that every window begins now.
fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400)))
}

fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

async fn admitted(limiter: &Limiter, request: &Parts, tries: u64) -> u64 {
    let mut admitted = 0;
    for _ in 0..tries {
        admitted += u64::from(limiter.decide(request).await.is_allowed());
    }
    admitted
}

fn of<'a>(decision: &'a Decision, policy: &str) -> tower_quota::Outcome<'a> {
    decision.outcome(policy).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_one_policy_refuses_costs_nothing_in_any_other() {
    let limiter = builder()
        .policy(Policy::sliding_window("narrow", Quota::per_minute(2)).key(header("k")).or_refuse())
        .policy(Policy::fixed_window("wide", Quota::per_hour(100)).global())
        .policy(Policy::token_bucket("third", Quota::per_hour(100)).key(header("other")).or_skip())
        .build()
        .unwrap();
    let request = request("/", &[("k", "a"), ("other", "b")]);
    assert_eq!(admitted(&limiter, &request, 50).await, 2);
    let decision = limiter.decide(&request).await;
    assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
    assert_eq!(of(&decision, "wide").remaining(), 98);
    assert_eq!(of(&decision, "third").remaining(), 98);
    assert!(of(&decision, "wide").is_allowed() && !of(&decision, "narrow").is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_retry_exactly_in_time_passes_and_one_just_before_does_not() {
    for (policy, wait) in [
        (Policy::token_bucket("p", Quota::per_minute(60)).global(), Duration::from_secs(1)),
        (
            Policy::token_bucket("p", Quota::per_minute(7)).global(),
            Duration::from_nanos(8_571_428_572),
        ),
        (Policy::fixed_window("p", Quota::per_minute(3)).global(), Duration::from_secs(60)),
        (Policy::sliding_window("p", Quota::per_minute(3)).global(), Duration::from_secs(60)),
    ] {
        let limiter = builder().policy(policy).build().unwrap();
        let request = request("/", &[]);
        admitted(&limiter, &request, 100).await;
        let refused = limiter.decide(&request).await;
        assert_eq!(refused.tightest().unwrap().retry_after(), Some(wait));
        let rejection = Rejection::of(&refused).unwrap();
        assert_eq!(rejection.retry_after_seconds(), Some(wait.as_millis().div_ceil(1_000) as u64));

        // The paused clock moves by whole milliseconds.
        let last_refused = Duration::from_millis(wait.as_millis() as u64 - 1);
        advance(last_refused).await;
        assert!(!limiter.decide(&request).await.is_allowed(), "just before");
        advance(Duration::from_secs(rejection.retry_after_seconds().unwrap()) - last_refused).await;
        assert!(limiter.decide(&request).await.is_allowed(), "when told");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_is_at_least_one_second() {
    let limiter = builder()
        .policy(Policy::token_bucket("p", Quota::per_second(1_000).burst(1)).global())
        .build()
        .unwrap();
    let request = request("/", &[]);
    admitted(&limiter, &request, 1).await;
    let refused = Rejection::of(&limiter.decide(&request).await).unwrap();
    assert_eq!(refused.retry_after(), Some(Duration::from_millis(1)));
    assert_eq!(refused.retry_after_seconds(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn each_policy_says_what_happens_without_its_key() {
    let peer = |ip: [u8; 4]| {
        let mut request = request("/", &[]);
        request.extensions.insert(PeerAddr((ip, 80).into()));
        request
    };
    let quota = Quota::per_minute(1);

    let refuse = Policy::fixed_window("p", quota).key(bearer()).or_refuse();
    let refuse = builder().policy(refuse).build().unwrap();
    let decision = refuse.decide(&peer([1, 1, 1, 1])).await;
    assert_eq!(decision.reason(), Some(Reason::MissingKey));
    let rejection = Rejection::of(&decision).unwrap();
    assert_eq!(rejection.status(), 400);
    assert_eq!(rejection.retry_after_seconds(), None);
    assert_eq!(
        rejection.to_string(),
        "Policy `p` counts by bearer token, which the request does not tell."
    );

    let skip = Policy::fixed_window("p", quota).key(bearer()).or_skip();
    let skip = builder().policy(skip).build().unwrap();
    assert_eq!(admitted(&skip, &peer([1, 1, 1, 1]), 5).await, 5);
    assert!(skip.decide(&peer([1, 1, 1, 1])).await.outcomes().len() == 0);

    let other = Policy::fixed_window("p", quota).key(bearer()).or_key(ClientIp::new()).or_refuse();
    let other = builder().policy(other).build().unwrap();
    assert_eq!(admitted(&other, &peer([1, 1, 1, 1]), 5).await, 1);
    assert_eq!(admitted(&other, &peer([2, 2, 2, 2]), 5).await, 1, "never one bucket for all");
    let decision = other.decide(&peer([2, 2, 2, 2])).await;
    assert_eq!(decision.outcomes().next().unwrap().key_kind(), "ip");
}

#[tokio::test(start_paused = true)]
async fn an_empty_key_is_a_missing_key() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1)).key(header("k")).or_refuse();
    let limiter = builder().policy(policy).build().unwrap();
    let decision = limiter.decide(&request("/", &[("k", " ")])).await;
    assert_eq!(decision.reason(), Some(Reason::MissingKey));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_one_policys_key_costs_nothing_in_another() {
    let limiter = builder()
        .policy(Policy::fixed_window("all", Quota::per_minute(10)).global())
        .policy(Policy::fixed_window("key", Quota::per_minute(10)).key(bearer()).or_refuse())
        .build()
        .unwrap();
    assert_eq!(admitted(&limiter, &request("/", &[]), 20).await, 0);
    let all = limiter.check("all", "").cost(0).await.unwrap();
    assert_eq!(all.outcomes().next().unwrap().remaining(), 10);
}

#[tokio::test(start_paused = true)]
async fn equal_values_of_two_kinds_of_key_do_not_share_a_quota() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1))
        .key(header("a"))
        .or_key(header("b"))
        .or_refuse();
    let limiter = builder().policy(policy).build().unwrap();
    assert_eq!(admitted(&limiter, &request("/", &[("a", "same")]), 2).await, 1);
    assert_eq!(admitted(&limiter, &request("/", &[("b", "same")]), 2).await, 1);
}

#[tokio::test(start_paused = true)]
async fn the_first_category_that_matches_is_the_only_one() {
    let limit = |name, units| Policy::fixed_window(name, Quota::per_minute(units)).global();
    let limiter = builder()
        .policy(limit("every request", 1_000))
        .category(Category::new("bulk").on(Matcher::path("/v1/{r}/bulk")).policy(limit("bulk", 2)))
        .category(Category::new("free").on(Matcher::get("/v1/free")))
        .category(Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(limit("read", 3)))
        .category(
            Category::new("write")
                .on(Matcher::methods([Method::POST, Method::PATCH], "/v1/{*rest}"))
                .on(Matcher::post("/rpc"))
                .policy(limit("write", 4)),
        )
        .exempt(Matcher::get("/health"))
        .exempt(Matcher::from_fn(|request| request.headers.contains_key("x-internal")))
        .exempt(Matcher::key(header("x-api-key"), ["partner"]))
        .exempt(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]))
        .build()
        .unwrap();
    let names = |decision: &Decision| -> Vec<String> {
        decision.outcomes().map(|outcome| outcome.policy().to_owned()).collect()
    };
    let decide = |method: Method, uri: &'static str, headers: &'static [(&str, &str)]| {
        let mut request = request(uri, headers);
        request.method = method;
        let limiter = limiter.clone();
        async move { names(&limiter.decide(&request).await) }
    };
    assert_eq!(decide(Method::GET, "/v1/users/bulk", &[]).await, ["every request", "bulk"]);
    assert_eq!(decide(Method::GET, "/v1/users/7", &[]).await, ["every request", "read"]);
    assert_eq!(decide(Method::HEAD, "/v1/users/7", &[]).await, ["every request", "read"]);
    assert_eq!(decide(Method::PATCH, "/v1/users/7", &[]).await, ["every request", "write"]);
    assert_eq!(decide(Method::POST, "/rpc", &[]).await, ["every request", "write"]);
    assert_eq!(decide(Method::GET, "/v1/free", &[]).await, ["every request"]);
    assert_eq!(decide(Method::GET, "/elsewhere", &[]).await, ["every request"]);
    assert!(decide(Method::GET, "/health", &[]).await.is_empty());
    assert!(decide(Method::GET, "/v1/users", &[("x-internal", "1")]).await.is_empty());
    assert!(decide(Method::GET, "/v1/users", &[("x-api-key", "partner")]).await.is_empty());
    let mut inside = request("/v1/users", &[]);
    inside.extensions.insert(PeerAddr(([10, 1, 1, 1], 80).into()));
    assert!(limiter.decide(&inside).await.outcomes().len() == 0);
}

#[tokio::test(start_paused = true)]
async fn categories_with_a_clone_of_a_policy_share_its_counts() {
    let shared = Policy::fixed_window("shared", Quota::per_minute(3)).global();
    let limiter = builder()
        .category(Category::new("a").on(Matcher::path("/a")).policy(shared.clone()))
        .category(Category::new("b").on(Matcher::path("/b")).policy(shared))
        .build()
        .unwrap();
    assert_eq!(admitted(&limiter, &request("/a", &[]), 2).await, 2);
    assert_eq!(admitted(&limiter, &request("/b", &[]), 2).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_plan_may_change_while_running_and_what_was_used_stays_used() {
    let units = Arc::new(AtomicU64::new(10));
    let plan = Arc::clone(&units);
    let policy = Policy::sliding_window("p", Quota::per_minute(1))
        .key(header("k"))
        .or_refuse()
        .quota_by(move |_| match plan.load(SeqCst) {
            u64::MAX => Some(Quota::unlimited()),
            units => Some(Quota::per_minute(units)),
        });
    let limiter = builder().policy(policy).build().unwrap();
    let request = request("/", &[("k", "a")]);
    assert_eq!(admitted(&limiter, &request, 20).await, 10);
    units.store(25, SeqCst);
    assert_eq!(admitted(&limiter, &request, 20).await, 15);
    units.store(5, SeqCst);
    assert_eq!(admitted(&limiter, &request, 20).await, 0);
    units.store(u64::MAX, SeqCst);
    assert_eq!(admitted(&limiter, &request, 20).await, 20);
    assert!(limiter.decide(&request).await.outcomes().len() == 0, "unlimited is not counted");
    units.store(0, SeqCst);
    let decision = limiter.decide(&request).await;
    assert_eq!(decision.reason(), Some(Reason::NoQuota), "not the policy's own quota");
}

#[tokio::test(start_paused = true)]
async fn the_policy_that_speaks_is_the_tightest_or_the_one_that_refuses_longest() {
    let limiter = builder()
        .policy(Policy::sliding_window("hour", Quota::per_hour(5)).global())
        .policy(Policy::sliding_window("minute", Quota::per_minute(5)).global())
        .policy(Policy::token_bucket("day", Quota::per_day(100)).global())
        .build()
        .unwrap();
    let request = request("/", &[]);
    let decision = limiter.decide(&request).await;
    let tightest = decision.tightest().unwrap();
    assert_eq!((tightest.policy(), tightest.remaining()), ("hour", 4), "the longest among equals");
    admitted(&limiter, &request, 4).await;
    let refused = limiter.decide(&request).await;
    let tightest = refused.tightest().unwrap();
    assert_eq!(
        (tightest.policy(), tightest.retry_after()),
        ("hour", Some(Duration::from_secs(3_600)))
    );
}

/// Requests and tokens are not to be compared: how many more such requests fit is.
#[tokio::test(start_paused = true)]
async fn the_tightest_is_the_policy_under_which_the_fewest_such_requests_fit() {
    let policy = |name: &str, units: u64, window: Duration, cost: u64| {
        let quota = Quota::per_window(units, window);
        Policy::sliding_window(name, quota).global().cost(move |_| cost)
    };
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    for (policies, tightest) in [
        // After it, 59 requests would fit, and one of so many tokens not even once.
        ([policy("requests", 60, minute, 1), policy("tokens", 2_999, hour, 1_500)], "tokens"),
        ([policy("tokens", 2_999, hour, 1_500), policy("requests", 60, minute, 1)], "tokens"),
        // As many fit: the smaller share of what there is.
        ([policy("requests", 10, minute, 1), policy("tokens", 100, minute, 10)], "requests"),
        ([policy("requests", 10, minute, 1), policy("tokens", 99, minute, 9)], "requests"),
        ([policy("small", 5, minute, 1), policy("large", 9, hour, 2)], "large"),
        // The same share: the longer until more is left; and then the first.
        ([policy("minute", 10, minute, 1), policy("hour", 10, hour, 1)], "hour"),
        ([policy("first", 10, minute, 1), policy("second", 10, minute, 1)], "first"),
        // What costs nothing is weighed as one unit.
        ([policy("free", 2, minute, 0), policy("paid", 9, minute, 2)], "free"),
    ] {
        let limiter = policies.into_iter().fold(builder(), LimiterBuilder::policy);
        let decision = limiter.build().unwrap().decide(&request("/", &[])).await;
        let told = decision.tightest().unwrap();
        assert_eq!(told.policy(), tightest, "{decision:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_refusals_that_last_equally_long_the_last_speaks() {
    let policy = |name: &str| Policy::sliding_window(name, Quota::per_minute(1)).global();
    let limiter = builder().policy(policy("first")).policy(policy("second")).build().unwrap();
    admitted(&limiter, &request("/", &[]), 1).await;
    let refused = limiter.decide(&request("/", &[])).await;
    assert_eq!(refused.tightest().unwrap().policy(), "second");
    assert_eq!(Rejection::of(&refused).unwrap().policy(), "second");
}

#[tokio::test(start_paused = true)]
async fn a_cost_above_the_whole_quota_is_never_told_to_retry() {
    let policy = Policy::token_bucket("rows", Quota::per_minute(10)).global().cost(|request| {
        request.headers.get("rows").map_or(1, |rows| rows.to_str().unwrap().parse().unwrap())
    });
    let limiter = builder().policy(policy).build().unwrap();
    let rows = |rows: &'static str| request("/", &[("rows", rows)]);
    assert!(limiter.decide(&rows("4")).await.is_allowed());
    let too_many = limiter.decide(&rows("11")).await;
    assert_eq!(too_many.reason(), Some(Reason::CostExceedsQuota));
    let rejection = Rejection::of(&too_many).unwrap();
    assert_eq!((rejection.retry_after(), too_many.remaining()), (None, 6));
    assert_eq!(
        rejection.to_string(),
        "The request costs more than the whole quota of policy `rows` (10 per 60s)."
    );
    let later = limiter.decide(&rows("9")).await;
    assert_eq!(later.tightest().unwrap().retry_after(), Some(Duration::from_secs(18)));
    assert_eq!(
        Rejection::of(&later).unwrap().to_string(),
        "The request costs 9 units, and policy `rows` (10 per 60s) has 6 left. Retry after 18 seconds.",
    );
    assert!(limiter.decide(&rows("6")).await.is_allowed(), "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn a_job_asks_the_same_policy_as_the_requests_of_its_key() {
    let exports = Policy::fixed_window("exports", Quota::per_hour(3)).key(header("k")).or_refuse();
    let limiter = builder().policy(exports).build().unwrap();
    assert!(limiter.decide(&request("/", &[("k", "a")])).await.is_allowed());
    assert!(limiter.check("exports", "a").cost(2).await.unwrap().is_allowed());
    let refused = limiter.check("exports", "a").await.unwrap();
    assert_eq!(refused.reason(), Some(Reason::QuotaExceeded));
    let planned = limiter.check("exports", "a").quota(Quota::per_hour(10)).await.unwrap();
    assert_eq!(planned.outcomes().next().unwrap().remaining(), 6);
    let unlimited = limiter.check("exports", "a").quota(Quota::unlimited()).await.unwrap();
    assert!(unlimited.is_allowed() && unlimited.outcomes().len() == 0);
    let unknown = limiter.check("imports", "a").await.unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "no policy is named `imports`; add it to the limiter, as with `.check_only(…)`"
    );
}

#[tokio::test(start_paused = true)]
async fn keys_of_every_kind_draw_on_quotas_of_their_own() {
    #[derive(Clone)]
    struct User(u64);
    let policies = [
        Policy::fixed_window("query", Quota::per_minute(1)).key(key::query("api_key")),
        Policy::fixed_window("path", Quota::per_minute(1))
            .key(key::path_param("/t/{tenant}/{*rest}", "tenant")),
        Policy::fixed_window("user", Quota::per_minute(1))
            .key(key::extension("user", |user: &User| user.0.into())),
        Policy::fixed_window("tuple", Quota::per_minute(1)).key((header("a"), header("b"))),
        Policy::fixed_window("closure", Quota::per_minute(1))
            .key(key::from_fn("host", |request| Some(request.uri.host()?.into()))),
    ];
    let with_user = |id| {
        let mut request = request("/", &[]);
        request.extensions.insert(User(id));
        request
    };
    let pairs = [
        (request("/?api_key=1", &[]), request("/?api_key=2", &[])),
        (request("/t/one/x", &[]), request("/t/two/x", &[])),
        (with_user(1), with_user(2)),
        (request("/", &[("a", "1"), ("b", "2")]), request("/", &[("a", "12"), ("b", "")])),
        (request("http://one/", &[]), request("http://two/", &[])),
    ];
    for (policy, (one, two)) in policies.into_iter().zip(pairs) {
        let name = policy.name().to_owned();
        let limiter = builder().policy(policy.or_skip()).build().unwrap();
        assert_eq!(admitted(&limiter, &one, 3).await, 1, "{name}");
        assert!(limiter.decide(&two).await.is_allowed(), "{name}");
        assert!(limiter.decide(&request("/", &[])).await.is_allowed(), "{name}: no key");
    }
}
