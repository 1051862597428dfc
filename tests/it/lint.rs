//! Lints tell what is probably not meant, and nothing of settings that are.
#![cfg(feature = "describe")]

use http::{Method, Request};
use tower_quota::{
    Category, Limiter, LimiterBuilder, Lint, LintKind, Matcher, Policy, Quota,
    key::{self, ClientIp},
};

use crate::explain::world::Random;

fn policy(name: &str) -> Policy {
    Policy::token_bucket(name, Quota::per_minute(60)).global()
}

fn category(name: &str, matchers: impl IntoIterator<Item = Matcher>) -> Category {
    matchers.into_iter().fold(Category::new(name), Category::on).policy(policy(name))
}

fn with(categories: impl IntoIterator<Item = Category>) -> LimiterBuilder {
    categories.into_iter().fold(Limiter::builder(), LimiterBuilder::category)
}

fn texts(lints: &[Lint]) -> Vec<String> {
    lints.iter().map(ToString::to_string).collect()
}

#[test]
fn what_comes_first_is_the_narrower_one() {
    let limiter = with([
        category("search", [Matcher::post("/v1/users/search")]),
        category("bulk", [Matcher::post("/v1/{resource}/bulk")]),
        category("auth", [Matcher::path("/v1/auth/sign-in/{*rest}")]),
        category("read", [Matcher::get("/v1/{*rest}")]),
        category("write", [Matcher::path("/v1/{*rest}")]),
    ]);
    let limiter = limiter.exempt(Matcher::get("/v1/health")).build().unwrap();
    assert_eq!(limiter.lint(), []);
}

#[test]
fn crossing_patterns_are_told_with_an_example() {
    let limiter = with([
        category("bulk", [Matcher::post("/v1/{resource}/bulk")]),
        category("users", [Matcher::path("/v1/users/{id}")]),
    ]);
    let lints = limiter.build().unwrap().lint();
    assert_eq!(
        texts(&lints),
        ["category `users`: requests like `POST /v1/users/bulk` match its `/v1/users/{id}`, and \
          `POST /v1/{resource}/bulk` of category `bulk`, which comes first and has them; if they \
          belong to `users`, put it first, or write the narrower path"]
    );
    assert_eq!((lints[0].kind(), lints[0].culprit()), (LintKind::Overlap, "category `users`"));
}

#[test]
fn an_exemption_that_takes_a_part_of_a_narrower_category_is_told() {
    let auth = category("auth", [Matcher::path("/v1/auth/{*rest}")]);
    let limiter = with([auth]).exempt(Matcher::get("/v1/{*rest}")).build().unwrap();
    assert_eq!(
        texts(&limiter.lint()),
        ["category `auth`: requests like `GET /v1/auth` match its `/v1/auth/{*rest}`, and \
          `GET, HEAD /v1/{*rest}` of an exemption, which comes first and has them; if they belong \
          to `auth`, put it first, or write the narrower path"]
    );
}

#[test]
fn what_earlier_settings_have_together_is_not_reached() {
    let limiter = with([
        category("a", [Matcher::path("/v1/a"), Matcher::path("/v1/{id}")]),
        category("deep", [Matcher::path("/v1/{id}/{*rest}")]),
        category("late", [Matcher::get("/v1/{*rest}"), Matcher::get("/v2")]),
    ]);
    let limiter = limiter.exempt(Matcher::path("/v1")).build().unwrap();
    assert_eq!(
        texts(&limiter.lint()),
        ["category `late`: no request reaches it by `GET, HEAD /v1/{*rest}`: an exemption and \
          category `a` and category `deep` come first and together match all of them; put the \
          narrower ones first, or leave it out"]
    );
}

#[test]
fn exemptions_that_together_have_all_requests_are_told() {
    let everything = [Matcher::path("/"), Matcher::path("/{one}"), Matcher::path("/{one}/{*rest}")];
    let networks = ["0.0.0.0/1", "128.0.0.0/1"];
    let halves = networks.map(|network| Matcher::client_ip(ClientIp::new(), [network]));
    for exemptions in [everything.to_vec(), halves.to_vec()] {
        let exempt = |count: usize| {
            let some = exemptions[..count].iter().cloned();
            let builder = Limiter::builder().policy(policy("all"));
            some.fold(builder, LimiterBuilder::exempt).build().unwrap().lint()
        };
        assert_eq!(exempt(exemptions.len() - 1), []);
        let lints = exempt(exemptions.len());
        assert_eq!(lints.len(), 1);
        assert_eq!(lints[0].kind(), LintKind::AllExempt);
    }
}

#[test]
fn a_key_in_a_path_that_a_category_does_not_have_is_told() {
    let tenant = key::path_param("/v1/tenants/{tenant}/{*rest}", "tenant");
    let per_tenant = Policy::token_bucket("tenant", Quota::per_minute(1)).key(tenant).or_skip();
    let category =
        |name, path| Category::new(name).on(Matcher::get(path)).policy(per_tenant.clone());
    let limiter =
        with([category("right", "/v1/tenants/{id}/users"), category("wrong", "/v1/users")]);
    assert_eq!(
        texts(&limiter.build().unwrap().lint()),
        ["policy `tenant`: it counts by a parameter of the path `/v1/tenants/{tenant}/{*rest}`, \
          which no request of category `wrong` has; write the path of one, or leave the policy out \
          of this category"]
    );
}

#[test]
fn routes_without_a_policy_and_paths_without_a_route_are_told() {
    let tenant = key::path_param("/v1/tenant/{tenant}", "tenant");
    let by_tenant = Policy::token_bucket("jobs", Quota::per_minute(1)).key(tenant);
    let limiter = with([
        category("read", [Matcher::get("/v1/users/{id}"), Matcher::get("/v1/tenant/{id}")]),
        category("write", [Matcher::post("/v1/users")]),
    ]);
    let limiter = limiter.exempt(Matcher::get("/healthz")).check_only(by_tenant).build().unwrap();
    let lints = limiter.lint_routes([
        ("GET", "/health"),
        ("GET", "/v1/users/{user}"),
        ("*", "/v1/users"),
        ("GET", "/v1/tenants/{id}"),
        ("", "/v1"),
        ("GET", "v1"),
    ]);
    assert_eq!(
        texts(&lints),
        [
            "route ` /v1`: it has no method; write one like `GET`, or `*` for any",
            "route `GET v1`: the path `v1` does not begin with a slash; write `/v1`",
            "route `GET /health`: requests like `GET /health` are in no category, and no policy holds \
             for every request: nothing limits them; add a matcher for them to a category, or write \
             `.exempt(…)`",
            "route `* /v1/users`: requests like `GET /v1/users` are in no category, and no policy \
             holds for every request: nothing limits them; add a matcher for them to a category, or \
             write `.exempt(…)`",
            "route `GET /v1/tenants/{id}`: requests like `GET /v1/tenants/7` are in no category, and \
             no policy holds for every request: nothing limits them; add a matcher for them to a \
             category, or write `.exempt(…)`",
            "exemption: `GET, HEAD /healthz` fits none of the routes; write the path of one, such as \
             `GET /health`, or leave it out",
            "category `read`: `GET, HEAD /v1/tenant/{id}` fits none of the routes; write the path of \
             one, such as `GET /v1/tenants/{id}`, or leave it out",
            "policy `jobs`: it counts by a parameter of the path `/v1/tenant/{tenant}`, which fits \
             none of the routes; write the path of one, such as `GET /v1/tenants/{id}`, or leave it out",
        ]
    );
}

#[test]
fn what_is_not_known_is_not_told() {
    let flagged = Matcher::from_fn(|request| request.headers.contains_key("x-flag"));
    let limiter = with([category("flagged", [flagged]), category("all", [Matcher::path("/a")])]);
    assert_eq!(limiter.build().unwrap().lint_routes([("GET", "/a"), ("GET", "/b")]), []);
    let every = Limiter::builder().policy(policy("every")).build().unwrap();
    assert_eq!(every.lint_routes([("GET", "/a")]), []);
}

/// What is told of random categories agrees with what becomes of random requests.
#[test]
fn lints_agree_with_decisions() {
    const SEGMENTS: [&str; 6] = ["a", "b", "ab", "{x}", "a{x}", "c"];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut told = [0; 2];
    for seed in 0..3_000 {
        let random = &mut Random(seed);
        let pattern = |random: &mut Random| {
            let count = 1 + random.below(3);
            let segments: Vec<_> = (0..count).map(|_| random.pick(&SEGMENTS)).collect();
            let end = random.pick(&["", "", "/{*rest}"]);
            format!("/{}{end}", segments.join("/"))
        };
        let matchers: Vec<_> = (0..4)
            .map(|_| {
                let path = pattern(random);
                match random.below(3) {
                    0 => Matcher::get(&path),
                    1 => Matcher::post(&path),
                    _ => Matcher::path(&path),
                }
            })
            .collect();
        let names = ["first", "second", "third", "fourth"];
        let categories = names.iter().zip(&matchers);
        let limiter = with(categories.map(|(name, by)| category(name, [by.clone()]))).build();
        let Ok(limiter) = limiter else { continue };
        let lints = limiter.lint();
        let kinds = |name: &str| -> Vec<LintKind> {
            let culprit = format!("category `{name}`");
            let own = lints.iter().filter(|lint| lint.culprit() == culprit);
            own.map(Lint::kind).collect()
        };
        for _ in 0..100 {
            let count = 1 + random.below(4);
            let segments = ["a", "b", "ab", "ax", "c", "d"];
            let path: String = (0..count).map(|_| format!("/{}", random.pick(&segments))).collect();
            let method = random.pick(&[Method::GET, Method::POST, Method::PUT]);
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            let explained = runtime.block_on(limiter.explain(&request.into_parts().0));
            if let Some(category) = explained.category {
                let index = names.iter().position(|name| *name == category).unwrap();
                assert!(!kinds(names[index]).contains(&LintKind::Unreachable), "{lints:?}");
            }
        }
        told[0] += lints.iter().filter(|lint| lint.kind() == LintKind::Unreachable).count();
        told[1] += lints.iter().filter(|lint| lint.kind() == LintKind::Overlap).count();
    }
    assert!(told.iter().all(|count| *count > 20), "{told:?}");
}

#[test]
fn a_policys_own_quota_that_is_larger_than_a_plan_is_reported() {
    use std::time::Duration;

    let minute = Quota::per_minute;
    let lints = |own: Quota, plan: Quota| {
        let policy = match own.is_in_flight() {
            true => Policy::in_flight("p", own.units()),
            false => Policy::token_bucket("p", own),
        };
        let plans = [("least", plan), ("most", Quota::unlimited())];
        let policy = policy.global().plans(plans, |_| None);
        Limiter::builder().policy(policy).build().unwrap().lint()
    };
    for (own, plan) in [
        (minute(60), minute(60)),
        (minute(60), Quota::per_second(1)),
        (Quota::per_day(1_000), minute(60)),
        (Quota::unlimited(), Quota::unlimited()),
        (Quota::in_flight(4), Quota::in_flight(4)),
    ] {
        assert_eq!(lints(own, plan), [], "{own:?} {plan:?}");
    }
    for (own, plan) in [
        (minute(600), minute(60)),
        (minute(61), Quota::per_second(1)),
        (Quota::per_second(2), Quota::per_day(86_400)),
        (Quota::unlimited(), Quota::per_window(999_999_999_999, Duration::from_secs(1))),
        (Quota::in_flight(5), Quota::in_flight(4)),
    ] {
        let lints = lints(own, plan);
        assert_eq!(
            texts(&lints),
            [
                "policy `p`: its own quota is larger than that of its plan `least`, and holds for each \
              request whose plan is not found; make it the smallest, and put larger ones into `.plans(…)`"
            ]
        );
        assert_eq!(lints[0].kind(), LintKind::OwnQuotaLarger);
    }
}

#[test]
fn a_cost_that_is_known_at_the_end_of_a_short_window_or_without_an_estimate_is_reported() {
    use std::time::Duration;
    use tower_quota::Penalty;

    let kinds = |policy: Policy| -> Vec<LintKind> {
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        limiter.lint().iter().map(Lint::kind).collect()
    };
    let settled =
        |policy: Policy| policy.key(key::bearer()).or_refuse().cost(|_| 500).settle_at_end();
    let (minute, hour) = (Quota::per_minute(10_000), Quota::per_hour(10_000));
    let plan = |policy: Policy, plan| policy.plans([("plan", plan)], |_| None);
    for policy in [
        settled(Policy::token_bucket("p", minute)),
        settled(Policy::fixed_window("p", hour)),
        settled(Policy::sliding_window("p", hour)),
        plan(settled(Policy::sliding_window("p", hour)), Quota::unlimited()),
        Policy::sliding_window("p", minute).global(),
    ] {
        assert_eq!(kinds(policy), []);
    }
    for policy in [
        settled(Policy::fixed_window("p", minute)),
        settled(Policy::sliding_window("p", Quota::per_window(9, Duration::from_secs(3_599)))),
        plan(settled(Policy::sliding_window("p", hour)), Quota::per_minute(10_001)),
    ] {
        assert_eq!(kinds(policy), [LintKind::SettlesInShortWindow]);
    }

    let bucket =
        || Policy::token_bucket("p", minute).key(key::bearer()).or_refuse().settle_at_end();
    assert_eq!(kinds(bucket()), [LintKind::NoEstimate]);
    let penalty = || Penalty::after(5).block(Duration::from_secs(60));
    let second = Duration::from_secs(1);
    assert_eq!(kinds(bucket().penalty(penalty().failures_within(second))), []);
    let of_refusals = bucket().penalty(penalty().refusals_within(second));
    assert_eq!(kinds(of_refusals), [LintKind::NoEstimate]);
    let checked = Policy::token_bucket("p", minute).settle_at_end();
    assert_eq!(Limiter::builder().check_only(checked).build().unwrap().lint(), []);
}

#[test]
fn an_address_that_is_read_in_two_ways_is_reported() {
    let behind = || ClientIp::new().trust_proxies(["127.0.0.0/8"]);
    let by = |name: &str, key: ClientIp| {
        Policy::token_bucket(name, Quota::per_minute(60)).key((key, key::bearer())).or_refuse()
    };
    let inside = |client_ip: ClientIp| {
        let inside = Matcher::client_ip(client_ip, ["127.0.0.0/8"]);
        Matcher::get("/health").and(inside.not())
    };
    let with = |exempt: ClientIp, category: ClientIp, policy: ClientIp| {
        let inner = Category::new("inside").on(inside(category)).policy(by("second", policy));
        let limiter = Limiter::builder().policy(by("first", behind())).category(inner);
        limiter.exempt(inside(exempt)).build().unwrap().lint()
    };
    let peer = ClientIp::new().trust_hops(0);
    assert_eq!(with(behind(), behind(), behind().ipv6_prefix(48)), []);
    assert_eq!(with(peer.clone(), peer.clone(), peer), [], "they say that it is the peer");
    let lints = with(ClientIp::new(), behind().forwarded(), ClientIp::new().trust_hops(1));
    let culprits: Vec<_> = lints.iter().map(Lint::culprit).collect();
    assert_eq!(culprits, ["policy `second`", "exemption", "category `inside`"]);
    assert!(lints.iter().all(|lint| lint.kind() == LintKind::AddressesDiffer));
    assert_eq!(
        lints[1].to_string(),
        "exemption: it reads the client's address in another way than policy `first`: it trusts other \
         proxies, or reads another header; write the same `ClientIp` for both, or `.trust_hops(0)` for the \
         peer itself"
    );
}

#[cfg(all(feature = "axum", feature = "tracing", feature = "usage"))]
#[test]
fn the_examples_lint_clean() {
    use tower_quota::Clock;

    use crate::examples::{fhir_directory, gateway, gather, hellojohn, jump_ehr};

    let clock = Clock::system;
    let limiter = hellojohn::limiter(hellojohn::Contracts::default(), clock()).unwrap();
    let post = |path| ("POST", path);
    let routes = [
        post("/v1/auth/sign-in"),
        post("/v1/auth/sign-up"),
        post("/v1/auth/magic-link"),
        post("/v1/auth/password/forgot"),
        post("/v1/auth/token/refresh"),
        post("/v1/mfa/verify"),
        ("GET", "/v1/users"),
        post("/v1/users"),
        ("GET", "/v1/users/{id}"),
        ("PATCH", "/v1/users/{id}"),
        ("DELETE", "/v1/users/{id}"),
        post("/v1/users/bulk"),
        post("/v1/{resource}/bulk"),
        post("/v1/admin/users/search"),
        post("/v1/webhooks/{webhook}/test"),
        ("GET", "/v1/webhooks/{webhook}/deliveries"),
        post("/v1/email/config/test"),
        ("GET", "/v1/email/templates/{template}/preview"),
        ("GET", "/health"),
        ("GET", "/.well-known/jwks.json"),
        post("/v1/webhooks/callback"),
    ];
    assert_eq!(limiter.lint_routes(routes), []);

    let layer = fhir_directory::rate_limit(clock()).unwrap();
    assert_eq!(layer.limiter().lint_routes([("GET", "/"), ("GET", "/api/v1/endpoints")]), []);

    let layer = gateway::rate_limit(clock()).unwrap();
    let paths = ["/v1/sites", "/v1/job-types", "/v1/custom-fields", "/v1/jobs"];
    assert_eq!(layer.limiter().lint_routes(paths.map(|path| ("*", path))), []);

    let layer = gather::rate_limit(clock()).unwrap();
    let routes = [("GET", "/qsi/gather/questions"), ("POST", "/qsi/gather/answers")];
    assert_eq!(layer.limiter().lint_routes(routes), []);

    let limiter = jump_ehr::limiter(clock()).unwrap();
    assert_eq!(limiter.lint_routes([("GET", "/functions/v1/api-v1/patients/{id}")]), []);
}
