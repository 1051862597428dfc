//! The page at `/rate-limits`; that of each example server beside the numbers of its reference page.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing", feature = "usage"))]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Body, http::Request, response::Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_quota::{Clock, Limiter, Policy, Quota, RateLimitLayer};

use super::examples::{fhir_directory, gateway, gather, hellojohn, jump_ehr};

/// 2024-01-16 13:00 UTC.
fn clock() -> Clock {
    Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_410_000))
}

fn jump_ehr_app() -> Router {
    let limiter = jump_ehr::limiter(clock()).unwrap();
    jump_ehr::app(limiter.clone(), jump_ehr::responses(limiter)).unwrap()
}

async fn ask(app: &Router, accept: &str) -> Response {
    let request = Request::get("/rate-limits").header("accept", accept);
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

/// The description of a server, after more requests for it than any of its quotas allows.
async fn description(app: Router) -> Value {
    for nth in 0..1_100 {
        let response = ask(&app, "text/html").await;
        assert_eq!(response.status(), 200, "request {nth}");
        let counted = response.headers().keys().find(|name| name.as_str().contains("ratelimit"));
        assert_eq!(counted, None);
    }
    serde_json::from_str(&text(ask(&app, "application/json").await).await).unwrap()
}

/// `10 in 60 s per ip`, as the lines of a page are compared.
fn line(policy: &Value) -> String {
    let keys: Vec<_> = policy["keys"].as_array().unwrap().iter().map(string).collect();
    assert_eq!(
        policy["refuses_without_key"],
        json!(policy["name"] != "auth" && policy["name"] != "delivery")
    );
    format!("{} per {}", quota(&policy["quota"]), keys.join(", else "))
}

fn quota(quota: &Value) -> String {
    let burst = quota.get("burst").map(|burst| format!(", {burst} at once"));
    format!("{} in {} s{}", quota["units"], quota["window_seconds"], burst.unwrap_or_default())
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Each of `requests` as `POST /path`.
fn endpoints(requests: &Value) -> Vec<String> {
    let requests = requests.as_array().unwrap().iter();
    let endpoint = |endpoint: &Value| {
        assert_eq!(endpoint["by"], "endpoint");
        let methods: Vec<_> = endpoint["methods"].as_array().unwrap().iter().map(string).collect();
        format!("{} {}", methods.join(","), string(&endpoint["path"])).trim().to_owned()
    };
    requests.map(endpoint).collect()
}

/// Endpoints, and what their category's policies hold them to, by name.
fn categories(description: &Value) -> Vec<(String, Vec<(&str, String)>)> {
    let category = |category: &'_ Value| endpoints(&category["requests"]).join(" ");
    let categories = description["categories"].as_array().unwrap().iter();
    categories.map(|of| (category(of), lines(&of["policies"]))).collect()
}

fn lines(policies: &Value) -> Vec<(&str, String)> {
    let policies = policies.as_array().unwrap().iter();
    policies.map(|policy| (string(&policy["name"]), line(policy))).collect()
}

/// The quotas of a policy's plans.
fn plans(policy: &Value) -> Vec<(&str, String)> {
    let plans = policy["plans"].as_array().unwrap().iter();
    plans.map(|plan| (string(&plan["name"]), quota(&plan["quota"]))).collect()
}

fn headers(description: &Value) -> Vec<&str> {
    let headers = description["responses"]["headers"].as_array().unwrap().iter();
    headers.map(|header| string(&header["name"])).collect()
}

/// The body of the example refusal.
fn refusal(description: &Value) -> Value {
    serde_json::from_str(string(&description["responses"]["refusal"]["body"])).unwrap()
}

fn algorithms(description: &Value) -> Vec<&str> {
    let mut algorithms = Vec::new();
    for policies in description["categories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|category| &category["policies"])
        .chain([&description["every_request"], &description["check_only"]])
    {
        algorithms.extend(policies.as_array().unwrap().iter().map(|of| string(&of["algorithm"])));
    }
    algorithms.dedup();
    algorithms
}

/// "Limits by Category", "Limits by Plan", "Rate Limit Exemptions".
#[tokio::test(start_paused = true)]
async fn hellojohn_describes_its_limits() {
    let limiter = hellojohn::limiter(hellojohn::Contracts::default(), clock()).unwrap();
    let rate_limit = hellojohn::rate_limit(limiter.clone()).unwrap();
    let description = description(hellojohn::app(limiter, rate_limit)).await;
    assert_eq!(algorithms(&description), ["sliding_window"]);

    // Beside each authentication endpoint's own limit, the plan's budget over all of them.
    let budget = ("auth", "5 in 60 s per api key+ip, else unknown key+ip".to_owned());
    let auth = |endpoint: &str, name, limit: &str| {
        (endpoint.to_owned(), vec![(name, limit.to_owned()), budget.clone()])
    };
    let data =
        |endpoint: &str, name, limit: &str| (endpoint.to_owned(), vec![(name, limit.to_owned())]);
    let expected = [
        auth("POST /v1/auth/sign-in", "sign-in", "10 in 60 s per ip"),
        auth("POST /v1/auth/sign-up", "sign-up", "5 in 60 s per ip"),
        auth("POST /v1/auth/magic-link", "magic-link", "5 in 600 s per ip"),
        auth(
            "POST /v1/auth/password/forgot",
            "password-forgot",
            "5 in 600 s per body field email, else ip",
        ),
        auth("POST /v1/mfa/verify", "mfa-verify", "5 in 600 s per body field user_id, else ip"),
        auth("POST /v1/auth/token/refresh", "token-refresh", "60 in 60 s per api key, else ip"),
        data("POST /v1/webhooks/{webhook}/test", "webhook-test", "10 in 60 s per api key, else ip"),
        data("POST /v1/email/config/test", "email-test", "5 in 3600 s per api key, else ip"),
        data(
            "GET,HEAD /v1/email/templates/{template}/preview",
            "preview",
            "30 in 60 s per api key, else ip",
        ),
        data(
            "POST /v1/admin/users/search POST /v1/{resource}/bulk",
            "bulk",
            "50 in 60 s per api key, else ip",
        ),
        data("GET,HEAD /v1/{*rest}", "read", "100 in 60 s per api key, else ip"),
        data("POST,PUT,PATCH,DELETE /v1/{*rest}", "write", "30 in 60 s per api key, else ip"),
    ];
    assert_eq!(categories(&description), expected);
    assert_eq!(lines(&description["check_only"]), [("delivery", "100 in 3600 s per ".to_owned())]);

    // Enterprise: custom, and until then as Pro.
    let by_plan = |name: &str, numbers: [u64; 4]| {
        let categories = description["categories"].as_array().unwrap().iter();
        let mut policies = categories.flat_map(|category| category["policies"].as_array().unwrap());
        let policy = policies.find(|policy| policy["name"] == name).unwrap();
        assert_eq!(policy["other_quotas"], true, "custom");
        let names = ["free", "starter", "pro", "enterprise"];
        let expected = names.into_iter().zip(numbers.map(|number| format!("{number} in 60 s")));
        assert_eq!(plans(policy), expected.collect::<Vec<_>>());
    };
    by_plan("read", [100, 500, 1_000, 1_000]);
    by_plan("write", [30, 150, 500, 500]);
    by_plan("auth", [5, 10, 20, 20]);

    let exempt = ["/health", "/.well-known/jwks.json", "POST /v1/webhooks/callback"];
    assert_eq!(endpoints(&description["exempt"]), exempt);
    let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"];
    assert_eq!(headers(&description), names);
    assert_eq!(
        refusal(&description),
        json!({
            "error": "rate_limit_exceeded",
            "message": "Rate limit exceeded. Retry after 60 seconds.",
            "retry_after": 60,
        })
    );
    assert_eq!(description["responses"]["refusal"]["headers"]["retry-after"], "60");
}

/// "Every request to /v1/* debits two token buckets", "hold your request for up to 2 seconds".
#[tokio::test(start_paused = true)]
async fn the_gateway_describes_its_limits() {
    let description =
        description(gateway::app(gateway::rate_limit(clock()).unwrap(), clock())).await;
    assert_eq!(algorithms(&description), ["token_bucket"]);
    let expected = vec![
        ("tenant", "60 in 60 s, 60 at once per tenant, else ip".to_owned()),
        ("credential", "40 in 60 s, 60 at once per credential, else ip".to_owned()),
    ];
    assert_eq!(categories(&description), [("/v1/{*rest}".to_owned(), expected)]);
    for policy in description["categories"][0]["policies"].as_array().unwrap() {
        assert_eq!(policy["hold_seconds"], 2);
    }
    assert_eq!(headers(&description), [""; 0], "no Retry-After, no quota headers");
    let refused = &description["responses"]["refusal"];
    assert_eq!((&refused["status"], &refused["policy"]), (&json!(429), &json!("tenant")));
    let headers =
        json!({ "content-type": "application/problem+json", "cache-control": "no-store" });
    assert_eq!(refused["headers"], headers);
    assert_eq!(
        refusal(&description),
        json!({
            "type": "https://gateway/errors/rate-limited",
            "title": "Rate-limit budget for purpose 'tenant' exhausted",
            "status": 429,
            "instance": "req_example",
        })
    );
}

/// "The exact limits and how they apply depend on your plan and whether you're using an API key".
#[tokio::test(start_paused = true)]
async fn the_fhir_directory_describes_its_limits() {
    let rate_limit = fhir_directory::rate_limit(clock()).unwrap();
    let description = description(fhir_directory::app(rate_limit)).await;
    assert_eq!(algorithms(&description), ["fixed_window"]);
    let anonymous = ("per caller", "60 in 60 s per api key, else ip".to_owned());
    assert_eq!(lines(&description["every_request"]), [anonymous]);
    let expected = [("free", "120 in 60 s".to_owned()), ("pro", "1200 in 60 s".to_owned())];
    assert_eq!(plans(&description["every_request"][0]), expected);
    let names = ["ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "retry-after"];
    assert_eq!(headers(&description), names);
    let reset = string(&description["responses"]["headers"][2]["meaning"]);
    assert!(reset.contains("Unix timestamp"), "{reset}");
    let refused = &description["responses"]["refusal"]["headers"];
    assert_eq!(
        (&refused["ratelimit-limit"], &refused["retry-after"]),
        (&json!("120"), &json!("60"))
    );
    let message = "Rate limit exceeded. Contact us for higher limits.";
    let error = json!({ "code": "TOO_MANY_REQUESTS", "message": message });
    assert_eq!(refusal(&description), json!({ "success": false, "error": error }));
}

/// "Hourly Window: 1000 requests per hour", "Burst Window: 100 requests per minute".
#[tokio::test(start_paused = true)]
async fn gather_describes_its_limits() {
    let description = description(gather::app(gather::rate_limit(clock()).unwrap())).await;
    assert_eq!(algorithms(&description), ["sliding_window"]);
    let expected = [
        ("hourly", "1000 in 3600 s per x-api-key, else ip".to_owned()),
        ("burst", "100 in 60 s per x-api-key, else ip".to_owned()),
    ];
    assert_eq!(lines(&description["every_request"]), expected);
    let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    assert_eq!(
        (headers(&description), &description["responses"]["header_policy"]),
        (names.to_vec(), &json!("hourly"))
    );
    let error = &refusal(&description)["error"];
    let details = json!({ "limit": 1_000, "remaining": 0, "resetAt": "2024-01-16T14:00:00Z" });
    let message = "Rate limit exceeded. Please try again later.";
    let expected = json!({ "code": "RATE_LIMIT_EXCEEDED", "message": message, "details": details });
    assert_eq!(error, &expected);
}

/// "Requests per hour | 1,000 | Resets on the hour".
#[tokio::test(start_paused = true)]
async fn jump_ehr_describes_its_limits() {
    let description = description(jump_ehr_app()).await;
    assert_eq!(algorithms(&description), ["fixed_window"]);
    let hourly = ("hourly", "1000 in 3600 s per api key, else ip".to_owned());
    assert_eq!(lines(&description["every_request"]), [hourly]);
    assert_eq!(headers(&description), ["x-ratelimit-limit", "x-ratelimit-remaining"]);
    let message = "Rate limit exceeded. Limit: 1000 requests per hour. Resets on the hour.";
    assert_eq!(
        refusal(&description),
        json!({
            "data": null,
            "meta": { "request_id": "req_example" },
            "error": { "code": "RATE_LIMITED", "message": message },
        })
    );
}

/// RFC 9110, section 12.5.1.
#[tokio::test]
async fn the_accept_header_chooses_the_format() {
    let app = jump_ehr_app();
    for (accept, content_type) in [
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("", "text/html; charset=utf-8"),
        ("image/png", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("TEXT/MARKDOWN", "text/markdown; charset=utf-8"),
        ("text/markdown;q=0.5, application/json;q=0.6", "application/json"),
        ("text/*;q=0.9, text/html;q=0.1, application/json;q=0.5", "text/markdown; charset=utf-8"),
        ("text/html;q=0, */*;q=0.1", "text/markdown; charset=utf-8"),
        ("text/html;q=nonsense, application/json;q=0.001", "application/json"),
    ] {
        let response = ask(&app, accept).await;
        assert_eq!(response.headers()["content-type"], content_type, "{accept:?}");
        assert_eq!(response.headers()["vary"], "accept");
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        let begins = match content_type {
            "application/json" => "{",
            "text/html; charset=utf-8" => "<!doctype html>",
            _ => "# Rate limits of the Jump EHR API\n",
        };
        assert!(text(response).await.starts_with(begins), "{accept:?}");
    }
}

#[tokio::test]
async fn the_page_of_the_limits_follows_each_apply() {
    let limits = |units| {
        let daily = Policy::fixed_window("daily", Quota::per_day(units)).global();
        Limiter::builder().policy(daily)
    };
    let layer = RateLimitLayer::new(limits(100).build().unwrap());
    let described = Arc::new(AtomicU32::new(0));
    let counts = described.clone();
    let route = layer.limits_route(move |mut description| {
        counts.fetch_add(1, Relaxed);
        description.responses = None;
        description.title("Our limits")
    });
    let app = Router::new().route("/rate-limits", route);
    for (times, units) in [(1, 100), (2, 50), (3, 100)] {
        if times > 1 {
            layer.limiter().apply(limits(units)).unwrap();
        }
        for _ in 0..3 {
            let page = text(ask(&app, "text/markdown").await).await;
            assert!(page.starts_with("# Our limits\n") && !page.contains("HTTP/1.1"), "{page}");
            assert!(page.contains(&format!("| daily | {units} per day ")), "{page}");
            assert_eq!(described.load(Relaxed), times, "{units}");
        }
    }
}
