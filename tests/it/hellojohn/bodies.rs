//! Bodies without an email count by address; one whose email cannot be read is refused.

use axum::body::Bytes;
use serde_json::json;

use super::api::*;

const CAP: usize = 16 * 1024;

fn forgot() -> Call {
    post("/v1/auth/password/forgot")
}

/// A JSON document of this length, with an email.
fn document(length: usize) -> String {
    let start = r#"{"email":"ann@example.com","note":""#;
    format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
}

/// Bodies of which a handler may read more than the limiter, and how they are refused.
fn unreadable() -> Vec<(&'static str, u16, Call)> {
    let chunk = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    let long = document(CAP + 1);
    let (first, second) = long.split_at(CAP / 2);
    let json = |document: &'static str| forgot().body("application/json", document);
    let broken_after = forgot().chunks([chunk(r#"{"email":"ann@example.com""#), None]);
    vec![
        ("a byte over the cap", 413, forgot().body("application/json", document(CAP + 1))),
        ("far over the cap", 413, forgot().body("application/json", document(64 * CAP))),
        ("over the cap in chunks", 413, forgot().chunks([chunk(first), chunk(second)])),
        ("a broken connection", 400, forgot().chunks([chunk(r#"{"email":"ann@exa"#), None])),
        ("broken after the email", 400, broken_after),
        ("broken at once", 400, forgot().chunks([None])),
        ("cut off", 400, json(r#"{"email":"ann@exam"#)),
        ("not JSON", 400, json("email=ann@example.com")),
        ("not an object", 400, json(r#"["ann@example.com"]"#)),
        ("not a text", 400, json(r#"{"email":["ann@example.com"]}"#)),
        ("not UTF-8", 400, forgot().body("application/json", &b"{\"email\":\"\xff\"}"[..])),
        ("two emails", 400, json(r#"{"email":"ann@example.com","email":"bob@example.com"}"#)),
        ("an unknown type", 415, forgot().body("text/plain", r#"{"email":"ann@example.com"}"#)),
    ]
}

/// Bodies without an email.
fn without_email() -> Vec<(&'static str, Call)> {
    let json = |document: &'static str| forgot().body("application/json", document);
    vec![
        ("no email", json(r#"{"name":"Ann"}"#)),
        ("an empty email", json(r#"{"email":"  "}"#)),
        ("no email but null", json(r#"{"email":null}"#)),
        ("an empty body", json("")),
        ("no body and no type", forgot()),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_email_the_limiter_cannot_read_is_refused() {
    let api = Api::new();
    for (why, status, call) in unreadable() {
        for _ in 0..6 {
            let answer = api.send(&call).await;
            assert_eq!(answer.status, status, "{why}");
            let error = match status {
                413 => "payload_too_large",
                415 => "unsupported_media_type",
                _ => "bad_request",
            };
            assert_eq!(answer.body["error"], error, "{why}");
        }
    }
    // Refused bodies have cost nothing.
    let reset = api.after(TEN_MINUTES);
    let readable = forgot().json(&json!({ "email": "ann@example.com" }));
    assert_eq!(api.send(&readable).await, ok().quota(5, 4, reset));
    assert_eq!(api.send(&forgot()).await, ok().quota(5, 4, reset));
}

#[tokio::test(start_paused = true)]
async fn a_body_without_an_email_counts_by_address() {
    for (why, call) in without_email() {
        let api = Api::new();
        let reset = api.after(TEN_MINUTES);
        for used in 1..=5 {
            assert_eq!(api.send(&call).await, ok().quota(5, 5 - used, reset), "{why}");
        }
        assert_eq!(api.send(&call).await, refused(5, reset, TEN_MINUTES), "{why}");
        let elsewhere = call.from(OFFICE);
        assert_eq!(api.send(&elsewhere).await, ok().quota(5, 4, reset), "{why}, elsewhere");
        let readable = forgot().json(&json!({ "email": "ann@example.com" }));
        assert_eq!(api.send(&readable).await, ok().quota(5, 4, reset), "the email after {why}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_bodies_without_an_email_of_an_address_count_together() {
    let api = Api::new();
    let reset = api.after(TEN_MINUTES);
    for (nth, (why, call)) in (1..).zip(without_email().into_iter().cycle().take(7)) {
        let expected = match nth {
            1..=5 => ok().quota(5, 5 - nth, reset),
            _ => refused(5, reset, TEN_MINUTES),
        };
        assert_eq!(api.send(&call).await, expected, "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_is_sent_is_read_and_a_broken_body_is_a_400() {
    let api = Api::new();
    for (nth, call) in (1..).zip([
        post("/v1/users").with(PRO),
        post("/v1/users/bulk").with(PRO),
        post("/v1/webhooks/wh_1/test").with(PRO),
        post("/v1/auth/sign-in"),
        call(axum::http::Method::PATCH, "/v1/users/usr_1").with(PRO),
    ]) {
        for document in ["{", "[]", "email=a", "\u{feff}{}"] {
            let answer = api.send(&call.clone().body("application/json", document)).await;
            assert_eq!(
                (answer.status, &answer.body["error"]),
                (400, &json!("bad_request")),
                "{nth}"
            );
        }
        let read = api.send(&call.json(&json!({ "name": "Ann" }))).await;
        assert!(matches!(read.status, 200..=202), "{nth}");
    }
    let search = post("/v1/admin/users/search").with(PRO);
    let answer = api.send(&search.json(&json!({ "filters": { "ids": "usr_1" } }))).await;
    assert_eq!((answer.status, &answer.body["error"]), (400, &json!("bad_request")));
}

#[tokio::test(start_paused = true)]
async fn an_email_counts_in_a_body_as_long_as_the_cap_and_in_one_that_comes_in_chunks() {
    let api = Api::new();
    let reset = api.after(TEN_MINUTES);
    let longest = forgot().body("application/json", document(CAP));
    assert_eq!(api.send(&longest).await, ok().quota(5, 4, reset));
    let chunks = ["{\"email\":", "\"ann@", "example.com\"}"];
    let chunked = forgot().chunks(chunks.map(|chunk| Some(Bytes::from(chunk)))).from(OFFICE);
    assert_eq!(api.send(&chunked).await, ok().quota(5, 3, reset));
    let short = forgot().json(&json!({ "email": "ann@example.com" }));
    assert_eq!(api.send(&short).await, ok().quota(5, 2, reset));
}

#[tokio::test(start_paused = true)]
async fn a_verification_without_a_user_counts_by_address() {
    let api = Api::new();
    let verify = post("/v1/mfa/verify").body("application/json", "{}");
    api.spend(&verify, 5).await;
    let reset = api.after(TEN_MINUTES);
    assert_eq!(api.send(&verify).await, refused(5, reset, TEN_MINUTES));
    assert_eq!(api.send(&verify.from(OFFICE)).await, ok().quota(5, 4, reset));
}
