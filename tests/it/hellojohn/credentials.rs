//! Missing and malformed credentials.

use std::iter::repeat_n;

use serde_json::json;

use super::api::*;

/// None of these is `Bearer sk_live_<plan>_<tenant>`.
const MALFORMED: [&[u8]; 14] = [
    b"",
    b"Bearer",
    b"Bearer ",
    b"Bearer sk_live_",
    b"Bearer sk_live_free",
    b"Bearer sk_live_free_",
    b"Bearer sk_live_gold_acme",
    b"Bearer sk_live_FREE_acme",
    b"Bearer sk_test_free_acme",
    b"Bearer xsk_live_free_acme",
    b"Basic c2tfbGl2ZV9mcmVlX2FjbWU=",
    b"Basic sk_live_free_acme",
    b"sk_live_free_acme",
    b"Bearer \xff\xfe",
];

#[tokio::test(start_paused = true)]
async fn a_missing_or_malformed_credential_is_a_401_in_the_apis_envelope() {
    let api = Api::new();
    let reset = api.after(MINUTE);
    let missing = get("/v1/users");
    assert_eq!(api.send(&missing).await, unauthorized().quota(100, 99, reset));
    for (used, credential) in (2..).zip(MALFORMED) {
        let answer = api.send(&missing.clone().with(credential)).await;
        let expected = unauthorized().quota(100, 100 - used, reset);
        assert_eq!(answer, expected, "{}", String::from_utf8_lossy(credential));
    }
}

#[tokio::test(start_paused = true)]
async fn callers_without_a_credential_count_by_address() {
    // Each with the limit of its category; a plan is nothing that they have.
    for (call, limit, window) in [
        (get("/v1/users"), 100, MINUTE),
        (post("/v1/users"), 30, MINUTE),
        (post("/v1/users/bulk"), 50, MINUTE),
        (post("/v1/webhooks/wh_1/test"), 10, MINUTE),
        (post("/v1/email/config/test"), 5, HOUR),
        (get("/v1/email/templates/welcome/preview"), 30, MINUTE),
    ] {
        let api = Api::new();
        let reset = api.after(window);
        api.assert_limit(&call, &unauthorized(), limit, window).await;
        let elsewhere = api.send(&call.from(OFFICE)).await;
        let expected = unauthorized().quota(limit, limit - 1, reset + window);
        assert_eq!(elsewhere, expected, "another address");
    }
}

#[tokio::test(start_paused = true)]
async fn guesses_count_by_address_whatever_is_guessed() {
    let api = Api::new();
    let reset = api.after(MINUTE);
    for guess in 0..100 {
        let call = get("/v1/users").with(format!("Bearer sk_live_guess_{guess}"));
        let expected = unauthorized().quota(100, 99 - guess, reset);
        assert_eq!(api.send(&call).await, expected);
    }
    let call = get("/v1/users").with("Bearer sk_live_guess_100");
    assert_eq!(api.send(&call).await, refused(100, reset, MINUTE));
    let known = api.send(&get("/v1/users").with(FREE)).await;
    assert_eq!(known, users().quota(100, 99, reset), "a key of that address has its own quota");
}

#[tokio::test(start_paused = true)]
async fn auth_endpoints_need_no_credential_and_refuse_a_malformed_one() {
    for credential in MALFORMED {
        let api = Api::new();
        for path in ["/v1/auth/sign-in", "/v1/auth/token/refresh", "/v1/mfa/verify"] {
            let answer = api.send(&post(path).with(credential)).await;
            let expected = unauthorized();
            let told = String::from_utf8_lossy(credential);
            assert_eq!((answer.status, answer.body), (401, expected.body), "{told}");
            assert_eq!(api.send(&post(path)).await.status, 200, "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn guessing_keys_at_auth_endpoints_is_limited_by_address() {
    // A new email or user for each guess: their limits are never met.
    let guess = |nth: u64| {
        let credential = format!("Bearer sk_live_guess_{nth}");
        let forgot = post("/v1/auth/password/forgot").with(&credential);
        let verify = post("/v1/mfa/verify").with(&credential);
        [
            forgot.json(&json!({ "email": format!("{nth}@example.com") })),
            verify.json(&json!({ "user_id": format!("usr_{nth}") })),
        ]
    };
    for endpoint in 0..2 {
        let api = Api::new();
        let reset = api.after(MINUTE);
        // If as much is left for the email or user as for the address, the headers have the later reset.
        let first = unauthorized().quota(5, 4, api.after(TEN_MINUTES));
        assert_eq!(api.send(&guess(0)[endpoint]).await, first);
        for nth in 1..5 {
            let answer = api.send(&guess(nth)[endpoint]).await;
            assert_eq!(answer, unauthorized().quota(5, 4 - nth, reset));
        }
        for call in guess(5) {
            assert_eq!(api.send(&call).await, refused(5, reset, MINUTE), "{call:?}");
        }
        let elsewhere = guess(6)[endpoint].clone().from(OFFICE);
        assert_eq!(api.send(&elsewhere).await, first, "another address");
        let honest = post("/v1/auth/sign-in");
        assert_eq!(api.send(&honest).await, ok().quota(10, 9, reset), "sends no credential");
    }
}

#[tokio::test(start_paused = true)]
async fn the_scheme_is_bearer_in_any_letter_case_and_a_tenant_may_have_any_name() {
    let api = Api::new();
    let reset = api.after(MINUTE);
    let spellings = ["Bearer", "bearer", "BEARER"];
    for (used, scheme) in (1..).zip(spellings) {
        let call = get("/v1/users").with(format!("{scheme} sk_live_free_acme"));
        assert_eq!(api.send(&call).await, users().quota(100, 100 - used, reset));
    }
    for tenant in ["a", "my_tenant", "acme-2", &repeat_n("long", 500).collect::<String>()] {
        let call = get("/v1/users").with(format!("Bearer sk_live_free_{tenant}"));
        assert_eq!(api.send(&call).await, users().quota(100, 99, reset), "{tenant}");
    }
}
