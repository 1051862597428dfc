//! Quota headers of responses, over the public API.

use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    Category, Clock, HeaderStyle, Limiter, Matcher, Policy, Quota, RateLimitLayer, Rejection,
    ResetFormat, key,
};

type Body = Full<Bytes>;

/// At 14:00:00 UTC, 20 s of which tests let pass where that shows.
fn clock() -> Clock {
    Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_413_600))
}

fn hourly() -> Policy {
    Policy::fixed_window("hourly", Quota::per_hour(10)).global()
}

fn burst() -> Policy {
    Policy::fixed_window("burst", Quota::per_minute(2)).global()
}

/// Every request draws on `hourly`; those below `/write` on `burst` too.
fn limiter() -> Limiter {
    let write = Category::new("write").on(Matcher::path("/write")).policy(burst());
    let worker = Policy::fixed_window("worker", Quota::per_hour(1));
    let limiter = Limiter::builder().clock(clock()).policy(hourly()).category(write);
    limiter.check_only(worker).build().unwrap()
}

async fn handler(_: Request<()>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("hello")))
}

/// The quota headers, in the order of their names.
fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value): (&HeaderName, _)| (name.as_str(), value.to_str().unwrap()))
        .filter(|(name, _)| !["content-type", "cache-control"].contains(name))
        .collect();
    lines.sort_unstable();
    lines
}

/// What the layer answers to a request for `path`.
async fn headers_of(layer: &RateLimitLayer, path: &str) -> (u16, HeaderMap) {
    let service = layer.layer(service_fn(handler));
    let response = service.oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn by_default_the_x_ratelimit_headers_of_the_tightest_policy() {
    let layer = RateLimitLayer::new(limiter());
    tokio::time::advance(Duration::from_millis(20_500)).await;
    let told = |limit, remaining, reset| {
        vec![
            ("x-ratelimit-limit", limit),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ]
    };
    let (status, headers) = headers_of(&layer, "/read").await;
    assert_eq!((status, lines(&headers)), (200, told("10", "9", "1705417200")));
    let (status, headers) = headers_of(&layer, "/write").await;
    assert_eq!((status, lines(&headers)), (200, told("2", "1", "1705413660")));
    headers_of(&layer, "/write").await;
    let (status, headers) = headers_of(&layer, "/write").await;
    let mut refused = told("2", "0", "1705413660");
    refused.insert(0, ("retry-after", "40"));
    assert_eq!((status, lines(&headers)), (429, refused));
}

#[tokio::test(start_paused = true)]
async fn the_named_policy_speaks_where_it_holds_and_passes() {
    let layer = RateLimitLayer::builder(limiter()).header_policy("burst").build().unwrap();
    let limit = |headers: &HeaderMap| headers["x-ratelimit-limit"].clone();
    // It does not apply here, so the headers are of the tightest policy.
    assert_eq!(limit(&headers_of(&layer, "/read").await.1), "10");
    assert_eq!(limit(&headers_of(&layer, "/write").await.1), "2");

    let layer = RateLimitLayer::builder(limiter()).header_policy("hourly").build().unwrap();
    for _ in 0..2 {
        assert_eq!(limit(&headers_of(&layer, "/write").await.1), "10");
    }
    // On a 429 the headers are of the refusing policy, whichever was named.
    let (status, headers) = headers_of(&layer, "/write").await;
    assert_eq!((status, limit(&headers).to_str().unwrap()), (429, "2"));
}

#[tokio::test(start_paused = true)]
async fn without_retry_after_the_body_still_tells_it() {
    let layer = RateLimitLayer::builder(limiter()).retry_after(false).build().unwrap();
    let mut service = layer.layer(service_fn(handler));
    let mut last = None;
    for _ in 0..3 {
        let request = Request::get("/write").body(()).unwrap();
        last = Some(service.ready().await.unwrap().call(request).await.unwrap());
    }
    let refused = last.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers().get("retry-after"), None);
    let body = refused.collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["retry_after"], 60);
}

#[test]
fn an_unknown_header_policy_is_an_error() {
    for name in ["brust", "worker"] {
        let error = RateLimitLayer::builder(limiter()).header_policy(name).build().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "header policy `{name}`: no policy for requests has this name; write one of `burst`, `hourly`"
            ),
        );
    }
}

#[test]
fn settings_go_through_the_builder_and_closures_need_no_types() {
    let layer = RateLimitLayer::builder(limiter())
        .headers([])
        .on_rejection(|rejection| Response::new(rejection.to_string()))
        .on_rejection(Rejection::to_response)
        .expose_decision()
        .build();
    assert!(layer.is_ok());
}

const ALL: [HeaderStyle; 3] =
    [HeaderStyle::x_ratelimit(), HeaderStyle::ratelimit(), HeaderStyle::ratelimit_lists()];

fn layer(styles: impl IntoIterator<Item = HeaderStyle>) -> RateLimitLayer {
    RateLimitLayer::builder(limiter()).headers(styles).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn styles_stand_side_by_side_and_agree() {
    let layer = layer(ALL);
    tokio::time::advance(Duration::from_millis(20_500)).await;
    let (status, headers) = headers_of(&layer, "/write").await;
    let mut expected = vec![
        ("ratelimit", r#""hourly";r=9;t=3580, "burst";r=1;t=40"#),
        ("ratelimit-limit", "2"),
        ("ratelimit-policy", r#""hourly";q=10;w=3600, "burst";q=2;w=60"#),
        ("ratelimit-remaining", "1"),
        ("ratelimit-reset", "40"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset", "1705413660"),
    ];
    assert_eq!((status, lines(&headers)), (200, expected.clone()));

    headers_of(&layer, "/write").await;
    let (status, headers) = headers_of(&layer, "/write").await;
    expected[0].1 = r#""hourly";r=8;t=3580, "burst";r=0;t=40"#;
    expected[3].1 = "0";
    expected[6].1 = "0";
    expected.insert(5, ("retry-after", "40"));
    assert_eq!((status, lines(&headers)), (429, expected));
}

#[tokio::test(start_paused = true)]
async fn the_dictionary_is_one_field_of_one_policy() {
    let (_, headers) = headers_of(&layer([HeaderStyle::ratelimit_dictionary()]), "/write").await;
    assert_eq!(lines(&headers), [("ratelimit", "limit=2, remaining=1, reset=60")]);
}

#[tokio::test(start_paused = true)]
async fn resets_are_told_as_asked() {
    let reset = |style: HeaderStyle, format| async move {
        let (_, headers) = headers_of(&layer([style.reset(format)]), "/write").await;
        lines(&headers).get(2).map(|(name, value)| format!("{name}: {value}"))
    };
    for (style, format, told) in [
        (ALL[0], ResetFormat::UnixSeconds, Some("x-ratelimit-reset: 1705413660")),
        (ALL[0], ResetFormat::Seconds, Some("x-ratelimit-reset: 60")),
        (ALL[0], ResetFormat::Omitted, None),
        (ALL[1], ResetFormat::UnixSeconds, Some("ratelimit-reset: 1705413660")),
        (ALL[1], ResetFormat::Seconds, Some("ratelimit-reset: 60")),
        (ALL[1], ResetFormat::Omitted, None),
    ] {
        assert_eq!(reset(style, format).await.as_deref(), told);
    }
}

#[tokio::test(start_paused = true)]
async fn no_style_no_headers() {
    let layer = RateLimitLayer::builder(limiter()).headers([]).retry_after(false).build().unwrap();
    for status in [200, 200, 429] {
        let (told, headers) = headers_of(&layer, "/write").await;
        assert_eq!((told, lines(&headers)), (status, vec![]));
    }
    assert_eq!(layer.exposed_headers(), Vec::<HeaderName>::new());
}

#[tokio::test(start_paused = true)]
async fn the_exposed_headers_are_those_of_a_refusal() {
    for styles in [
        vec![ALL[0], ALL[1].reset(ResetFormat::Omitted), HeaderStyle::ratelimit_dictionary()],
        vec![HeaderStyle::ratelimit_lists().partition_key(), ALL[0].reset(ResetFormat::Omitted)],
        vec![],
    ] {
        let layer = layer(styles);
        for _ in 0..2 {
            headers_of(&layer, "/write").await;
        }
        let (_, headers) = headers_of(&layer, "/write").await;
        let mut exposed: Vec<_> = layer.exposed_headers();
        exposed.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let told: Vec<_> = lines(&headers).into_iter().map(|(name, _)| name).collect();
        assert_eq!(exposed, told);
    }
}

#[tokio::test(start_paused = true)]
async fn partition_keys_tell_callers_apart_and_nothing_of_them() {
    let per_key = |name| {
        Policy::fixed_window(name, Quota::per_hour(9)).key(key::header("x-api-key")).or_skip()
    };
    let limiter = Limiter::builder().clock(clock()).policy(per_key("a")).policy(per_key("b"));
    let limiter = limiter.policy(hourly()).build().unwrap();
    let style = HeaderStyle::ratelimit_lists().partition_key();
    let layer = RateLimitLayer::builder(limiter).headers([style]).build().unwrap();
    let told = |api_key: &'static str| {
        let service = layer.layer(service_fn(handler));
        async move {
            let request = Request::get("/").header("x-api-key", api_key).body(()).unwrap();
            let response = service.oneshot(request).await.unwrap();
            let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            (text("ratelimit"), text("ratelimit-policy"))
        }
    };
    let (limits, policies) = told("sk_live_one").await;
    let key = limits.split(':').nth(1).unwrap().to_owned();
    // 8 bytes are 12 characters of base64. The global policy has no partition.
    assert_eq!(key.len(), 12);
    assert_eq!(
        limits,
        format!(r#""a";r=8;t=3600;pk=:{key}:, "b";r=8;t=3600;pk=:{key}:, "hourly";r=9;t=3600"#)
    );
    assert_eq!(
        policies,
        format!(r#""a";q=9;w=3600;pk=:{key}:, "b";q=9;w=3600;pk=:{key}:, "hourly";q=10;w=3600"#)
    );
    assert!(told("sk_live_one").await.0.contains(&key));
    assert!(!told("sk_live_two").await.0.contains(&key));
}

#[tokio::test(start_paused = true)]
async fn stacked_layers_do_not_double_and_an_inner_refusal_speaks_for_itself() {
    let inner = Limiter::builder().clock(clock()).policy(burst()).build().unwrap();
    let outer = Limiter::builder().clock(clock()).policy(hourly()).build().unwrap();
    let omitted = HeaderStyle::x_ratelimit().reset(ResetFormat::Omitted);
    let outer = RateLimitLayer::builder(outer).headers([omitted]).build().unwrap();
    let service = outer.layer(RateLimitLayer::new(inner).layer(service_fn(handler)));
    let mut told = Vec::new();
    for _ in 0..3 {
        let request = Request::get("/").body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        told.push((response.status().as_u16(), response.headers().clone()));
    }
    // The inner policy has the smaller share left.
    let inner = [
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "1"),
        ("x-ratelimit-reset", "1705413660"),
    ];
    assert_eq!((told[0].0, &*lines(&told[0].1)), (200, &inner[..]));
    let inner = [
        ("retry-after", "60"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1705413660"),
    ];
    assert_eq!((told[2].0, &*lines(&told[2].1)), (429, &inner[..]));
}

#[tokio::test(start_paused = true)]
async fn lists_that_a_renderer_writes_are_replaced_by_those_of_the_refusal() {
    let render = |_: &Rejection| {
        let response = Response::builder().header("ratelimit-policy", r#""other";q=9"#);
        response.header("ratelimit", r#""other";r=9"#).body("").unwrap()
    };
    let one = Policy::fixed_window("one", Quota::per_hour(1)).global();
    let limiter = Limiter::builder().clock(clock()).policy(one).build().unwrap();
    let builder = RateLimitLayer::builder(limiter).headers([HeaderStyle::ratelimit_lists()]);
    let layer = builder.on_rejection(render).build().unwrap();
    headers_of(&layer, "/").await;
    let (_, headers) = headers_of(&layer, "/").await;
    assert_eq!(headers["ratelimit-policy"], r#""one";q=1;w=3600"#);
    assert_eq!(headers["ratelimit"], r#""one";r=0;t=3600"#);
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_is_whole_resets_in_the_second_that_has_begun() {
    let free = Policy::token_bucket("free", Quota::per_hour(1)).global().cost(|_| 0);
    let limiter = Limiter::builder().clock(clock()).policy(free).build().unwrap();
    tokio::time::advance(Duration::from_millis(1_500)).await;
    let (_, headers) = headers_of(&RateLimitLayer::new(limiter), "/").await;
    assert_eq!(headers["x-ratelimit-reset"], "1705413601");
}

#[test]
fn styles_that_cannot_work_are_errors() {
    let (x, seconds) = (HeaderStyle::x_ratelimit(), ResetFormat::Seconds);
    let (dictionary, lists) = (HeaderStyle::ratelimit_dictionary(), HeaderStyle::ratelimit_lists());
    for (styles, message) in [
        (
            vec![dictionary, lists],
            "header style `ratelimit_lists`: `ratelimit_dictionary` writes the same header otherwise; leave one out",
        ),
        (
            vec![lists, dictionary],
            "header style `ratelimit_dictionary`: `ratelimit_lists` writes the same header otherwise; leave one out",
        ),
        (vec![x, x.reset(seconds)], "header style `x_ratelimit`: it is given twice; write it once"),
        (
            vec![dictionary.reset(seconds)],
            "header style `ratelimit_dictionary`: it always tells the reset in seconds; leave `.reset(…)` out",
        ),
        (
            vec![x.partition_key()],
            "header style `x_ratelimit`: only `ratelimit_lists` has a partition key; leave `.partition_key()` out",
        ),
        (
            vec![dictionary.partition_key()],
            "header style `ratelimit_dictionary`: only `ratelimit_lists` has a partition key; leave `.partition_key()` out",
        ),
        (
            vec![lists.reset(seconds)],
            "header style `ratelimit_lists`: it always tells the reset in seconds; leave `.reset(…)` out",
        ),
    ] {
        let error = RateLimitLayer::builder(limiter()).headers(styles).build().unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn names_that_lists_cannot_tell_are_errors() {
    let policy = Policy::fixed_window("größe", Quota::per_hour(1)).global();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    assert!(RateLimitLayer::builder(limiter.clone()).build().is_ok());
    let builder = RateLimitLayer::builder(limiter).headers([HeaderStyle::ratelimit_lists()]);
    assert_eq!(
        builder.build().unwrap_err().to_string(),
        "policy `größe`: header style `ratelimit_lists` tells its name, which is not printable ASCII; rename it",
    );
}

#[test]
fn units_that_lists_cannot_carry_or_that_have_no_name_are_errors() {
    let limiter = |unit: &str| {
        let policy = Policy::fixed_window("p", Quota::per_hour(1)).global().unit(unit);
        Limiter::builder().policy(policy).build()
    };
    let builder = RateLimitLayer::builder(limiter("größe").unwrap());
    assert_eq!(
        builder.headers([HeaderStyle::ratelimit_lists()]).build().unwrap_err().to_string(),
        "policy `p`: header style `ratelimit_lists` tells its unit, which is not printable ASCII; rename it",
    );
    assert_eq!(
        limiter("").unwrap_err().to_string(),
        "policy `p`: its unit has no name; write `.unit(\"tokens\")`, or leave it out",
    );
}

#[test]
fn a_header_policy_that_nothing_tells_of_is_an_error() {
    let builder = RateLimitLayer::builder(limiter()).headers([HeaderStyle::ratelimit_lists()]);
    assert_eq!(
        builder.header_policy("burst").build().unwrap_err().to_string(),
        "header policy `burst`: no header style shows a single policy; leave `.header_policy(…)` out",
    );
}

/// The seconds of `Retry-After` after which each of 200 keys may come back, 0.5 s into the hour.
async fn waits(spread: Duration, each: Policy) -> Vec<u64> {
    let limiter = Limiter::builder().clock(clock()).policy(each);
    let keyed = Policy::fixed_window("keyed", Quota::per_hour(9)).key(key::header("x-api-key"));
    let limiter = limiter.policy(keyed.or_skip()).build().unwrap();
    let layer = RateLimitLayer::builder(limiter).jitter_retry_after(spread).build().unwrap();
    tokio::time::advance(Duration::from_millis(500)).await;
    let ask = async |key: &str| {
        let request = Request::get("/").header("x-api-key", key).body(()).unwrap();
        layer.layer(service_fn(handler)).oneshot(request).await.unwrap()
    };
    let mut waits = Vec::new();
    for key in 0..200 {
        let key = key.to_string();
        let mut told = Vec::new();
        for _ in 0..3 {
            let response = ask(&key).await;
            if response.status() == 200 {
                continue;
            }
            assert_eq!(response.headers()["x-ratelimit-reset"], "1705417200");
            let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["retry_after"], wait);
            told.push(wait);
        }
        told.dedup();
        assert_eq!(told.len(), 1, "a key's share is fixed");
        waits.extend(told);
    }
    waits.sort_unstable();
    waits
}

#[tokio::test(start_paused = true)]
async fn waits_are_spread_by_key_and_never_shortened() {
    let one = Policy::fixed_window("one", Quota::per_hour(1));
    let per_key = || one.clone().key(key::header("x-api-key")).or_skip();
    assert_eq!(waits(Duration::ZERO, per_key()).await, [3_600; 200]);
    // If all share the quota, the key of another policy distinguishes the callers.
    for policy in [per_key(), one.global()] {
        let waits = waits(Duration::from_secs(100), policy).await;
        assert!(waits[0] >= 3_600 && waits[199] <= 3_700, "{waits:?}");
        assert!(waits[20] < 3_630 && waits[180] > 3_670, "{waits:?}");
    }
}
