//! A request that reaches a handler of a category is counted in it, however routers read the path.
#![cfg(feature = "axum")]

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, Uri},
    routing::{any as any_method, post},
};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};
use tower_http::normalize_path::NormalizePathLayer;
use tower_quota::{
    Category, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer, key::path_param,
};

use crate::fuzz_targets;

fn one(name: &str) -> Policy {
    Policy::fixed_window(name, Quota::per_hour(1)).global()
}

fn category(name: &str, matcher: Matcher) -> Category {
    Category::new(name).on(matcher).policy(one(name))
}

fn limit(app: Router, builder: LimiterBuilder) -> Router {
    app.layer(RateLimitLayer::new(builder.build().unwrap()))
}

async fn send(app: &Router, method: Method, uri: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn a_path_that_a_router_rewrites_is_counted_as_the_one_it_becomes() {
    let sign_in = || Router::new().route("/sign-in", post(|| async { "in" }));
    let nested = || Router::new().nest_service("/v1/auth", sign_in());
    let trimmed = NormalizePathLayer::trim_trailing_slash().layer(nested());
    for (app, path) in [
        (nested(), "/v1/auth/sign-in"),
        (nested(), "/v1/auth//sign-in"),
        (Router::new().fallback_service(trimmed.clone()), "/v1/auth/sign-in/"),
        (Router::new().fallback_service(trimmed), "//v1/auth//sign-in//"),
    ] {
        let matcher = Matcher::post("/v1/auth/sign-in");
        let app = limit(app, Limiter::builder().category(category("sign-in", matcher)));
        assert_eq!(send(&app, Method::POST, path).await, StatusCode::OK, "{path}");
        let again = send(&app, Method::POST, path).await;
        assert_eq!(again, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
}

#[tokio::test]
async fn a_wildcard_covers_its_root() {
    let v1 = Router::new().fallback(|| async { "v1" });
    for path in ["/v1", "/v1/", "/v1/a", "/v1/a/b"] {
        let app = Router::new().nest_service("/v1", v1.clone());
        let app =
            limit(app, Limiter::builder().category(category("v1", Matcher::path("/v1/{*rest}"))));
        assert_eq!(send(&app, Method::GET, path).await, StatusCode::OK, "{path}");
        let again = send(&app, Method::GET, path).await;
        assert_eq!(again, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
}

#[tokio::test]
async fn a_socket_over_http2_is_opened_by_connect_and_counts_as_get() {
    let app = Router::new().route("/ws", any_method(|| async { "open" }));
    let app = limit(app, Limiter::builder().category(category("sockets", Matcher::get("/ws"))));
    assert_eq!(send(&app, Method::CONNECT, "/ws").await, StatusCode::OK);
    assert_eq!(send(&app, Method::GET, "/ws").await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn get_among_methods_means_head_too() {
    let app = Router::new().route("/a", any_method(|| async { "a" }));
    let matcher = Matcher::methods([Method::GET, Method::PUT], "/a");
    let app = limit(app, Limiter::builder().category(category("a", matcher)));
    assert_eq!(send(&app, Method::HEAD, "/a").await, StatusCode::OK);
    assert_eq!(send(&app, Method::GET, "/a").await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_request_that_routers_read_differently_counts_in_each_category_that_they_may_choose() {
    let app = || Router::new().fallback(|| async { "any" });
    let limited = || {
        let builder = Limiter::builder()
            .exempt(Matcher::get("/health"))
            .category(category("ping", Matcher::get("/v1/ping")))
            .category(category("all", Matcher::get("/v1/{*rest}")));
        limit(app(), builder)
    };
    // The first of them spends the quota of the second.
    for (path, spent) in [
        ("/v1/x/../ping", "/v1/ping"),
        ("/v1/x/../ping", "/v1/other"),
        ("/v1//ping", "/v1/other"),
        ("/v1/%70ing", "/v1/ping"),
        ("/v1/x/../../health", "/v1/other"),
        ("/v1/ping/", "/v1/ping"),
        ("/v1/ping/", "/v1/other"),
    ] {
        let app = limited();
        assert_eq!(send(&app, Method::GET, path).await, StatusCode::OK, "{path}");
        let again = send(&app, Method::GET, spent).await;
        assert_eq!(again, StatusCode::TOO_MANY_REQUESTS, "{path} {spent}");
    }
    let app = limited();
    // What all read alike is in one category.
    for path in ["/health", "/v1/a%20b", "/v1/ping", "/health"] {
        assert_eq!(send(&app, Method::GET, path).await, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_policy_of_several_such_categories_is_charged_once() {
    let shared = Policy::fixed_window("shared", Quota::per_hour(10)).global();
    let category = |name, path| {
        Category::new(name).on(Matcher::get(path)).policy(shared.clone()).policy(one(name))
    };
    let limiter = Limiter::builder()
        .category(category("deep", "/v1/a/b"))
        .category(category("short", "/v1/b"))
        .category(category("rest", "/v1/{*rest}"))
        .build()
        .unwrap();
    let (request, ()) = Request::get("/v1/a/../b").body(()).unwrap().into_parts();
    let decision = limiter.decide(&request).await;
    let mut policies: Vec<_> = decision.outcomes().map(|outcome| outcome.policy()).collect();
    assert!(policies.len() > 2, "it counts in several categories: {policies:?}");
    assert_eq!(decision.outcome("shared").unwrap().remaining(), 9);
    policies.sort();
    policies.dedup();
    assert_eq!(policies.len(), decision.outcomes().len(), "each policy once");
}

#[tokio::test]
async fn an_encoded_slash_is_part_of_its_segment() {
    let by_project = Policy::fixed_window("project", Quota::per_hour(1))
        .key(path_param("/projects/{id}/{*rest}", "id"))
        .or_refuse();
    let app = Router::new().route("/projects/{id}/issues", any_method(|| async { "issues" }));
    let app = limit(app, Limiter::builder().policy(by_project));
    let first = "/projects/group%2Fone/issues";
    assert_eq!(send(&app, Method::GET, first).await, StatusCode::OK);
    assert_eq!(send(&app, Method::GET, first).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(send(&app, Method::GET, "/projects/group%2Ftwo/issues").await, StatusCode::OK);
}

#[test]
fn what_the_fuzzer_has_found_stays_found() {
    // `/v1/`, which a nested router leaves to the one outside.
    for method in 0..5 {
        fuzz_targets::paths::paths(&[method, 0, 4, 0]);
    }
}

#[test]
fn a_pattern_that_would_match_nothing_fails_and_says_what_to_write() {
    for (pattern, problem) in [
        ("/users/:id", "has `:id`, which matches only itself; write `{id}`"),
        ("/users/*rest", "has `*rest`, which matches only itself; write `{*rest}`"),
        ("/users?a=1", "has `?`: a path ends before it; leave it and what follows out"),
    ] {
        let builder = Limiter::builder().category(category("users", Matcher::get(pattern)));
        assert_eq!(
            builder.build().unwrap_err().to_string(),
            format!("category `users`: the path `{pattern}` {problem}")
        );
        let by_id = Policy::fixed_window("p", Quota::per_hour(1)).key(path_param(pattern, "id"));
        let builder = Limiter::builder().policy(by_id.or_refuse());
        assert_eq!(
            builder.build().unwrap_err().to_string(),
            format!("policy `p`: the path `{pattern}` {problem}")
        );
    }
}

/// Patterns with neither `//` nor a trailing slash after a wildcard.
fn pattern() -> impl Strategy<Value = String> {
    let segment = prop_oneof!["[a-c]{1,2}", "[ab]?\\{[xyz]\\}", "\\{\\{a\\}\\}", "%61"];
    let segments = proptest::collection::vec(segment, 0..4);
    (segments, any::<bool>(), any::<bool>()).prop_map(|(segments, has_rest, has_slash)| {
        let mut path: String = segments.iter().map(|segment| format!("/{segment}")).collect();
        if has_rest {
            path += "/{*rest}";
        } else if has_slash || path.is_empty() {
            path += "/";
        }
        path
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn whichever_handler_runs_is_counted(data in proptest::collection::vec(any::<u8>(), 1..16)) {
        fuzz_targets::paths::paths(&data);
    }

    #[test]
    fn whichever_handler_runs_is_counted_from_parts(data in proptest::collection::vec(0_u8..32, 1..12)) {
        fuzz_targets::paths::paths(&data);
    }

    /// No pattern that axum takes is refused, and no path that it matches is missed.
    #[test]
    fn what_axums_router_matches_is_matched(pattern in pattern(), path in "(/[a-c%]{0,2}){1,5}") {
        let mut router = matchit::Router::new();
        prop_assume!(router.insert(&*pattern, ()).is_ok());
        let builder = Limiter::builder().category(category("c", Matcher::path(&pattern)));
        let limiter = builder.build().unwrap();
        let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
        if router.at(uri.path()).is_ok() {
            let request = Request::get(uri).body(()).unwrap().into_parts().0;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let decision = runtime.block_on(limiter.decide(&request));
            prop_assert_eq!(decision.outcomes().len(), 1, "{} {}", pattern, path);
        }
    }
}
