//! In a stack of layers of tower and tower-http, at each position.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tokio::time::{Instant, sleep, timeout};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    buffer::BufferLayer,
    layer::layer_fn,
    limit::GlobalConcurrencyLimitLayer,
    load_shed::LoadShedLayer,
    service_fn,
    timeout::TimeoutLayer,
    util::{BoxCloneService, BoxCloneServiceLayer},
};
use tower_http::{
    cors::CorsLayer,
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_quota::{Clock, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer, key::header};

type ReqBody = Full<Bytes>;
type ResBody = UnsyncBoxBody<Bytes, BoxError>;
type Stack = BoxCloneService<Request<ReqBody>, Response<ResBody>, BoxError>;
type AnyLayer = BoxCloneServiceLayer<Stack, Request<ReqBody>, Response<ResBody>, BoxError>;

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// A layer whose type is forgotten, so that a table can hold it.
fn any<L, B>(layer: L) -> AnyLayer
where
    L: Layer<Stack> + Clone + Send + Sync + 'static,
    L::Service: Service<Request<ReqBody>, Response = Response<B>, Error: Into<BoxError>>
        + Clone
        + Send
        + 'static,
    <L::Service as Service<Request<ReqBody>>>::Future: Send,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    BoxCloneServiceLayer::new(layer_fn(move |inner: Stack| {
        let service = layer.layer(inner);
        service
            .map_response(|response| response.map(|body| body.map_err(Into::into).boxed_unsync()))
            .map_err(Into::into)
    }))
}

/// The handler, which takes a tenth of a second, and how often it was called.
fn handler() -> (Stack, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let handler = service_fn(move |_: Request<ReqBody>| {
        counted.fetch_add(1, SeqCst);
        async {
            sleep(SECOND / 10).await;
            let body = Full::new(Bytes::from("handled"));
            Ok(Response::new(body.map_err(|never: Infallible| match never {}).boxed_unsync()))
        }
    });
    (Stack::new(handler), calls)
}

#[derive(Clone, Copy)]
struct OneId;

impl MakeRequestId for OneId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Some(RequestId::new(HeaderValue::from_static("req_1")))
    }
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The usual stack, from outside to inside, with what stands where.
fn usual(limit: &RateLimitLayer) -> Vec<(&'static str, AnyLayer)> {
    vec![
        ("request id", any(SetRequestIdLayer::new(X_REQUEST_ID, OneId))),
        ("its propagation", any(PropagateRequestIdLayer::new(X_REQUEST_ID))),
        ("trace", any(TraceLayer::new_for_http())),
        (
            "cors",
            any(CorsLayer::new()
                .allow_origin(tower_http::cors::Any)
                .expose_headers(limit.exposed_headers())),
        ),
        ("timeout", any(TimeoutLayer::new(60 * SECOND))),
        ("buffer", any(BufferLayer::new(64))),
        ("load shed", any(LoadShedLayer::new())),
        ("concurrency limit", any(GlobalConcurrencyLimitLayer::new(100))),
    ]
}

/// The usual stack, with the limit before each of its layers and after the last: where it stands,
/// and the whole.
fn orders(limit: &RateLimitLayer, handler: &Stack) -> Vec<(String, Stack)> {
    let orders = (0..=usual(limit).len()).map(|place| {
        let mut layers = usual(limit);
        let before = layers.get(place).map_or("the handler", |(name, _)| name);
        let order = format!("before {before}");
        layers.insert(place, ("limit", any(limit.clone())));
        let wrap = |inner, (_, layer): (_, AnyLayer)| Stack::new(layer.layer(inner));
        (order, layers.into_iter().rev().fold(handler.clone(), wrap))
    });
    orders.collect()
}

fn request(key: &str) -> Request<ReqBody> {
    let request = Request::get("/").header("x-key", key).header("origin", "https://app.test");
    request.body(Full::default()).unwrap()
}

async fn text(response: Response<ResBody>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn at_each_place_of_a_stack_the_admitted_reach_the_handler_once_and_the_refused_never() {
    let three = Policy::fixed_window("p", Quota::per_hour(3)).key(header("x-key")).or_refuse();
    let limit = RateLimitLayer::new(builder().policy(three).build().unwrap());
    let (handler, calls) = handler();
    for (order, stack) in orders(&limit, &handler) {
        let key = order.as_str();
        let sent = (0..8).map(|_| tokio::spawn(stack.clone().oneshot(request(key))));
        let mut refused = 0;
        for response in sent.collect::<Vec<_>>() {
            let response = timeout(9 * SECOND, response).await.expect("no deadlock").unwrap();
            let status = response.unwrap_or_else(|error| panic!("{order}: {error}")).status();
            refused += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
        }
        assert_eq!((calls.swap(0, SeqCst), refused), (3, 5), "{order}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_the_request_id_and_scripts_of_other_origins_may_read_its_headers() {
    let one = Policy::fixed_window("p", Quota::per_hour(1)).key(header("x-key")).or_refuse();
    let limit = RateLimitLayer::new(builder().policy(one).build().unwrap());
    let (handler, _) = handler();
    // Outside the layers that set the id and CORS, it cannot be so.
    let inside_cors = orders(&limit, &handler).split_off(4);
    for (order, stack) in inside_cors {
        for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS] {
            let response = stack.clone().oneshot(request(&order)).await.unwrap();
            assert_eq!(response.status(), status, "{order}");
            let headers = response.headers().clone();
            assert_eq!(headers["x-request-id"], "req_1", "{order}");
            assert_eq!(headers["access-control-allow-origin"], "*", "{order}");
            let exposed = headers["access-control-expose-headers"].to_str().unwrap();
            let told = headers.keys().map(HeaderName::as_str);
            let told: Vec<_> =
                told.filter(|name| name.contains("ratelimit") || *name == "retry-after").collect();
            let refused = status == StatusCode::TOO_MANY_REQUESTS;
            assert_eq!(told.len(), if refused { 4 } else { 3 }, "{order}");
            for name in told {
                assert!(exposed.split(',').any(|exposed| exposed == name), "{order}: {name}");
            }
            let body = text(response).await;
            assert_eq!(body.contains("\"request_id\":\"req_1\""), refused, "{order}: {body}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn held_requests_keep_no_permit_and_shed_no_load() {
    let policy = Policy::token_bucket("p", Quota::per_second(1).burst(1))
        .key(header("x-key"))
        .or_refuse()
        .hold(9 * SECOND);
    let limit = RateLimitLayer::new(builder().policy(policy).build().unwrap());
    let shed = || any(LoadShedLayer::new());
    let permit = || any(GlobalConcurrencyLimitLayer::new(1));
    for (order, layers) in [
        ("limit, permit", vec![any(limit.clone()), permit()]),
        ("shed, limit, permit", vec![shed(), any(limit.clone()), permit()]),
        ("limit, shed, permit", vec![any(limit.clone()), shed(), permit()]),
        (
            "buffer, limit, shed, permit",
            vec![any(BufferLayer::new(9)), any(limit.clone()), shed(), permit()],
        ),
        (
            "shed, buffer, limit, permit",
            vec![shed(), any(BufferLayer::new(9)), any(limit.clone()), permit()],
        ),
    ] {
        let (handler, calls) = handler();
        let wrap = |inner, layer: AnyLayer| Stack::new(layer.layer(inner));
        let stack = layers.into_iter().rev().fold(handler, wrap);
        let send = |key: &str| {
            let (stack, request) = (stack.clone(), request(&format!("{order} {key}")));
            let began = Instant::now();
            tokio::spawn(async move {
                let status = stack.oneshot(request).await.unwrap().status();
                (status, began.elapsed().as_millis())
            })
        };
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(send("a"));
            // So that no two want the permit at the same time.
            sleep(SECOND / 5).await;
        }
        let (status, took) = timeout(9 * SECOND, send("b")).await.expect(order).unwrap();
        assert_eq!((status.as_u16(), took), (200, 100), "{order}: the permit is free");
        // The last to come is held as well: no later request takes what it may have left behind.
        held.push(send("a"));
        for held in held {
            let (status, _) = timeout(9 * SECOND, held).await.expect(order).unwrap();
            assert_eq!(status, StatusCode::OK, "{order}");
        }
        assert_eq!(calls.load(SeqCst), 5, "{order}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_limits_each_counts_what_reaches_it_and_a_refusal_is_told_by_who_refuses() {
    let limit = |name, units, key| {
        let policy = Policy::fixed_window(name, Quota::per_hour(units)).key(header(key));
        let limiter = builder().policy(policy.or_refuse()).build().unwrap();
        (RateLimitLayer::new(limiter.clone()), limiter)
    };
    let (outer, outer_limiter) = limit("outer", 6, "x-ip");
    let (inner, inner_limiter) = limit("inner", 2, "x-key");
    let (handler, calls) = handler();
    let stack = ServiceBuilder::new().layer(outer).layer(inner).service(handler);
    let send = async |key: &str| {
        let mut request = request(key);
        request.headers_mut().insert("x-ip", HeaderValue::from_static("1.1.1.1"));
        let response = stack.clone().oneshot(request).await.unwrap();
        let value = |name: &str| -> u64 {
            let values: Vec<_> = response.headers().get_all(name).iter().collect();
            let [value] = values[..] else { panic!("{name}: {values:?}") };
            value.to_str().unwrap().parse().unwrap()
        };
        let told = ["limit", "remaining"].map(|name| value(&format!("x-ratelimit-{name}")));
        (response.status().as_u16(), told)
    };
    assert_eq!(send("a").await, (200, [2, 1]), "the one with the smaller share left");
    assert_eq!(send("a").await, (200, [2, 0]));
    assert_eq!(send("a").await, (429, [2, 0]), "the inner one's word");
    assert_eq!(send("b").await, (200, [6, 2]), "what the inner one refused has reached the outer");
    assert_eq!(send("b").await, (200, [2, 0]));
    assert_eq!(send("c").await, (200, [6, 0]));
    assert_eq!(send("c").await, (429, [6, 0]), "the outer one's word");
    assert_eq!(calls.load(SeqCst), 5);
    let left = async |limiter: &Limiter, name, key| {
        limiter.peek(name, key).await.unwrap().outcomes().next().unwrap().remaining()
    };
    assert_eq!(left(&outer_limiter, "outer", "1.1.1.1").await, 0);
    assert_eq!(left(&inner_limiter, "inner", "c").await, 1, "it never saw what the outer refused");
}
