//! What each of the two applications does with the same requests. Both run by the real clock: no assertion
//! changes if the machine stops for ten seconds.

use std::net::SocketAddr;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Method, Request, StatusCode},
};
use from_tower_governor::{after, before};
use serde_json::Value;
use tower::ServiceExt;

const CLIENT: &str = "203.0.113.7";

fn apps() -> [Router; 2] {
    [before::app(), after::app().unwrap()]
}

struct Answer {
    status: StatusCode,
    retry_after: Option<u64>,
    remaining: Option<u64>,
    body: Vec<u8>,
}

async fn send(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let number = |name| response.headers().get(name)?.to_str().unwrap().parse().ok();
    let (retry_after, remaining) = (number("retry-after"), number("x-ratelimit-remaining"));
    let status = response.status();
    let body = to_bytes(response.into_body(), 1_000).await.unwrap().into();
    Answer { status, retry_after, remaining, body }
}

/// A request as the proxy passes it on.
async fn through_proxy(app: &Router, method: Method, path: &str, forwarded: &str) -> Answer {
    let proxy = ConnectInfo(SocketAddr::from(([10, 0, 0, 9], 443)));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("x-forwarded-for", forwarded)
        .extension(proxy)
        .body(Body::empty())
        .unwrap();
    send(app, request).await
}

/// How many of the sign-ins pass.
async fn sign_ins(app: &Router, tries: u8, forwarded: impl Fn(u8) -> String) -> usize {
    let mut passed = 0;
    for number in 0..tries {
        let answer = through_proxy(app, Method::POST, "/sign-in", &forwarded(number)).await;
        passed += usize::from(answer.status.is_success());
    }
    passed
}

#[tokio::test]
async fn both_let_three_sign_ins_pass_and_answer_the_fourth_in_json() {
    for app in apps() {
        assert_eq!(sign_ins(&app, 3, |_| CLIENT.into()).await, 3);
        let refused = through_proxy(&app, Method::POST, "/sign-in", CLIENT).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(matches!(refused.retry_after, Some(48..=60)), "{:?}", refused.retry_after);
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert!(body["error"].is_string(), "{body}");
    }
}

/// `.per_second(2)`, and `Quota::per_window(1, Duration::from_secs(2))`. A wait is 2 seconds, less the
/// time since the last request that passed. `tower_governor` rounds it down, so a client that obeys is refused
/// again.
#[tokio::test]
async fn per_second_2_is_one_request_every_two_seconds() {
    let mut waits = Vec::new();
    for app in apps() {
        let mut longest = 0;
        for _ in 0..1_000 {
            let answer = through_proxy(&app, Method::GET, "/notes", CLIENT).await;
            longest = longest.max(answer.retry_after.unwrap_or(0));
        }
        waits.push(longest);
    }
    // With two requests a second, no wait would be longer than half a second.
    assert_eq!(waits, [1, 2]);
}

#[tokio::test]
async fn before_a_caller_chose_its_address_and_now_it_cannot() {
    let [before, after] = apps();
    // The caller writes the first address, and the proxy adds the second.
    let forged = |number| format!("6.6.6.{number}, {CLIENT}");
    assert_eq!(sign_ins(&before, 100, forged).await, 100);
    assert_eq!(sign_ins(&after, 100, forged).await, 3);
}

#[tokio::test]
async fn before_a_get_used_up_sign_ins_and_now_it_does_not() {
    let [before, after] = apps();
    for app in [&before, &after] {
        for _ in 0..3 {
            let answer = through_proxy(app, Method::GET, "/sign-in", CLIENT).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        }
    }
    assert_eq!(sign_ins(&before, 3, |_| CLIENT.into()).await, 0);
    assert_eq!(sign_ins(&after, 3, |_| CLIENT.into()).await, 3);
}

/// In `before`, the outer layer counts each sign-in, also one that the inner layer then refuses.
#[tokio::test]
async fn before_a_refused_sign_in_used_up_requests_and_now_it_does_not() {
    let mut remaining = Vec::new();
    for app in apps() {
        assert_eq!(sign_ins(&app, 18, |_| CLIENT.into()).await, 3);
        remaining.push(through_proxy(&app, Method::GET, "/notes", CLIENT).await.remaining.unwrap());
    }
    assert!(remaining[0] < 7, "of 20, 18 sign-ins and 1 other request: {remaining:?}");
    assert!(remaining[1] >= 16, "of 20, 3 sign-ins and 1 other request: {remaining:?}");
}

#[tokio::test]
async fn without_connect_info_before_it_is_a_500_and_now_a_400() {
    let mut statuses = Vec::new();
    for app in apps() {
        let request = Request::get("/notes").body(Body::empty()).unwrap();
        statuses.push(send(&app, request).await.status);
    }
    assert_eq!(statuses, [StatusCode::INTERNAL_SERVER_ERROR, StatusCode::BAD_REQUEST]);
}
