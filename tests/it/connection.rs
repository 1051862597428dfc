//! The `connection` header of a refusal, for each version of HTTP and type of body.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{Limiter, Policy, Quota, RateLimitLayer};

/// The service needs nothing of a body, not even that it is one.
struct AnyBody;

#[tokio::test]
async fn only_http_1_has_a_connection_header_and_only_where_a_body_may_be_left() {
    let none = Policy::fixed_window("none", Quota::per_hour(1)).global().cost(|_| 2);
    let layer = RateLimitLayer::new(Limiter::builder().policy(none).build().unwrap());
    let service = layer.layer(service_fn(async |_: Request<AnyBody>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let (one, zero) = (("content-length", "1"), ("content-length", "0"));
    let chunked = ("transfer-encoding", "chunked");
    for (version, header, closes) in [
        (Version::HTTP_11, Some(one), true),
        (Version::HTTP_11, Some(chunked), true),
        (Version::HTTP_11, Some(zero), false),
        (Version::HTTP_11, None, false),
        (Version::HTTP_10, Some(one), true),
        (Version::HTTP_10, None, false),
        (Version::HTTP_2, Some(one), false),
        (Version::HTTP_2, None, false),
        (Version::HTTP_3, Some(one), false),
        // What cannot be read may be anything.
        (Version::HTTP_11, Some(("content-length", "many")), true),
    ] {
        let mut request = Request::builder().version(version);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = service.clone().oneshot(request.body(AnyBody).unwrap()).await.unwrap();
        assert_eq!(response.status(), 429);
        let told = response.headers().get("connection");
        assert_eq!(told.is_some_and(|told| told == "close"), closes, "{version:?} {header:?}");
        assert_eq!(told.is_some(), closes, "{version:?} {header:?}");
    }
}
