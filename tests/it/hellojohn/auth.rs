//! "Authentication Endpoints": six limits, and over all of them the plan's budget.

use std::time::Duration;

use serde_json::json;
use tokio::time::advance;

use super::api::*;

/// A line of the page's table.
struct Line {
    call: Call,
    limit: u64,
    window: u64,
    /// Calls that draw on the same quota.
    same: Vec<Call>,
    /// Calls that have one of their own.
    others: Vec<Call>,
}

/// The table, for callers with or without an API key.
fn table(credential: Option<&str>) -> Vec<Line> {
    let to = |path| post(path).maybe_with(credential);
    let email = |email| json!({ "email": email });
    let user = |id| json!({ "user_id": id, "code": "123456" });

    let per_ip = |path, limit, window| Line {
        call: to(path).json(&email("ann@example.com")),
        limit,
        window,
        same: vec![
            to(path).json(&email("bob@example.com")),
            to(path),
            post(path),
            post(path).with(OTHER_ROOMY),
        ],
        others: vec![to(path).json(&email("ann@example.com")).from(OFFICE)],
    };
    let forgot = to("/v1/auth/password/forgot");
    let verify = to("/v1/mfa/verify");
    let refresh = to("/v1/auth/token/refresh");
    vec![
        per_ip("/v1/auth/sign-in", 10, MINUTE),
        per_ip("/v1/auth/sign-up", 5, MINUTE),
        per_ip("/v1/auth/magic-link", 5, TEN_MINUTES),
        Line {
            call: forgot.clone().json(&email("ann@example.com")),
            limit: 5,
            window: TEN_MINUTES,
            same: vec![
                forgot.clone().json(&email("ann@example.com")).from(OFFICE),
                forgot.clone().json(&email("Ann@EXAMPLE.com")),
                forgot.clone().json(&email("  ann@example.com\t")),
                forgot.clone().json(&json!({ "lang": "de", "email": "ann@example.com" })),
                forgot.clone().form("email=ann%40example.com"),
                forgot.clone().form("lang=de&email=+ANN%40example.com+"),
                post("/v1/auth/password/forgot").json(&email("ann@example.com")),
                post("/v1/auth/password/forgot").with(OTHER_ROOMY).form("email=ann@example.com"),
            ],
            others: vec![
                forgot.clone().json(&email("bob@example.com")),
                forgot.clone().form("email=carol%40example.com"),
                forgot.form("email=ann%40example.org"),
            ],
        },
        Line {
            call: verify.clone().json(&user("usr_1")),
            limit: 5,
            window: TEN_MINUTES,
            same: vec![
                verify.clone().json(&user("usr_1")).from(OFFICE),
                verify.clone().form("code=654321&user_id=usr_1"),
                post("/v1/mfa/verify").json(&user("usr_1")),
                post("/v1/mfa/verify").with(OTHER_ROOMY).json(&user("usr_1")),
            ],
            others: vec![
                verify.clone().json(&user("usr_2")),
                verify.form("user_id=usr_3").from(OFFICE),
            ],
        },
        match credential {
            Some(_) => Line {
                call: refresh.clone(),
                limit: 60,
                window: MINUTE,
                same: vec![refresh.clone().from(OFFICE)],
                others: vec![refresh.clone().with(OTHER_ROOMY), post("/v1/auth/token/refresh")],
            },
            // Without a key, its address stands in for it.
            None => Line {
                call: refresh.clone(),
                limit: 60,
                window: MINUTE,
                same: vec![refresh.clone().json(&email("ann@example.com"))],
                others: vec![refresh.clone().from(OFFICE), refresh.with(ROOMY)],
            },
        },
    ]
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_admits_its_quota_and_then_waits_for_its_window() {
    for credential in [None, Some(ROOMY)] {
        for Line { call, limit, window, .. } in table(credential) {
            Api::new().assert_limit(&call, &ok(), limit, window).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_counts_by_the_key_that_the_page_names() {
    for credential in [None, Some(ROOMY)] {
        for Line { call, limit, window, same, others } in table(credential) {
            let api = Api::new();
            api.spend(&call, limit).await;
            let reset = api.after(window);
            for same in same {
                let answer = api.send(&same).await;
                assert_eq!(answer, refused(limit, reset, window), "{same:?} after {call:?}");
            }
            for other in others {
                let answer = api.send(&other).await;
                let passed = ok().quota(limit, limit - 1, reset);
                assert_eq!(answer, passed, "{other:?} after {call:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_endpoint_uses_the_quota_of_another() {
    let api = Api::new();
    for Line { call, limit, window, .. } in table(None) {
        let first = ok().quota(limit, limit - 1, api.after(window));
        assert_eq!(api.send(&call).await, first, "{call:?}");
        api.spend(&call, limit - 1).await;
    }
}

/// One call for each endpoint, `nth` for its email and user, so that those limits are not met.
fn endpoints(nth: u64, credential: &str) -> [Call; 6] {
    let to = |path: &str| post(path).with(credential);
    [
        to("/v1/auth/sign-in"),
        to("/v1/auth/sign-up"),
        to("/v1/auth/magic-link"),
        to("/v1/auth/password/forgot").json(&json!({ "email": format!("{nth}@example.com") })),
        to("/v1/mfa/verify").json(&json!({ "user_id": format!("usr_{nth}") })),
        to("/v1/auth/token/refresh"),
    ]
}

const BUDGETS: [(&str, u64); 3] = [(FREE, 5), (STARTER, 10), (PRO, 20)];

#[tokio::test(start_paused = true)]
async fn a_caller_with_a_key_has_its_plans_budget() {
    for (credential, budget) in BUDGETS {
        // This endpoint alone would let 60 pass.
        let refresh = post("/v1/auth/token/refresh").with(credential);
        Api::new().assert_limit(&refresh, &ok(), budget, MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_one_over_all_auth_endpoints() {
    for (credential, budget) in BUDGETS {
        let api = Api::new();
        for nth in 0..budget {
            let call = &endpoints(nth, credential)[nth as usize % 6];
            assert_eq!(api.send(call).await.status, 200, "{call:?}");
        }
        let reset = api.after(MINUTE);
        for call in endpoints(100, credential) {
            assert_eq!(api.send(&call).await, refused(budget, reset, MINUTE), "{call:?}");
        }
        advance(Duration::from_secs(MINUTE)).await;
        let call = &endpoints(100, credential)[5];
        let passed = ok().quota(budget, budget - 1, reset + MINUTE);
        assert_eq!(api.send(call).await, passed, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_of_a_key_and_an_address() {
    let api = Api::new();
    let refresh = post("/v1/auth/token/refresh").with(FREE);
    api.spend(&refresh, 5).await;
    let reset = api.after(MINUTE);
    let first = ok().quota(5, 4, reset);
    assert_eq!(api.send(&refresh.clone().from(OFFICE)).await, first, "from another address");
    let other = refresh.clone().with("Bearer sk_live_free_other");
    assert_eq!(api.send(&other).await, first, "another key");
    let anonymous = post("/v1/auth/token/refresh");
    assert_eq!(api.send(&anonymous).await, ok().quota(60, 59, reset), "without a key");
    assert_eq!(api.send(&refresh).await, refused(5, reset, MINUTE));
}

#[tokio::test(start_paused = true)]
async fn a_key_refreshes_sixty_tokens_a_minute_from_all_its_addresses() {
    let api = Api::new();
    let refresh = post("/v1/auth/token/refresh").with(PRO);
    for address in [HOME, OFFICE, "203.0.113.3"] {
        api.spend(&refresh.clone().from(address), 20).await;
    }
    let fourth = refresh.from("203.0.113.4");
    assert_eq!(api.send(&fourth).await, refused(60, api.after(MINUTE), MINUTE));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_budget_refuses_costs_its_endpoint_nothing() {
    let api = Api::new();
    api.spend(&post("/v1/auth/token/refresh").with(FREE), 5).await;
    let reset = api.after(MINUTE);
    let sign_in = post("/v1/auth/sign-in");
    for _ in 0..20 {
        let answer = api.send(&sign_in.clone().with(FREE)).await;
        assert_eq!(answer, refused(5, reset, MINUTE));
    }
    assert_eq!(api.send(&sign_in).await, ok().quota(10, 9, reset));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_its_endpoint_refuses_costs_the_budget_nothing() {
    let api = Api::new();
    let sign_up = post("/v1/auth/sign-up");
    api.spend(&sign_up, 5).await;
    let reset = api.after(MINUTE);
    for _ in 0..20 {
        assert_eq!(api.send(&sign_up.clone().with(PRO)).await, refused(5, reset, MINUTE));
    }
    let refresh = post("/v1/auth/token/refresh").with(PRO);
    assert_eq!(api.send(&refresh).await, ok().quota(20, 19, reset));
}

#[tokio::test(start_paused = true)]
async fn the_headers_tell_of_the_endpoint_or_the_budget_whichever_has_less() {
    let api = Api::new();
    let sign_up = post("/v1/auth/sign-up").with(STARTER);
    let refresh = post("/v1/auth/token/refresh").with(STARTER);
    let reset = api.after(MINUTE);
    assert_eq!(api.send(&sign_up).await, ok().quota(5, 4, reset), "9 are left of the budget");
    assert_eq!(api.send(&refresh).await, ok().quota(10, 8, reset), "59 are left of the endpoint");
}
