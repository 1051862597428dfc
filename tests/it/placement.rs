//! The order of the layer and others under axum: what the layer counts, and what callers see. The guide's
//! chapter on placement claims only what is tested here and in `compose/stack.rs`.
#![cfg(feature = "axum")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use tower::ServiceExt;
use tower_http::{
    compression::CompressionLayer,
    cors::{Any, CorsLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer,
    key::{extension, header},
};

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

fn hourly(units: u64) -> Policy {
    Policy::fixed_window("all", Quota::per_hour(units)).global()
}

/// A layer that counts every request that reaches it, and its limiter.
fn counting() -> (RateLimitLayer, Limiter) {
    let limiter = builder().policy(hourly(100)).build().unwrap();
    (RateLimitLayer::new(limiter.clone()), limiter)
}

async fn used(limiter: &Limiter) -> u64 {
    100 - limiter.peek("all", "").await.unwrap().remaining()
}

async fn send(app: &Router, method: Method, uri: &str) -> Response {
    let request = Request::builder().method(method).uri(uri).header("origin", "https://app.test");
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

/// What a browser asks before a `PUT` from another origin.
async fn preflight(app: &Router, uri: &str) -> Response {
    let request = Request::options(uri)
        .header("origin", "https://app.test")
        .header("access-control-request-method", "PUT");
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn cors(limit: &RateLimitLayer) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::PUT])
        .expose_headers(limit.exposed_headers())
}

fn things() -> Router {
    Router::new().route("/things", get(|| async { "things" }))
}

/// How many units a request costs under a layer at this place, and its status.
async fn cost(
    place: impl FnOnce(RateLimitLayer) -> Router,
    method: Method,
    uri: &str,
) -> (u16, u64) {
    let (limit, limiter) = counting();
    let status = send(&place(limit), method, uri).await.status();
    (status.as_u16(), used(&limiter).await)
}

#[tokio::test(start_paused = true)]
async fn layer_counts_what_no_route_answers_and_route_layer_does_not() {
    let nested = |inner: Router| Router::new().nest("/api", inner);
    let gone = |app: Router| app.fallback(|| async { StatusCode::GONE });
    for (place, method, uri, expected) in [
        // A 404.
        ("layer", Method::GET, "/nothing", (404, 1)),
        ("route_layer", Method::GET, "/nothing", (404, 0)),
        ("method router", Method::GET, "/nothing", (404, 0)),
        // A 405.
        ("layer", Method::POST, "/things", (405, 1)),
        ("route_layer", Method::POST, "/things", (405, 1)),
        ("method router", Method::POST, "/things", (405, 1)),
        ("layer inside of nest", Method::POST, "/api/things", (405, 1)),
        ("method router's route_layer", Method::POST, "/things", (405, 0)),
        // A custom fallback.
        ("fallback, layer", Method::GET, "/nothing", (410, 1)),
        ("layer, fallback", Method::GET, "/nothing", (410, 0)),
        ("fallback, route_layer", Method::GET, "/nothing", (410, 0)),
        // Routes that are added after the layer.
        ("layer, route", Method::GET, "/late", (200, 0)),
        ("layer, route", Method::GET, "/things", (200, 1)),
        // Nested routers.
        ("nest, layer", Method::GET, "/api/things", (200, 1)),
        ("nest, layer", Method::GET, "/api/nothing", (404, 1)),
        ("layer inside of nest", Method::GET, "/api/things", (200, 1)),
        ("layer inside of nest", Method::GET, "/api/nothing", (404, 0)),
        ("fallback and layer inside of nest", Method::GET, "/api/nothing", (410, 1)),
        ("fallback and route_layer inside of nest", Method::GET, "/api/nothing", (410, 0)),
    ] {
        let app = |limit: RateLimitLayer| match place {
            "layer" => things().layer(limit),
            "route_layer" => things().route_layer(limit),
            "method router" => {
                Router::new().route("/things", get(|| async { "things" }).layer(limit))
            }
            "method router's route_layer" => {
                Router::new().route("/things", get(|| async { "things" }).route_layer(limit))
            }
            "fallback, layer" => gone(things()).layer(limit),
            "layer, fallback" => gone(things().layer(limit)),
            "fallback, route_layer" => gone(things()).route_layer(limit),
            "layer, route" => things().layer(limit).route("/late", get(|| async { "late" })),
            "nest, layer" => nested(things()).layer(limit),
            "layer inside of nest" => nested(things().layer(limit)),
            "fallback and layer inside of nest" => nested(gone(things()).layer(limit)),
            "fallback and route_layer inside of nest" => nested(gone(things()).route_layer(limit)),
            other => panic!("{other}"),
        };
        assert_eq!(cost(app, method, uri).await, expected, "{place}: {uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_405_counts_only_in_categories_of_its_own_method() {
    let category = |name: &str, matcher| {
        let policy = Policy::fixed_window(name, Quota::per_hour(1)).global();
        Category::new(name).on(matcher).policy(policy)
    };
    let limiter = builder()
        .category(category("sign-in", Matcher::post("/sign-in")))
        .category(category("rest", Matcher::path("/{*rest}")))
        .build()
        .unwrap();
    let app = Router::new()
        .route("/sign-in", post(|| async { "welcome" }))
        .layer(RateLimitLayer::new(limiter));
    for status in [405, 429] {
        assert_eq!(send(&app, Method::GET, "/sign-in").await.status(), status, "of `rest`");
    }
    for status in [200, 429] {
        assert_eq!(send(&app, Method::POST, "/sign-in").await.status(), status, "of `sign-in`");
    }
}

#[tokio::test(start_paused = true)]
async fn a_preflight_costs_nothing_inside_of_cors_and_a_unit_outside() {
    for (inside, expected) in [(true, (0, true)), (false, (1, false))] {
        let limiter = builder().policy(hourly(1)).build().unwrap();
        let limit = RateLimitLayer::new(limiter.clone());
        let cors = cors(&limit);
        let app = match inside {
            true => things().layer(limit).layer(cors),
            false => things().layer(cors).layer(limit),
        };
        assert_eq!(preflight(&app, "/things").await.status(), 200);
        let used = 1 - limiter.peek("all", "").await.unwrap().remaining();
        let _ = send(&app, Method::GET, "/things").await;
        let refused = send(&app, Method::GET, "/things").await;
        assert_eq!(refused.status(), 429);
        let readable = refused.headers().contains_key("access-control-allow-origin")
            && refused.headers().contains_key("access-control-expose-headers");
        assert_eq!((used, readable), expected);
        // And when the quota is used up: without an answer to the preflight, there is no request.
        assert_eq!(preflight(&app, "/things").await.status(), if inside { 200 } else { 429 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_preflight_that_reaches_the_layer_is_in_no_category_of_other_methods() {
    let limit = |matcher| {
        let category = Category::new("things").on(matcher).policy(hourly(100));
        let limiter = builder().category(category).build().unwrap();
        (RateLimitLayer::new(limiter.clone()), limiter)
    };
    for (matcher, expected) in [
        (Matcher::get("/things"), 0),
        (Matcher::path("/things"), 1),
        (Matcher::options("/things"), 1),
    ] {
        let (limit, limiter) = limit(matcher);
        let cors = cors(&limit);
        let app = things().layer(cors).layer(limit);
        assert_eq!(preflight(&app, "/things").await.status(), 200);
        assert_eq!(used(&limiter).await, expected);
    }
    let exempt =
        builder().policy(hourly(100)).exempt(Matcher::options("/{*rest}")).build().unwrap();
    let limit = RateLimitLayer::new(exempt.clone());
    let app = things().layer(cors(&limit)).layer(limit);
    assert_eq!(preflight(&app, "/things").await.status(), 200);
    assert_eq!(used(&exempt).await, 0);
}

#[derive(Clone)]
struct User(String);

/// Accepts a token that ends in `!`, and passes on requests with other tokens without a user.
async fn authenticate(mut request: Request<Body>, next: Next) -> Response {
    let token = request.headers().get("x-token").and_then(|token| token.to_str().ok());
    let user = token.and_then(|token| token.strip_suffix('!')).map(|name| User(name.to_owned()));
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

async fn authorize(request: Request<Body>, next: Next) -> Result<Response, StatusCode> {
    match request.extensions().get::<User>() {
        Some(_) => Ok(next.run(request).await),
        None => Err(StatusCode::UNAUTHORIZED),
    }
}

/// The statuses of three requests with three tokens, all from one address.
async fn statuses(app: Router, tokens: [&str; 3]) -> [u16; 3] {
    let mut statuses = [0; 3];
    for (token, status) in tokens.into_iter().zip(&mut statuses) {
        let request = Request::get("/things").header("x-token", token).header("x-ip", "1.1.1.1");
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        *status = response.status().as_u16();
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn between_authentication_and_authorization_users_and_guesses_are_counted() {
    let limit = || {
        let policy = Policy::fixed_window("per user", Quota::per_hour(2))
            .key(extension("user", |user: &User| user.0.as_str().into()))
            .or_key(header("x-ip"))
            .or_refuse();
        RateLimitLayer::new(builder().policy(policy).build().unwrap())
    };
    let (authenticate, authorize) =
        (|| middleware::from_fn(authenticate), || middleware::from_fn(authorize));
    let between = || things().layer(authorize()).layer(limit()).layer(authenticate());
    assert_eq!(statuses(between(), ["ann!", "ann!", "ann!"]).await, [200, 200, 429]);
    assert_eq!(statuses(between(), ["ann!", "ann!", "ben!"]).await, [200, 200, 200]);
    assert_eq!(statuses(between(), ["a", "b", "c"]).await, [401, 401, 429], "guesses count");
    // Inside of what answers 401, guesses cost nothing.
    let inside = || things().layer(limit()).layer(authorize()).layer(authenticate());
    assert_eq!(statuses(inside(), ["a", "b", "c"]).await, [401, 401, 401]);
    assert_eq!(statuses(inside(), ["ann!", "ann!", "ann!"]).await, [200, 200, 429]);
    // Outside of authentication, there are no users yet: all count by their address.
    let outside = || things().layer(authorize()).layer(authenticate()).layer(limit());
    assert_eq!(statuses(outside(), ["ann!", "ben!", "cat!"]).await, [200, 200, 429]);
}

#[tokio::test(start_paused = true)]
async fn a_trace_sees_refusals_only_from_outside() {
    for (outside, seen) in [(true, 3), (false, 1)] {
        let limit = RateLimitLayer::new(builder().policy(hourly(1)).build().unwrap());
        let traced = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&traced);
        let trace =
            TraceLayer::new_for_http().on_request(move |_: &Request<Body>, _: &tracing::Span| {
                count.fetch_add(1, SeqCst);
            });
        let app = match outside {
            true => things().layer(limit).layer(trace),
            false => things().layer(trace).layer(limit),
        };
        for status in [200, 429, 429] {
            assert_eq!(send(&app, Method::GET, "/things").await.status(), status);
        }
        assert_eq!(traced.load(SeqCst), seen);
    }
}

#[tokio::test(start_paused = true)]
async fn compression_compresses_refusals_only_from_outside() {
    for outside in [true, false] {
        let limit = RateLimitLayer::new(builder().policy(hourly(1)).build().unwrap());
        let long = Router::new().route("/", get(|| async { "long ".repeat(100) }));
        let app = match outside {
            true => long.layer(limit).layer(CompressionLayer::new()),
            false => long.layer(CompressionLayer::new()).layer(limit),
        };
        for (status, compressed) in [(200, true), (429, outside)] {
            let request = Request::get("/").header("accept-encoding", "gzip");
            let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), status);
            let is_compressed = response.headers().contains_key("content-encoding");
            assert_eq!(is_compressed, compressed, "{status}, outside: {outside}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_includes_the_wait_and_inside_only_the_handler() {
    let app = |outside: bool, works: Duration| {
        let policy = Policy::token_bucket("held", Quota::per_second(1).burst(1)).global();
        let limiter = builder().policy(policy.hold(10 * SECOND)).build().unwrap();
        let limit = RateLimitLayer::new(limiter);
        let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, 2 * SECOND);
        let handler = move || async move {
            tokio::time::sleep(works).await;
            "done"
        };
        let app = Router::new().route("/", get(handler));
        match outside {
            true => app.layer(limit).layer(timeout),
            false => app.layer(timeout).layer(limit),
        }
    };
    let all = async |app: Router| {
        let sent = (0..5).map(|_| {
            let app = app.clone();
            tokio::spawn(async move { send(&app, Method::GET, "/").await.status().as_u16() })
        });
        let mut statuses = Vec::new();
        for sent in sent.collect::<Vec<_>>() {
            statuses.push(sent.await.unwrap());
        }
        statuses
    };
    let works = SECOND / 2;
    // The first at once, then one a second. The third would end after 2.5 seconds.
    assert_eq!(all(app(true, works)).await, [200, 200, 504, 504, 504]);
    assert_eq!(all(app(false, works)).await, [200; 5]);
    assert_eq!(all(app(false, 3 * SECOND)).await, [504; 5], "the handler alone takes too long");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_frees_a_held_request_and_charges_one_in_its_handler() {
    let policy = || Policy::token_bucket("held", Quota::per_hour(1).burst(1)).global();
    for (policy, status, left) in [
        (policy().hold(7_200 * SECOND), [504, 504], 0),
        (Policy::fixed_window("held", Quota::per_hour(5)).global(), [504, 504], 3),
    ] {
        let limiter = builder().policy(policy).build().unwrap();
        let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, SECOND);
        let never = || async { std::future::pending::<&str>().await };
        let app = Router::new()
            .route("/", get(never))
            .layer(RateLimitLayer::new(limiter.clone()))
            .layer(timeout);
        for status in status {
            assert_eq!(send(&app, Method::GET, "/").await.status(), status);
        }
        assert_eq!(limiter.peek("held", "").await.unwrap().remaining(), left);
    }
}

#[tokio::test(start_paused = true)]
async fn two_layers_of_one_limiter_charge_twice() {
    let (limit, limiter) = counting();
    let app = Router::new().nest("/api", things().layer(limit.clone())).layer(limit);
    assert_eq!(send(&app, Method::GET, "/api/things").await.status(), 200);
    assert_eq!(used(&limiter).await, 2);
    // On two routers beside each other, they share the quota, and each request is charged once.
    let (limit, limiter) = counting();
    let one = things().layer(limit.clone());
    let other = Router::new().route("/others", get(|| async { "others" })).layer(limit);
    let app = one.merge(other);
    for path in ["/things", "/others"] {
        assert_eq!(send(&app, Method::GET, path).await.status(), 200);
    }
    assert_eq!(used(&limiter).await, 2);
}

#[tokio::test(start_paused = true)]
async fn units_in_flight_come_back_when_the_body_has_ended_under_any_outer_layer() {
    let policy = Policy::in_flight("all", 100).global();
    let limiter = builder().policy(policy).build().unwrap();
    let app = things()
        .layer(RateLimitLayer::new(limiter.clone()))
        .layer(TraceLayer::new_for_http())
        .layer(middleware::map_response(async |response: Response| response.map(Body::new)));
    let response = send(&app, Method::GET, "/things").await;
    assert_eq!(used(&limiter).await, 1);
    assert_eq!(to_bytes(response.into_body(), 64).await.unwrap(), "things");
    assert_eq!(used(&limiter).await, 0);
}
