//! Reading a body for its key is bounded: in bytes, in pieces and in time.

use std::{convert::Infallible, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio_stream::{Stream, StreamExt};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    BodyFieldLayer, Limiter, Policy, Quota, RateLimitLayer,
    key::{Extracted, KeyExtractor, body_field},
};

/// A body of these frames.
fn body(frames: impl Stream<Item = Bytes> + Send + 'static) -> Pieces {
    StreamBody::new(Box::pin(frames.map(|piece| Ok(Frame::data(piece)))))
}

type Pieces = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

async fn send(layer: BodyFieldLayer, policy: Policy, content_type: &str) -> StatusCode {
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let handler = service_fn(async |_: Request<_>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let service =
        ServiceBuilder::new().layer(layer).layer(RateLimitLayer::new(limiter)).service(handler);
    let request = Request::post("/").header("content-type", content_type);
    // A whole document, and no end.
    let pieces = ["{\"email\":", "\"a@b.c\"}"].map(Bytes::from);
    let body = body(tokio_stream::iter(pieces).chain(tokio_stream::pending()));
    service.oneshot(request.body(body).unwrap()).await.unwrap().status()
}

fn by_email() -> Policy {
    Policy::fixed_window("p", Quota::per_hour(1)).key(body_field("email"))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_refused_in_time() {
    let layer = || BodyFieldLayer::new(["email"]);
    for (layer, seconds) in [(layer(), 10), (layer().timeout(Duration::from_secs(3)), 3)] {
        let begun = tokio::time::Instant::now();
        let status = send(layer, by_email().or_skip(), "application/json").await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn another_type_is_read_where_the_layer_is_given_it() {
    let layer = BodyFieldLayer::new(["email"]).timeout(Duration::from_secs(1));
    let status = send(layer.clone(), by_email().or_skip(), "text/plain;charset=UTF-8").await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let status = send(layer.json_type("text/plain"), by_email().or_skip(), "text/plain").await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "it is read, and takes too long");
}

/// Sends a document, each byte in a frame of its own, after some empty frames. Returns the email that
/// is found, and how many bytes arrive.
async fn crumbs(document: &str, empty: usize) -> (Extracted<'static>, usize) {
    let handler = service_fn(async |request: Request<_>| {
        let (head, body) = request.into_parts();
        let found = match body_field("email").extract(&head) {
            Extracted::Found(key) => Extracted::Found(key.as_bytes().to_vec().into()),
            Extracted::Missing => Extracted::Missing,
            Extracted::Unreadable(status) => Extracted::Unreadable(status),
        };
        let body: tower_quota::PeekedBody<Pieces> = body;
        let Ok(body) = body.collect().await;
        Ok::<_, Infallible>(Response::new((found, body.to_bytes().len())))
    });
    let bytes = document.as_bytes().to_vec().into_iter().map(|byte| Bytes::from(vec![byte]));
    let body = body(tokio_stream::iter(std::iter::repeat_n(Bytes::new(), empty).chain(bytes)));
    let request = Request::post("/").header("content-type", "application/json").body(body).unwrap();
    let service = BodyFieldLayer::new(["email"]).layer(handler);
    let Ok(response) = service.oneshot(request).await;
    response.into_body()
}

#[test]
fn sixteen_thousand_pieces_take_no_more_memory_than_one() {
    let document = format!("{{\"email\":\"a@b.c\",\"x\":\"{}\"}}", "y".repeat(15_970));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let measured = allocation_counter::measure(|| {
        let (found, arrived) = runtime.block_on(crumbs(&document, 0));
        assert_eq!((found, arrived), (Extracted::Found("a@b.c".into()), document.len()));
    });
    // The document as it is sent and as it arrives, beside what reads it.
    assert!(measured.bytes_max < 5 * 16_384, "{} bytes", measured.bytes_max);
}

#[tokio::test]
async fn pieces_are_bounded_also_where_they_are_empty() {
    let document = "{\"email\":\"a@b.c\"}";
    assert_eq!(crumbs(document, 1_000).await.0, Extracted::Found("a@b.c".into()));
    let (found, arrived) = crumbs(document, 20_000).await;
    assert_eq!(found, Extracted::Unreadable(StatusCode::PAYLOAD_TOO_LARGE));
    assert_eq!(arrived, document.len(), "the body arrives all the same");
}
