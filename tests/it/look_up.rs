//! Callers that a layer looks up before they are counted.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt, Empty};
use tower::{Service, ServiceBuilder, ServiceExt, limit::ConcurrencyLimitLayer, service_fn};
use tower_quota::{
    Limiter, LookUpLayer, Matcher, Policy, Quota, RateLimitLayer, key,
    warning::{Code, warnings},
};

#[derive(Clone)]
struct User(&'static str);

/// Looks up the user by the header `x-session`, which also says what the look-up does.
async fn look_up(session: Option<String>) -> Result<Option<User>, &'static str> {
    match session.as_deref() {
        Some("alice" | "alice's phone") => Ok(Some(User("alice"))),
        Some("bob") => Ok(Some(User("bob"))),
        Some("fails") => Err("the database is down"),
        Some("hangs") => pending().await,
        _ => Ok(None),
    }
}

fn session(request: &Parts) -> Option<String> {
    Some(request.headers.get("x-session")?.to_str().ok()?.to_owned())
}

fn layer() -> LookUpLayer<User> {
    LookUpLayer::new(|request: &Parts| look_up(session(request)))
}

fn per_user(kind: &'static str) -> Policy {
    Policy::fixed_window("per user", Quota::per_hour(2))
        .key(key::looked_up(kind, |user: &User| user.0.into()))
}

/// Status and body of the response to a request with this session. The handler answers with the user.
async fn send(policy: Policy, look_up: LookUpLayer<User>, sessions: &[&str]) -> Vec<(u16, String)> {
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let handler = service_fn(async |request: Request<Empty<Bytes>>| {
        let user = request.extensions().get().map_or("nobody", |User(name)| name);
        Ok::<_, Infallible>(Response::new(http_body_util::Full::from(user)))
    });
    let mut service =
        ServiceBuilder::new().layer(look_up).layer(RateLimitLayer::new(limiter)).service(handler);
    let mut answers = Vec::new();
    for session in sessions {
        let request = Request::get("/").header("x-session", *session).body(Empty::new()).unwrap();
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        answers.push((status, String::from_utf8(body.to_vec()).unwrap()));
    }
    answers
}

async fn statuses(policy: Policy, look_up: LookUpLayer<User>, sessions: &[&str]) -> Vec<u16> {
    send(policy, look_up, sessions).await.into_iter().map(|(status, _)| status).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_count_by_the_user_that_was_looked_up() {
    let sessions = ["alice", "alice's phone", "alice", "bob", "nobody"];
    let answers = send(per_user("user").or_skip(), layer(), &sessions).await;
    let expected = [(200, "alice"), (200, "alice")].map(|(status, body)| (status, body.to_owned()));
    assert_eq!(answers[..2], expected);
    assert_eq!(answers[2].0, 429);
    assert_eq!(answers[3..], [(200, "bob".to_owned()), (200, "nobody".to_owned())]);
    assert_eq!(statuses(per_user("user").or_refuse(), layer(), &["nobody"]).await, [400]);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_or_lasts_too_long_is_a_refusal() {
    for session in ["fails", "hangs"] {
        let other = || key::from_fn("all", |_| Some("all".into()));
        for policy in [
            per_user("user").or_skip(),
            per_user("user").or_refuse(),
            per_user("user").or_key(other()).or_refuse(),
        ] {
            let [(status, body)] = &send(policy, layer(), &[session]).await[..] else { panic!() };
            assert_eq!(*status, 503, "{session}");
            assert!(
                body.contains("Policy `per user` counts by user, which cannot be read: its look-up has failed."),
                "{body}",
            );
        }
        let as_missing = per_user("user").unreadable_as_missing().or_skip();
        assert_eq!(statuses(as_missing, layer(), &[session]).await, [200], "in so many words");
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_has_its_time() {
    let slow = |millis| {
        LookUpLayer::new(move |request: &Parts| {
            let session = session(request);
            async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                look_up(session).await
            }
        })
    };
    let statuses = async |look_up| statuses(per_user("user").or_skip(), look_up, &["bob"]).await;
    assert_eq!(statuses(slow(999)).await, [200]);
    assert_eq!(statuses(slow(1_001)).await, [503]);
    assert_eq!(statuses(slow(1_001).timeout(Duration::from_secs(2))).await, [200]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_looked_up_is_refused_with_a_warning() {
    let elsewhere = || layer().only(Matcher::get("/elsewhere"));
    let policy = per_user("who is not looked up").or_skip();
    assert_eq!(statuses(policy, elsewhere(), &["alice"]).await, [503]);
    let given = warnings().into_iter().find(|given| given.culprit() == "who is not looked up");
    let given = given.unwrap();
    assert_eq!(given.code(), Code::NotLookedUp);
    assert!(given.to_string().contains("`.layer(LookUpLayer::new(…))`"), "{given}");
    let here = elsewhere().only(Matcher::get("/"));
    assert_eq!(statuses(per_user("user").or_skip(), here, &["alice"]).await, [200]);
    let invalid = elsewhere().only(Matcher::get("no path"));
    assert_eq!(statuses(per_user("user").or_skip(), invalid, &["alice"]).await, [200]);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_user_is_forgotten() {
    // An outer layer has found somebody, and the inner one, which is nearer, nobody.
    let always = LookUpLayer::new(|_: &Parts| async { Ok::<_, ()>(Some(User("alice"))) });
    for (session, status) in [("nobody", 200), ("fails", 503)] {
        let limiter = Limiter::builder().policy(per_user("user").or_skip()).build().unwrap();
        let service = ServiceBuilder::new()
            .layer(always.clone())
            .layer(layer())
            .layer(RateLimitLayer::new(limiter))
            .service(service_fn(async |request: Request<Empty<Bytes>>| {
                assert!(request.extensions().get::<User>().is_none(), "a handler sees nobody");
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            }));
        let request = Request::get("/").header("x-session", session).body(Empty::new()).unwrap();
        assert_eq!(service.oneshot(request).await.unwrap().status(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_keeps_no_permit_of_the_inner_service() {
    let running = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&running);
    let service = ServiceBuilder::new()
        .layer(layer())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(service_fn(move |_: Request<Empty<Bytes>>| {
            seen.fetch_add(1, SeqCst);
            async { Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())) }
        }));
    let send = |session: &str| {
        let request = Request::get("/").header("x-session", session).body(Empty::new()).unwrap();
        service.clone().oneshot(request)
    };
    let hanging = tokio::spawn(send("hangs"));
    tokio::task::yield_now().await;
    send("alice").await.unwrap();
    assert_eq!(running.load(SeqCst), 1, "the other request still waits");
    hanging.await.unwrap().unwrap();
    assert_eq!(running.load(SeqCst), 2);
}

#[cfg(feature = "grpc")]
#[tokio::test(start_paused = true)]
async fn a_call_is_told_that_the_look_up_has_failed() {
    let limiter = Limiter::builder().policy(per_user("user").or_skip()).build().unwrap();
    let service = ServiceBuilder::new().layer(layer()).layer(RateLimitLayer::new(limiter)).service(
        service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }),
    );
    let request = Request::post("/").header("x-session", "fails");
    let request = request.header("content-type", "application/grpc").body(Empty::new()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14", "UNAVAILABLE, and no bad argument");
}
