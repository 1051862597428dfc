//! A gRPC call that is refused by a program without the feature `grpc`.

use http::{Request, Response, header::CONTENT_TYPE};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Policy, Quota, RateLimitLayer,
    warning::{Code, warnings},
};

/// How many warnings there are after a refusal of such a request.
async fn warnings_after(layer: &RateLimitLayer, content_type: &str) -> usize {
    let handler =
        service_fn(|_| async { Ok::<_, std::convert::Infallible>(Response::new(String::new())) });
    let request = Request::post("/").header(CONTENT_TYPE, content_type).body(()).unwrap();
    let refused = layer.layer(handler).oneshot(request).await.unwrap();
    assert_eq!(refused.status(), 400);
    warnings().iter().filter(|warning| warning.code() == Code::GrpcRefusedAsHttp).count()
}

#[tokio::test]
async fn a_refusal_that_a_client_cannot_read_is_reported_once() {
    let key = tower_quota::key::bearer();
    let policy = Policy::token_bucket("p", Quota::per_day(1)).key(key).or_refuse();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let own = RateLimitLayer::builder(limiter.clone()).on_rejection(|rejection| {
        let response = Response::builder().status(rejection.status());
        response.header(CONTENT_TYPE, "application/grpc").body("").unwrap()
    });
    let (own, default) = (own.build().unwrap(), RateLimitLayer::new(limiter));
    for content_type in ["application/json", "application/grpcfoo", ""] {
        assert_eq!(warnings_after(&default, content_type).await, 0);
    }
    assert_eq!(warnings_after(&own, "application/grpc").await, 0);
    for content_type in ["application/grpc", "Application/GRPC+proto", "application/grpc-web"] {
        assert_eq!(warnings_after(&default, content_type).await, 1);
    }
}
