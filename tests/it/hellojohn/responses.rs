//! "Rate Limit Headers", and the bodies of refusals and errors.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tokio::time::advance;

use super::api::*;

#[tokio::test(start_paused = true)]
async fn the_429_is_the_pages_with_one_number_in_header_message_and_field() {
    let api = Api::new();
    let call = get("/v1/users").with(FREE);
    api.spend(&call, 100).await;
    advance(Duration::from_secs(37)).await;
    let page = answer(
        429,
        json!({
            "error": "rate_limit_exceeded",
            "message": "Rate limit exceeded. Retry after 23 seconds.",
            "retry_after": 23,
        }),
    );
    let expected = page
        .header("x-ratelimit-limit", "100")
        .header("x-ratelimit-remaining", "0")
        .header("x-ratelimit-reset", "1705399260")
        .header("retry-after", "23")
        .header("cache-control", "no-store");
    assert_eq!(api.send(&call).await, expected);
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_second_are_rounded_up() {
    let api = Api::new();
    advance(Duration::from_millis(1)).await;
    let call = get("/v1/users").with(FREE);
    let reset = START + 61;
    assert_eq!(api.send(&call).await, users().quota(100, 99, reset));
    api.spend(&call, 99).await;
    advance(Duration::from_nanos(1)).await;
    assert_eq!(api.send(&call).await, refused(100, reset, 60));
    advance(Duration::from_millis(59_999)).await;
    assert_eq!(api.send(&call).await, refused(100, reset, 1), "a nanosecond before");
}

#[tokio::test(start_paused = true)]
async fn the_reset_is_when_the_oldest_call_leaves_the_window() {
    let api = Api::new();
    let call = get("/v1/users").with("Bearer sk_live_pro_acme");
    for used in 1..=5 {
        let expected = users().quota(1_000, 1_000 - used, START + MINUTE);
        assert_eq!(api.send(&call).await, expected);
        advance(Duration::from_secs(10)).await;
    }
    // The first of the five has left after another 10 seconds.
    advance(Duration::from_secs(10)).await;
    assert_eq!(api.send(&call).await, users().quota(1_000, 995, START + MINUTE + 10));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_path_is_a_404_in_the_apis_envelope_and_counts_from_v1_on() {
    let api = Api::new();
    let reset = api.after(MINUTE);
    for (call, expected) in [
        (get("/v1/unknown").with(FREE), not_found().quota(100, 99, reset)),
        (post("/v1/unknown").with(FREE), not_found().quota(30, 29, reset)),
        (post("/v1/users/usr_1/bulk").with(FREE), not_found().quota(30, 28, reset)),
        (get("/v1/users/").with(FREE), not_found().quota(100, 98, reset)),
        (get("/v1/unknown"), not_found().quota(100, 99, reset)),
        (get("/").with(FREE), not_found()),
        (get("/v1"), not_found().quota(100, 98, reset)),
        (get("/v2/users").with(FREE), not_found()),
        (call(Method::DELETE, "/healthy"), not_found()),
    ] {
        assert_eq!(api.send(&call).await, expected, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_are_limited_like_any_other() {
    let api = Api::new();
    let call = get("/v1/unknown").with(FREE);
    api.assert_limit(&call, &not_found(), 100, MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_method_is_a_405_in_the_apis_envelope_and_counts() {
    let api = Api::new();
    let body = json!({ "error": "method_not_allowed", "message": "Not with this method." });
    let answer = api.send(&get("/v1/auth/sign-in").with(FREE)).await;
    let expected = super::api::answer(405, body).header("allow", "POST");
    assert_eq!(answer, expected.quota(100, 99, api.after(MINUTE)), "a GET is a read");
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_an_address_or_key_is_told_so_and_shares_no_quota() {
    let api = Api::new();
    let call = get("/v1/users").without_address();
    let message = "Policy `read` counts by api key, which the request does not tell.";
    let expected = answer(400, json!({ "error": "bad_request", "message": message }))
        .header("cache-control", "no-store");
    for _ in 0..200 {
        assert_eq!(api.send(&call).await, expected);
    }
    let known = api.send(&call.with(FREE)).await;
    assert_eq!(known, users().quota(100, 99, api.after(MINUTE)), "a key needs no address");
}
