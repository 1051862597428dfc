//! A key in the body: found where it can be, and the body untouched wherever it goes.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{BodyFieldLayer, body_field},
};

type Parcel = Result<Frame<Bytes>, &'static str>;

/// Frames as a client may send them.
struct Parcels(VecDeque<Parcel>);

impl Body for Parcels {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Parcel>> {
        Poll::Ready(self.0.pop_front())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn data(text: &str) -> Parcel {
    Ok(Frame::data(Bytes::copy_from_slice(text.as_bytes())))
}

/// What the handler received, frame by frame.
type Received = Vec<Result<String, &'static str>>;

struct Answer {
    status: StatusCode,
    received: Option<Received>,
}

/// Sends a body through the field layer and a limit of one request per email.
async fn send(content_type: &str, parcels: Vec<Parcel>) -> Answer {
    let one_per_email = Policy::fixed_window("forgot", Quota::per_hour(1));
    send_to(one_per_email.key(body_field("email")).or_refuse(), content_type, parcels).await
}

async fn send_to(policy: Policy, content_type: &str, parcels: Vec<Parcel>) -> Answer {
    let received = Arc::new(Mutex::new(None));
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let seen = Arc::clone(&received);
    let handler = service_fn(move |request: Request<_>| {
        let seen = Arc::clone(&seen);
        async move {
            *seen.lock().unwrap() = Some(receive(request.into_body()).await);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let service = ServiceBuilder::new()
        .layer(BodyFieldLayer::new(["email"]).max_bytes(64))
        .layer(RateLimitLayer::new(limiter))
        .service(handler);
    let request = Request::post("/").header("content-type", content_type);
    let response = service.oneshot(request.body(Parcels(parcels.into())).unwrap()).await.unwrap();
    let received = received.lock().unwrap().take();
    Answer { status: response.status(), received }
}

async fn receive(mut body: impl Body<Data = Bytes, Error = &'static str> + Unpin) -> Received {
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        received.push(frame.map(|frame| match frame.into_data() {
            Ok(data) => String::from_utf8(data.to_vec()).unwrap(),
            Err(frame) => format!("{:?}", frame.into_trailers().unwrap()),
        }));
    }
    received
}

#[tokio::test]
async fn the_handler_receives_every_frame_as_it_was_sent() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let parcels = vec![
        data("{\"email\""),
        data(""),
        data(": \"A@B.c \"}"),
        Ok(Frame::trailers(trailers.clone())),
    ];
    let answer = send("application/json", parcels).await;
    assert_eq!(answer.status, StatusCode::OK);
    let sent = ["{\"email\"", "", ": \"A@B.c \"}", &format!("{trailers:?}")];
    assert_eq!(answer.received.unwrap(), sent.map(|frame| Ok(frame.to_owned())));
}

#[tokio::test]
async fn without_a_field_the_policy_says_what_happens_and_nothing_is_a_500() {
    let long = format!("{{\"email\":\"{}@b.c\"}}", "a".repeat(64));
    for (why, content_type, parcels) in [
        ("over the cap", "application/json", vec![data(&long)]),
        ("over the cap in parts", "application/json", vec![data(&long[..40]), data(&long[40..])]),
        ("cut off", "application/json", vec![data("{\"email\":\"a@b.c"), Err("reset by peer")]),
        ("ended early", "application/json", vec![data("{\"email\":\"a@b.c")]),
        ("not JSON", "application/json", vec![data("email=a@b.c")]),
        ("another type", "text/plain", vec![data("{\"email\":\"a@b.c\"}")]),
        ("no field", "application/json", vec![data("{\"mail\":\"a@b.c\"}")]),
        ("nothing", "application/json", vec![]),
    ] {
        let answer = send(content_type, parcels).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{why}");
        assert!(answer.received.is_none(), "{why}: refused before the handler");
    }
}

#[tokio::test]
async fn a_body_that_is_no_document_arrives_whole() {
    let part = "x".repeat(40);
    for (why, parcels) in [
        ("over the cap", [data(&part), data(&part), data("end"), Err("reset by peer")]),
        ("cut off", [data("{"), data("\"email\""), data(":"), Err("reset by peer")]),
    ] {
        let text = |parcel: &Parcel| match parcel {
            Ok(frame) => String::from_utf8(frame.data_ref().unwrap().to_vec()).map_err(|_| ""),
            Err(error) => Err(*error),
        };
        let sent: Received = parcels.iter().map(text).collect();
        let skip = Policy::fixed_window("p", Quota::per_hour(1)).key(body_field("email")).or_skip();
        let answer = send_to(skip, "application/json", parcels.into()).await;
        assert_eq!(answer.status, StatusCode::OK, "{why}");
        assert_eq!(answer.received.unwrap(), sent, "{why}");
    }
}

#[tokio::test]
async fn other_requests_are_not_waited_for() {
    /// A body that never comes.
    struct Never;

    impl Body for Never {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    let handler = service_fn(|_: Request<_>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = BodyFieldLayer::new(["email"]).only(Matcher::post("/forgot")).layer(handler);
    let send = |uri: &str| {
        let request = Request::post(uri).header("content-type", "application/json");
        tokio::time::timeout(
            Duration::from_millis(50),
            service.clone().oneshot(request.body(Never).unwrap()),
        )
    };
    assert!(send("/other").await.is_ok());
    assert!(send("/forgot").await.is_err(), "this one's body is waited for");
}
