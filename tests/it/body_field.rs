//! A key in the body: where it is found, and that the body reaches the handler untouched.

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
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    BodyFieldLayer, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{body_field, from_fn},
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
async fn the_handler_receives_each_byte_and_the_trailers_as_they_were_sent() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let parcels = vec![
        data("{\"email\""),
        data(""),
        data(": \"A@B.c \"}"),
        Ok(Frame::trailers(trailers.clone())),
    ];
    let answer = send("application/json", parcels).await;
    assert_eq!(answer.status, StatusCode::OK);
    // In one piece, however many there were.
    let sent = ["{\"email\": \"A@B.c \"}", &format!("{trailers:?}")];
    assert_eq!(answer.received.unwrap(), sent.map(|frame| Ok(frame.to_owned())));
}

/// What a policy says of missing keys.
fn policies() -> [(&'static str, Policy); 3] {
    let policy = || Policy::fixed_window("forgot", Quota::per_hour(1)).key(body_field("email"));
    let all = || from_fn("all", |_| Some("all".into()));
    [
        ("or_skip", policy().or_skip()),
        ("or_refuse", policy().or_refuse()),
        ("or_key", policy().or_key(all()).or_skip()),
    ]
}

#[tokio::test]
async fn what_a_handler_may_read_and_the_layer_cannot_is_refused_under_every_policy() {
    let json = "application/json";
    let email = "{\"email\":\"a@b.c\"}";
    let long = format!("{{\"email\":\"{}@b.c\"}}", "a".repeat(64));
    let empty_first = (0..64).map(|_| data("")).chain([data(email)]).collect();
    for (why, status, content_type, parcels) in [
        ("over the cap", 413, json, vec![data(&long)]),
        ("over the cap in parts", 413, json, vec![data(&long[..40]), data(&long[40..])]),
        ("in too many frames", 413, json, empty_first),
        ("cut off", 400, json, vec![data("{\"email\":\"a@b.c"), Err("reset by peer")]),
        ("cut off after it", 400, json, vec![data(email), Err("reset by peer")]),
        ("ended early", 400, json, vec![data("{\"email\":\"a@b.c")]),
        ("not JSON", 400, json, vec![data("email=a@b.c")]),
        ("an array of fields", 400, json, vec![data("[\"a@b.c\"]")]),
        ("an array around it", 400, json, vec![data("{\"email\":[\"a@b.c\"]}")]),
        ("twice", 400, json, vec![data("{\"email\":\"a\",\"email\":\"a\"}")]),
        (
            "twice in a form",
            400,
            "application/x-www-form-urlencoded",
            vec![data("email=a&email=b")],
        ),
        ("JSON as a form", 415, "application/x-www-form-urlencoded", vec![data(email)]),
        ("another type", 415, "text/plain", vec![data(email)]),
        ("a vendor's type", 415, "application/vnd.acme", vec![data(email)]),
    ] {
        for (name, policy) in policies() {
            let parcels = parcels.iter().map(|parcel| match parcel {
                Ok(frame) => Ok(Frame::data(frame.data_ref().unwrap().clone())),
                Err(error) => Err(*error),
            });
            let answer = send_to(policy, content_type, parcels.collect()).await;
            assert_eq!(answer.status, status, "{why} {name}");
            assert!(answer.received.is_none(), "{why}: refused before the handler");
        }
    }
}

#[tokio::test]
async fn what_lacks_the_field_is_missing() {
    for (why, parcels) in [
        ("no field", vec![data("{\"mail\":\"a@b.c\"}")]),
        ("nothing", vec![]),
        ("an empty field", vec![data("{\"email\":\" \"}")]),
        ("null", vec![data("{\"email\":null}")]),
    ] {
        let [(_, or_skip), ..] = policies();
        let answer = send_to(or_skip, "application/json", parcels).await;
        assert_eq!(answer.status, StatusCode::OK, "{why}");
    }
    let answer = send("application/json", vec![data("{}")]).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "the policy says so");
}

/// Headers, the URI and the body of a request, beside which those of the others are one caller's.
#[tokio::test]
async fn what_handlers_take_for_the_same_is_one_key() {
    let json: &[(&str, &str)] = &[("content-type", "application/json")];
    let form: &[(&str, &str)] = &[("content-type", "application/x-www-form-urlencoded")];
    let identity: &[(&str, &str)] =
        &[("content-type", "application/problem+json"), ("content-encoding", "identity")];
    let unencoded: &[(&str, &str)] =
        &[("content-type", "application/json"), ("content-encoding", "")];
    for (field, requests) in [
        (
            "email",
            vec![
                (json, "/", r#"{"email":"ann@example.com"}"#),
                (json, "/", r#"{"email":" Ann@Example.COM "}"#),
                (json, "/", r#"{"Email":"ann@example.com"}"#),
                (identity, "/", r#"{"email":"ann@example.com"}"#),
                (unencoded, "/", r#"{"email":"ann@example.com"}"#),
                (form, "/", "email=ann%40example.com"),
            ],
        ),
        (
            "user.id",
            vec![
                (json, "/", r#"{"user":{"id":42}}"#),
                (json, "/", r#"{"user":{"id":"42"}}"#),
                (json, "/", r#"{"user":{"id":"042"}}"#),
                (json, "/", r#"{"user":{"id":42.0}}"#),
                (form, "/", "user[id]=42"),
                (form, "/", "user.id=42"),
            ],
        ),
    ] {
        let policy = Policy::fixed_window("p", Quota::per_hour(1)).key(body_field(field)).or_skip();
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        for (nth, (headers, uri, body)) in requests.into_iter().enumerate() {
            let mut request = Request::post(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let handler = service_fn(async |_: Request<_>| {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            let service = ServiceBuilder::new()
                .layer(BodyFieldLayer::new([field]))
                .layer(RateLimitLayer::new(limiter.clone()))
                .service(handler);
            let request = request.body(Parcels(vec![data(body)].into())).unwrap();
            let status = service.oneshot(request).await.unwrap().status();
            assert_eq!(status, if nth == 0 { 200 } else { 429 }, "{body}");
        }
    }
}

#[tokio::test]
async fn a_query_is_read_where_a_form_is() {
    let policy = Policy::fixed_window("p", Quota::per_hour(1)).key(body_field("email")).or_skip();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let send = |request: http::request::Builder, body: &'static str| {
        let handler = service_fn(async |_: Request<_>| {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let service = ServiceBuilder::new()
            .layer(BodyFieldLayer::new(["email"]))
            .layer(RateLimitLayer::new(limiter.clone()))
            .service(handler);
        let request = request.header("content-type", "application/json");
        service.oneshot(request.body(Full::from(body)).unwrap())
    };
    assert_eq!(send(Request::get("/?email=a"), "").await.unwrap().status(), 200);
    assert_eq!(send(Request::get("/?email=a"), "").await.unwrap().status(), 429);
    assert_eq!(send(Request::get("/"), r#"{"email":"A"}"#).await.unwrap().status(), 429);
    let both = send(Request::get("/?email=a"), r#"{"email":"b"}"#).await.unwrap();
    assert_eq!(both.status(), 400, "which one the handler reads is unknown");
    assert_eq!(send(Request::get("/?email=c&email=d"), "").await.unwrap().status(), 400);
    let posted = send(Request::post("/?email=a"), "{}").await.unwrap();
    assert_eq!(posted.status(), 200, "a form is in the body");
}

#[tokio::test]
async fn two_layers_may_read_a_field_each() {
    let both = (body_field("tenant"), body_field("email"));
    let policy = Policy::fixed_window("p", Quota::per_hour(1)).key(both).or_refuse();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(BodyFieldLayer::new(["tenant"]))
        .layer(BodyFieldLayer::new(["email"]))
        .layer(RateLimitLayer::new(limiter))
        .service_fn(async |_: Request<_>| {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
    let request = Request::post("/").header("content-type", "application/json");
    let request = request.body(Full::from(r#"{"tenant":7,"email":"a@b.c"}"#)).unwrap();
    assert_eq!(service.oneshot(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_body_that_no_layer_has_read_is_refused_and_warned_of() {
    let policy =
        Policy::fixed_window("p", Quota::per_hour(1)).key(body_field("never read")).or_skip();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let request = Request::post("/").header("content-type", "application/json");
    let (request, ()) = request.body(()).unwrap().into_parts();
    for _ in 0..2 {
        let decision = limiter.decide(&request).await;
        assert!(!decision.is_allowed(), "or else each request without the layer is uncounted");
    }
    let warnings = tower_quota::warning::warnings();
    let mut given = warnings.iter().filter(|warning| warning.culprit() == "never read");
    let warning = given.next().unwrap();
    assert_eq!(warning.code().as_str(), "body_field_not_read");
    assert_eq!(
        warning.to_string(),
        "a policy counts by the body's field `never read`, and no layer has read it, so that the \
         request is refused; write `.layer(BodyFieldLayer::new([\"never read\"]))` after the \
         limiter's layer, and let its `only` match each request of the policy"
    );
    assert!(given.next().is_none(), "once");
}

#[tokio::test]
async fn a_body_that_is_no_document_arrives_whole() {
    let part = "x".repeat(40);
    for (why, parcels) in [
        ("over the cap", [data(&part), data(&part), data("end"), Err("reset by peer")]),
        ("cut off", [data("{"), data("\"email\""), data(":"), Err("reset by peer")]),
    ] {
        let text = |parcels: &[Parcel]| -> (String, Option<&'static str>) {
            let text = parcels.iter().flatten().filter_map(Frame::data_ref);
            let text = text.map(|data| str::from_utf8(data).unwrap());
            (text.collect(), parcels.iter().find_map(|parcel| parcel.as_ref().err().copied()))
        };
        let sent = text(&parcels);
        let tried = Policy::fixed_window("p", Quota::per_hour(1)).key(body_field("email"));
        let answer = send_to(tried.or_skip().dry_run(), "application/json", parcels.into()).await;
        assert_eq!(answer.status, StatusCode::OK, "{why}");
        let received = answer.received.unwrap();
        let arrived: String = received.iter().flatten().map(String::as_str).collect();
        let error = received.iter().find_map(|frame| frame.as_ref().err().copied());
        assert_eq!((arrived, error), sent, "{why}");
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
