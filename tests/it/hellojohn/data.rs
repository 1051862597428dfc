//! "Data API Endpoints" and "Limits by Plan".

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tokio::time::advance;

use super::super::examples::hellojohn::Contract;
use super::api::*;

/// The page's numbers. An enterprise tenant without a contract has the largest of them.
const PLANS: [(&str, u64, u64); 4] = [
    (FREE, 100, 30),
    (STARTER, 500, 150),
    (PRO, 1_000, 500),
    ("Bearer sk_live_enterprise_acme", 1_000, 500),
];

#[tokio::test(start_paused = true)]
async fn each_plan_reads_as_often_as_the_page_says() {
    for (credential, read, _) in PLANS {
        let call = get("/v1/users").with(credential);
        Api::new().assert_limit(&call, &users(), read, MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_plan_writes_as_often_as_the_page_says() {
    for (credential, _, write) in PLANS {
        let call = post("/v1/users").with(credential);
        Api::new().assert_limit(&call, &created(), write, MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_plan_has_fifty_bulk_operations_a_minute() {
    for (credential, ..) in PLANS {
        for (path, served) in [
            ("/v1/admin/users/search", users()),
            ("/v1/users/bulk", bulk_done()),
            ("/v1/webhooks/bulk", bulk_done()),
            ("/v1/anything/bulk", bulk_done()),
        ] {
            let call = post(path).with(credential);
            Api::new().assert_limit(&call, &served, 50, MINUTE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reads_count_together_whatever_their_path() {
    let api = Api::new();
    let head = call(Method::HEAD, "/v1/users");
    let no_body = |mut answer: Answer| {
        answer.body = json!(null);
        answer
    };
    let reads = [
        (get("/v1/users"), users()),
        (get("/v1/users?page=2"), users()),
        (get("/v1/users/usr_7"), answer(200, json!({ "id": "usr_7", "name": "A User" }))),
        (head, no_body(users())),
        (get("/v1/webhooks/wh_1/deliveries"), answer(200, json!({ "deliveries": [] }))),
        (get("/v1/nothing/here"), not_found()),
    ];
    for (used, (call, served)) in (1..).zip(reads) {
        let expected = served.quota(100, 100 - used, api.after(MINUTE));
        assert_eq!(api.send(&call.clone().with(FREE)).await, expected, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_is_refused_where_get_is() {
    let api = Api::new();
    let head = call(Method::HEAD, "/v1/users").with(FREE);
    api.spend(&head, 100).await;
    let reset = api.after(MINUTE);
    let answer = api.send(&get("/v1/users").with(FREE)).await;
    assert_eq!(answer, refused(100, reset, MINUTE));
    // The HTTP server leaves out the body.
    let answer = api.send(&head).await;
    assert_eq!((answer.status, answer.headers), (429, refused(100, reset, MINUTE).headers));
}

#[tokio::test(start_paused = true)]
async fn writes_count_together_whatever_their_method() {
    let api = Api::new();
    let user = "/v1/users/usr_7";
    let not_allowed =
        answer(405, json!({ "error": "method_not_allowed", "message": "Not with this method." }))
            .header("allow", "GET,HEAD,PATCH,DELETE");
    let writes = [
        (post("/v1/users"), created()),
        (call(Method::PATCH, user), answer(200, json!({ "id": "usr_7", "name": "A User" }))),
        (call(Method::DELETE, user), answer(200, json!({ "id": "usr_7", "deleted": true }))),
        (call(Method::PUT, user), not_allowed),
        (post("/v1/nothing/here"), not_found()),
        (call(Method::DELETE, "/v1/nothing"), not_found()),
    ];
    for (used, (call, served)) in (1..).zip(writes) {
        let expected = served.quota(30, 30 - used, api.after(MINUTE));
        assert_eq!(api.send(&call.clone().with(FREE)).await, expected, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn bulk_operations_count_together_whatever_their_path() {
    let api = Api::new();
    let paths = ["/v1/admin/users/search", "/v1/users/bulk", "/v1/invitations/bulk"];
    for path in paths.iter().cycle().take(50) {
        api.spend(&post(path).with(PRO), 1).await;
    }
    for path in paths {
        let answer = api.send(&post(path).with(PRO)).await;
        assert_eq!(answer, refused(50, api.after(MINUTE), MINUTE), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_writes_and_bulk_operations_do_not_use_each_others_quota() {
    let api = Api::new();
    let reset = api.after(MINUTE);
    for (call, served, limit) in [
        (get("/v1/users"), users(), 100),
        (post("/v1/users"), created(), 30),
        (post("/v1/users/bulk"), bulk_done(), 50),
        (post("/v1/auth/token/refresh"), ok(), 5),
    ] {
        let call = call.with(FREE);
        assert_eq!(api.send(&call).await, served.quota(limit, limit - 1, reset), "{call:?}");
        api.spend(&call, limit - 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_quota_from_wherever_it_calls() {
    for (call, served, limit, of_pro) in [
        (get("/v1/users"), users(), 100, 1_000),
        (post("/v1/users"), created(), 30, 500),
        (post("/v1/users/bulk"), bulk_done(), 50, 50),
    ] {
        let api = Api::new();
        let reset = api.after(MINUTE);
        let call = call.with(FREE);
        api.spend(&call, limit).await;
        let elsewhere = api.send(&call.clone().from(OFFICE)).await;
        assert_eq!(elsewhere, refused(limit, reset, MINUTE), "another address: {call:?}");
        let other = api.send(&call.clone().with("Bearer sk_live_free_other")).await;
        assert_eq!(other, served.clone().quota(limit, limit - 1, reset), "another key: {call:?}");
        let upgraded = api.send(&call.clone().with(PRO)).await;
        assert_eq!(
            upgraded,
            served.quota(of_pro, of_pro - 1, reset),
            "of the same tenant: {call:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_enterprise_tenant_has_the_numbers_of_its_contract() {
    let token = "Bearer sk_live_enterprise_big_corp";
    for (call, served, limit) in [
        (get("/v1/users"), users(), 1_200),
        (post("/v1/users"), created(), 7),
        (post("/v1/auth/token/refresh"), ok(), 3),
        (post("/v1/users/bulk"), bulk_done(), 50),
    ] {
        let api = Api::new();
        api.contracts.set("big_corp", Contract { read: 1_200, write: 7, auth: 3 });
        api.assert_limit(&call.with(token), &served, limit, MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_contract_is_of_one_tenant_and_of_its_enterprise_keys() {
    let api = Api::new();
    api.contracts.set("acme", Contract { read: 7, write: 7, auth: 7 });
    for (credential, limit) in [
        ("Bearer sk_live_enterprise_acme", 7),
        ("Bearer sk_live_enterprise_acme2", 1_000),
        (PRO, 1_000),
        (STARTER, 500),
        (FREE, 100),
    ] {
        let answer = api.send(&get("/v1/users").with(credential)).await;
        let expected = users().quota(limit, limit - 1, api.after(MINUTE));
        assert_eq!(answer, expected, "{credential}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_contract_holds_at_once_and_what_was_used_stays_used() {
    let api = Api::new();
    let read = |read| api.contracts.set("acme", Contract { read, write: 1, auth: 1 });
    let call = get("/v1/users").with("Bearer sk_live_enterprise_acme");
    let reset = api.after(MINUTE);
    read(10);
    api.spend(&call, 6).await;
    // A raise: of 20, 6 are used.
    read(20);
    assert_eq!(api.send(&call).await, users().quota(20, 13, reset));
    // A cut below what is used: nothing passes until the window has passed over it.
    read(4);
    assert_eq!(api.send(&call).await, refused(4, reset, 60));
    advance(Duration::from_secs(15)).await;
    assert_eq!(api.send(&call).await, refused(4, reset, 45));
    // Raised again, what was refused has cost nothing.
    read(8);
    assert_eq!(api.send(&call).await, users().quota(8, 0, reset));
    assert_eq!(api.send(&call).await, refused(8, reset, 45));
    advance(Duration::from_secs(45)).await;
    let later = reset + 15;
    assert_eq!(api.send(&call).await, users().quota(8, 6, later), "the eighth came 15 s later");
}
