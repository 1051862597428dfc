//! Bodies in which no email can be read: their callers count by address, and nothing fails.

use axum::body::Bytes;
use serde_json::json;

use crate::api::*;

const CAP: usize = 16 * 1024;

fn forgot() -> Call {
    post("/v1/auth/password/forgot")
}

/// A JSON document of this length, with an email.
fn document(length: usize) -> String {
    let start = r#"{"email":"ann@example.com","note":""#;
    format!("{start}{}\"}}", "x".repeat(length - start.len() - 2))
}

fn unreadable() -> Vec<(&'static str, Call)> {
    let chunk = |text: &str| Some(Bytes::copy_from_slice(text.as_bytes()));
    let long = document(CAP + 1);
    let (first, second) = long.split_at(CAP / 2);
    let json = |document: &'static str| forgot().body("application/json", document);
    vec![
        ("a byte over the cap", forgot().body("application/json", document(CAP + 1))),
        ("far over the cap", forgot().body("application/json", document(64 * CAP))),
        ("over the cap in chunks", forgot().chunks([chunk(first), chunk(second)])),
        ("a broken connection", forgot().chunks([chunk(r#"{"email":"ann@exa"#), None])),
        ("broken after the email", forgot().chunks([chunk(r#"{"email":"ann@example.com""#), None])),
        ("broken at once", forgot().chunks([None])),
        ("cut off", json(r#"{"email":"ann@exam"#)),
        ("not JSON", json("email=ann@example.com")),
        ("not an object", json(r#"["ann@example.com"]"#)),
        ("not a text", json(r#"{"email":7}"#)),
        ("not UTF-8", forgot().body("application/json", &b"{\"email\":\"\xff\"}"[..])),
        ("two emails", json(r#"{"email":"ann@example.com","email":"bob@example.com"}"#)),
        ("no email", json(r#"{"name":"Ann"}"#)),
        ("an empty email", json(r#"{"email":"  "}"#)),
        ("an empty body", json("")),
        ("an unknown type", forgot().body("text/plain", r#"{"email":"ann@example.com"}"#)),
        ("no body and no type", forgot()),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_body_without_a_readable_email_counts_by_address() {
    for (why, call) in unreadable() {
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
async fn all_unreadable_bodies_of_an_address_count_together() {
    let api = Api::new();
    let reset = api.after(TEN_MINUTES);
    for (nth, (why, call)) in (1..).zip(unreadable()) {
        let expected = match nth {
            1..=5 => ok().quota(5, 5 - nth, reset),
            _ => refused(5, reset, TEN_MINUTES),
        };
        assert_eq!(api.send(&call).await, expected, "{why}");
    }
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
    let verify = post("/v1/mfa/verify").body("application/json", "{");
    api.spend(&verify, 5).await;
    let reset = api.after(TEN_MINUTES);
    assert_eq!(api.send(&verify).await, refused(5, reset, TEN_MINUTES));
    assert_eq!(api.send(&verify.from(OFFICE)).await, ok().quota(5, 4, reset));
}
