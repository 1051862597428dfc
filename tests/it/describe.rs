//! A limiter describes its limits as data, JSON, Markdown and HTML.
#![cfg(feature = "describe")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Category, Clock, HeaderStyle, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer,
    RateLimitLayerBuilder, Rejection, ResetFormat,
    describe::CONTENT_SECURITY_POLICY,
    key::{self, ClientIp, PeerAddr, body_field, header},
    response::{self, Problem},
};

const SECRET: &str = "sk_live_secret";

/// One of each thing that a description can contain.
fn everything() -> LimiterBuilder {
    let auth = Policy::sliding_window("auth", Quota::per_minute(5)).key(ClientIp::new()).or_skip();
    let forgot = Policy::sliding_window("forgot", Quota::per_window(5, Duration::from_secs(600)))
        .key(body_field("email"))
        .or_key(ClientIp::new())
        .or_refuse()
        .settle(|_| None);
    let read = Policy::token_bucket("read", Quota::per_minute(60).burst(10))
        .key((header("x-api-key"), ClientIp::new()))
        .or_refuse()
        .plans([("free", Quota::per_minute(100)), ("vip", Quota::unlimited())], |_| None)
        .quota_by(|_| None)
        .cost(|_| 2);
    Limiter::builder()
        .policy(
            Policy::fixed_window("all", Quota::per_window(7, Duration::from_millis(500))).global(),
        )
        .category(Category::new("sign-in").on(Matcher::post("/sign-in")).policy(auth.clone()))
        .category(
            Category::new("forgot")
                .on(Matcher::path("/forgot"))
                .policy(forgot.dry_run())
                .policy(auth),
        )
        .category(
            Category::new("read")
                .on(Matcher::get("/v1/{*rest}"))
                .on(Matcher::methods([Method::PUT, Method::PATCH], "/v1/{id}"))
                .policy(read)
                .hold(Duration::from_secs(2)),
        )
        .check_only(Policy::sliding_window("delivery", Quota::per_hour(100)))
        .check_only(Policy::sliding_window("backup", Quota::per_day(1)))
        .exempt(Matcher::path("/health"))
        .exempt(Matcher::client_ip(ClientIp::new(), ["192.0.2.7"]))
        .exempt(Matcher::key(header("x-partner"), [SECRET]))
        .exempt(Matcher::from_fn(|request| request.headers.contains_key(SECRET)))
}

fn clock() -> Clock {
    Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The description of an ordinary policy.
fn policy(name: &str, algorithm: &str, quota: Value, keys: &[&str]) -> Value {
    json!({
        "name": name, "algorithm": algorithm, "quota": quota, "plans": [], "other_quotas": false,
        "keys": keys, "refuses_without_key": false, "global": false, "hold_seconds": 0,
        "cost_by_request": false, "cost_by_response": false, "dry_run": false,
    })
}

/// With these members instead.
fn but(mut value: Value, members: Value) -> Value {
    for (name, member) in members.as_object().unwrap() {
        assert!(value.get(name).is_some(), "{name}");
        value[name] = member.clone();
    }
    value
}

#[test]
fn a_description_has_each_setting() {
    let quota = |units: u64, seconds: u64| json!({ "units": units, "window_seconds": seconds });
    let auth = policy("auth", "sliding_window", quota(5, 60), &["ip"]);
    let forgot = but(
        policy("forgot", "sliding_window", quota(5, 600), &["body field email", "ip"]),
        json!({ "refuses_without_key": true, "cost_by_response": true, "dry_run": true }),
    );
    let bucket = json!({ "units": 60, "window_seconds": 60, "burst": 10 });
    let read = but(
        policy("read", "token_bucket", bucket, &["x-api-key+ip"]),
        json!({
            "refuses_without_key": true, "hold_seconds": 2, "cost_by_request": true,
            "other_quotas": true,
            "plans": [
                { "name": "free", "quota": quota(100, 60) },
                { "name": "vip", "quota": "unlimited" },
            ],
        }),
    );
    let all = json!({ "units": 7, "window_seconds": 0.5 });
    let endpoint = |methods: &[&str], path: &str| json!({ "by": "endpoint", "methods": methods, "path": path });
    let category = |name: &str, requests: &[Value], policies: &[&Value]| json!({ "name": name, "requests": requests, "policies": policies });
    let expected = json!({
        "title": "Rate limits",
        "every_request": [but(policy("all", "fixed_window", all, &[]), json!({ "global": true }))],
        "categories": [
            category("sign-in", &[endpoint(&["POST"], "/sign-in")], &[&auth]),
            category("forgot", &[endpoint(&[], "/forgot")], &[&forgot, &auth]),
            category(
                "read",
                &[endpoint(&["GET", "HEAD"], "/v1/{*rest}"), endpoint(&["PUT", "PATCH"], "/v1/{id}")],
                &[&read],
            ),
        ],
        "check_only": [
            policy("delivery", "sliding_window", quota(100, 3_600), &[]),
            policy("backup", "sliding_window", quota(1, 86_400), &[]),
        ],
        "exempt": [
            endpoint(&[], "/health"),
            { "by": "client_ip" },
            { "by": "key", "kind": "x-partner" },
            { "by": "function" },
        ],
        "responses": null,
    });
    assert_eq!(json_of(&everything().build().unwrap().describe().to_json()), expected);
}

#[test]
fn no_format_discloses_a_key_or_an_address() {
    let layer = RateLimitLayer::new(everything().build().unwrap());
    let described = layer.describe();
    for text in [
        described.to_json(),
        described.to_markdown(),
        described.to_html(),
        format!("{described:?}"),
    ] {
        assert!(text.contains("x-partner"), "{text}");
        assert!(!text.contains(SECRET) && !text.contains("192.0.2"), "{text}");
    }
}

// --- The example -----------------------------------------------------------------------------

/// What a layer answers to a caller who has used up the policy `sign-in`.
async fn refusal(
    layer: &RateLimitLayer,
    limiter: &Limiter,
) -> (u16, BTreeMap<String, String>, String) {
    let ip = IpAddr::from([192, 0, 2, 1]);
    let _ = limiter.check("sign-in", ip).cost(10).await.unwrap();
    let inner = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let request = Request::post("/sign-in")
        .extension(PeerAddr(SocketAddr::new(ip, 50_000)))
        .header("x-request-id", "req_example")
        .body(Empty::new())
        .unwrap();
    let (head, body) = layer.layer(inner).oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    (head.status.as_u16(), headers.collect(), String::from_utf8(body.into()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_example_is_the_response_that_a_caller_gets() {
    let own = |rejection: &Rejection| json!({ "why": rejection.to_string(), "id": rejection.request_id() });
    let set: [&dyn Fn(RateLimitLayerBuilder) -> RateLimitLayerBuilder; 4] = [
        &|layer| layer,
        &|layer| {
            let described = HeaderStyle::ratelimit().reset(ResetFormat::UnixSeconds);
            layer
                .headers([described, HeaderStyle::ratelimit_lists()])
                .on_rejection(response::json(own))
        },
        &|layer| {
            let problem = Problem::quota_exceeded().instance().renderer();
            layer.headers([]).retry_after(false).on_rejection(problem)
        },
        &|layer| layer.on_rejection(response::plain_text()),
    ];
    for set in set {
        let sign_in = Policy::token_bucket("sign-in", Quota::per_minute(10))
            .key(ClientIp::new())
            .or_refuse()
            .hold(Duration::from_secs(90));
        let auth = Category::new("auth")
            .on(Matcher::path("/{*all}"))
            .policy(sign_in)
            .policy(Policy::token_bucket("each", Quota::per_hour(1_000)).global());
        let limiter = Limiter::builder().category(auth).clock(clock()).max_held(0).build().unwrap();
        let layer = set(RateLimitLayer::builder(limiter.clone())).build().unwrap();
        let described = layer.describe().responses.unwrap().refusal.unwrap();
        assert_eq!((&*described.policy, &*described.request_id), ("sign-in", "req_example"));
        let described = (described.status, described.headers, described.body);
        assert_eq!(described, refusal(&layer, &limiter).await);
    }
}

#[tokio::test]
async fn the_example_uses_no_callers_quota() {
    let delivery = Policy::sliding_window("delivery", Quota::per_hour(100)).global();
    let limiter = Limiter::builder().policy(delivery).build().unwrap();
    let layer = RateLimitLayer::new(limiter.clone());
    assert!(layer.describe().responses.unwrap().refusal.is_some());
    assert_eq!(
        limiter.peek("delivery", "").await.unwrap().outcomes().next().unwrap().remaining(),
        100
    );
}

#[test]
fn the_example_is_of_the_first_plan_and_passes_over_what_never_refuses() {
    let unlimited = Policy::token_bucket("unlimited", Quota::unlimited()).global();
    let tried = Policy::fixed_window("tried", Quota::per_minute(1)).global().dry_run();
    let planned = Policy::fixed_window("planned", Quota::per_minute(60))
        .global()
        .plans([("open", Quota::unlimited()), ("free", Quota::per_minute(120))], |_| None);
    let refusal = |builder: LimiterBuilder| {
        RateLimitLayer::new(builder.build().unwrap()).describe().responses.unwrap().refusal
    };
    let nothing = Limiter::builder().policy(unlimited).policy(tried);
    let refused = refusal(nothing.policy(planned)).unwrap();
    assert_eq!((&*refused.policy, &*refused.headers["x-ratelimit-limit"]), ("planned", "120"));
    let unlimited = Policy::token_bucket("unlimited", Quota::unlimited()).global();
    let tried = Policy::fixed_window("tried", Quota::per_minute(1)).global().dry_run();
    assert_eq!(refusal(Limiter::builder().policy(unlimited).policy(tried)), None);
    assert_eq!(refusal(Limiter::builder()), None);
}

#[test]
fn each_header_that_the_layer_writes_is_described_once() {
    let described = |styles: &[HeaderStyle]| {
        let limiter = everything().build().unwrap();
        let layer = RateLimitLayer::builder(limiter).headers(styles.iter().copied());
        let layer = layer.build().unwrap();
        let described = layer.describe().responses.unwrap().headers;
        let names: Vec<_> = described.iter().map(|header| &*header.name).collect();
        assert_eq!(names, layer.exposed_headers());
        described
    };
    for styles in [
        [HeaderStyle::x_ratelimit(), HeaderStyle::ratelimit_lists()],
        [HeaderStyle::ratelimit(), HeaderStyle::ratelimit_dictionary()],
    ] {
        let described = described(&styles);
        let meanings: BTreeSet<_> = described.iter().map(|header| &header.meaning).collect();
        assert_eq!(meanings.len(), described.len(), "{meanings:?}");
    }
    described(&[HeaderStyle::x_ratelimit().reset(ResetFormat::Omitted)]);
    let reset = |style| described(&[style])[2].meaning.clone();
    assert!(reset(HeaderStyle::x_ratelimit()).contains("since 1970"));
    assert!(!reset(HeaderStyle::ratelimit()).contains("since 1970"));
}

// --- Pages -----------------------------------------------------------------------------------

#[test]
fn markdown_says_it_all_in_words() {
    let page = everything().build().unwrap().describe().to_markdown();
    let lines = [
        "# Rate limits",
        "## Every request",
        "| Policy | Limit | Counted per |",
        "| all | 7 per 0.5 seconds _(fixed window)_ | all requests together |",
        "## By category",
        "| **sign-in** `POST /sign-in` |  |  |",
        "| auth | 5 per minute _(sliding window)_ | ip _(else not counted)_ |",
        "| **forgot** `/forgot` |  |  |",
        "| forgot _(tried out: refuses nothing)_ | 5 per 10 minutes _(sliding window)_ _(units depend on the response)_ | body field email, or else ip _(else refused)_ |",
        "| **read** `GET, HEAD /v1/{*rest}` `PUT, PATCH /v1/{id}` |  |  |",
        "| read | 60 per minute, 10 at once _(token bucket)_ _(or as the plan says, or by arrangement)_ _(units depend on the request)_ _(waits up to 2 seconds before it refuses)_ | x-api-key+ip _(else refused)_ |",
        "## Beside requests",
        "| delivery | 100 per hour _(sliding window)_ | the key asked about |",
        "## By plan",
        "| Plan | read |",
        "| free | 100 per minute, 100 at once |",
        "| vip | unlimited |",
        "| no plan | 60 per minute, 10 at once |",
        "## When units come back",
        "## Not counted",
        "- `/health`",
        "- requests from certain addresses",
        "- requests with certain keys (x-partner)",
        "- requests that a function of the server chooses",
    ];
    let mut rest = page.lines();
    for line in lines {
        assert!(rest.any(|described| described == line), "{line}\n\n{page}");
    }
}

#[test]
fn a_matcher_of_several_parts_is_described_by_its_parts() {
    let one = Matcher::get("/a").and(Matcher::client_ip(ClientIp::new(), ["192.0.2.7"]));
    let matcher = one.or(Matcher::from_fn(|_| true).not());
    let description = Limiter::builder().exempt(matcher).build().unwrap().describe();
    assert_eq!(
        json_of(&description.to_json())["exempt"],
        json!([{ "by": "any", "of": [
            { "by": "all", "of": [
                { "by": "endpoint", "methods": ["GET", "HEAD"], "path": "/a" },
                { "by": "client_ip" },
            ] },
            { "by": "not", "of": { "by": "function" } },
        ] }]),
    );
    let words = "- ((GET, HEAD /a) and (requests from certain addresses)) or (all but (requests that a \
                 function of the server chooses))";
    let page = description.to_markdown();
    assert!(page.lines().any(|line| line == words), "{page}");
}

#[test]
fn the_example_has_the_status_of_the_response() {
    let builder = RateLimitLayer::builder(everything().build().unwrap()).on_rejection(|_| {
        let mut response = Response::new("later");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    let description = builder.build().unwrap().describe();
    let example = description.responses.unwrap().refusal.unwrap();
    assert_eq!((example.status, &*example.body), (503, "later"));
}

#[test]
fn a_policy_of_two_categories_is_one_column_of_the_table_of_plans() {
    let reads = Policy::token_bucket("read", Quota::per_minute(60)).key(header("x-api-key"));
    let reads = reads.or_refuse().plans([("vip", Quota::unlimited())], |_| None);
    let category = |name, path| Category::new(name).on(Matcher::get(path)).policy(reads.clone());
    let limiter =
        Limiter::builder().category(category("one", "/1")).category(category("two", "/2"));
    let page = limiter.build().unwrap().describe().to_markdown();
    assert!(page.contains("\n| Plan | read |\n"), "{page}");
}

const HOSTILE: &str = "<script>alert(1)</script>\"'&|`x`";

fn hostile() -> RateLimitLayer {
    let policy = Policy::fixed_window(HOSTILE, Quota::per_minute(1))
        .key(key::from_fn(HOSTILE, |_| None))
        .or_refuse()
        .plans([(HOSTILE, Quota::per_minute(2))], |_| None);
    let category = Category::new(HOSTILE).on(Matcher::path(&format!("/{HOSTILE}"))).policy(policy);
    let exempt = Matcher::key(key::from_fn(HOSTILE, |_| None), ["x"]);
    RateLimitLayer::new(Limiter::builder().category(category).exempt(exempt).build().unwrap())
}

#[test]
fn a_hostile_name_stays_text() {
    let described = hostile().describe().title(HOSTILE);
    let page = described.to_html();
    assert!(!page.contains("<script"), "{page}");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;|`x`"), "{page}");
    let page = described.to_markdown();
    assert!(page.starts_with("# \\<script\\>alert(1)\\</script\\>\"'\\&&#124;\\`x\\`\n"), "{page}");
    let table: Vec<_> = page.lines().filter(|line| line.starts_with('|')).collect();
    assert!(table.len() > 6, "{page}");
    for row in table {
        let bars = row.replace("\\|", "").matches('|').count();
        assert!((3..=4).contains(&bars), "{row}");
    }
}

#[test]
fn the_page_loads_nothing_and_its_policy_allows_its_own_style_only() {
    let page = hostile().describe().to_html();
    let (_, rest) = page.split_once("<style>").unwrap();
    let (style, _) = rest.split_once("</style>").unwrap();
    assert_eq!(page.matches("<style").count(), 1);
    for foreign in ["http:", "https:", "//", "<script", " style=", " src=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.contains("<link rel=\"icon\" href=\"data:,\">"), "a browser asks for one else");
    let hash = BASE64_STANDARD.encode(Sha256::digest(style));
    let allowed = format!("default-src 'none'; style-src 'sha256-{hash}'; ");
    assert!(CONTENT_SECURITY_POLICY.starts_with(&allowed), "page.css has changed: {allowed}");
}
