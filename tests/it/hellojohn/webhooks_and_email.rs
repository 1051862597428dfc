//! "Webhook Endpoints", "Email Endpoints" and "Rate Limit Exemptions".

use axum::http::Method;
use serde_json::json;

use super::api::*;

/// Path, answer, limit and window of the page's lines that count per key.
fn table() -> [(Call, Answer, u64, u64); 3] {
    [
        (post("/v1/webhooks/wh_1/test"), queued(), 10, MINUTE),
        (post("/v1/email/config/test"), ok(), 5, HOUR),
        (get("/v1/email/templates/welcome/preview"), preview("welcome"), 30, MINUTE),
    ]
}

#[tokio::test(start_paused = true)]
async fn each_line_admits_its_quota_on_every_plan() {
    for credential in [FREE, STARTER, PRO, ROOMY] {
        for (call, served, limit, window) in table() {
            Api::new().assert_limit(&call.with(credential), &served, limit, window).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_counts_per_key_and_apart_from_reads_and_writes() {
    let api = Api::new();
    for (call, served, limit, window) in table() {
        let reset = api.after(window);
        let call = call.with(FREE);
        api.spend(&call, limit).await;
        let elsewhere = api.send(&call.clone().from(OFFICE)).await;
        assert_eq!(elsewhere, refused(limit, reset, window), "another address: {call:?}");
        let other = api.send(&call.clone().with("Bearer sk_live_free_other")).await;
        assert_eq!(other, served.quota(limit, limit - 1, reset), "another key: {call:?}");
    }
    let reset = api.after(MINUTE);
    let read = api.send(&get("/v1/users").with(FREE)).await;
    assert_eq!(read, users().quota(100, 99, reset));
    let write = api.send(&post("/v1/users").with(FREE)).await;
    assert_eq!(write, created().quota(30, 29, reset));
}

#[tokio::test(start_paused = true)]
async fn tests_of_all_webhooks_and_previews_of_all_templates_count_together() {
    let api = Api::new();
    for nth in 0..10 {
        api.spend(&post(&format!("/v1/webhooks/wh_{nth}/test")).with(FREE), 1).await;
    }
    let reset = api.after(MINUTE);
    let test = post("/v1/webhooks/wh_10/test").with(FREE);
    assert_eq!(api.send(&test).await, refused(10, reset, MINUTE));
    for nth in 0..30 {
        api.spend(&get(&format!("/v1/email/templates/t{nth}/preview")).with(FREE), 1).await;
    }
    let preview = get("/v1/email/templates/t30/preview").with(FREE);
    assert_eq!(api.send(&preview).await, refused(30, reset, MINUTE));
    let head = call(Method::HEAD, "/v1/email/templates/t31/preview").with(FREE);
    assert_eq!(api.send(&head).await.status, 429, "HEAD is a preview too");
}

#[tokio::test(start_paused = true)]
async fn what_is_exempt_is_never_counted_and_has_no_headers() {
    let api = Api::new();
    let exempt = [
        (get("/health"), answer(200, json!({ "status": "ok" }))),
        (get("/.well-known/jwks.json"), answer(200, json!({ "keys": [] }))),
        (post("/v1/webhooks/callback"), ok()),
    ];
    for credential in [None, Some(FREE), Some("Bearer nonsense")] {
        for (call, served) in &exempt {
            let call = call.clone().maybe_with(credential);
            // More often than any quota of this caller.
            for _ in 0..200 {
                assert_eq!(api.send(&call).await, *served, "{call:?}");
            }
        }
    }
    // Neither the key nor the address has used anything.
    let reset = api.after(MINUTE);
    for (call, expected) in [
        (get("/v1/users").with(FREE), users().quota(100, 99, reset)),
        (post("/v1/users").with(FREE), created().quota(30, 29, reset)),
        (get("/v1/users"), unauthorized().quota(100, 99, reset)),
        (post("/v1/users"), unauthorized().quota(30, 29, reset)),
    ] {
        assert_eq!(api.send(&call).await, expected, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_exempt_is_served_to_callers_whose_quotas_are_spent() {
    let api = Api::new();
    api.spend(&get("/v1/users").with(FREE), 100).await;
    api.spend(&post("/v1/users").with(FREE), 30).await;
    let health = api.send(&get("/health").with(FREE)).await;
    assert_eq!(health, answer(200, json!({ "status": "ok" })));
    let keys = api.send(&get("/.well-known/jwks.json").with(FREE)).await;
    assert_eq!(keys, answer(200, json!({ "keys": [] })));
    assert_eq!(api.send(&post("/v1/webhooks/callback").with(FREE)).await, ok());
}
