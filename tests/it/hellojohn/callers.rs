//! The page's own client code, on the test's clock.

use std::time::Duration;

use serde_json::json;
use tokio::time::advance;

use super::api::*;

/// The page's `fetchWithRetry`; also how often it tried. While it waits, others with the same key
/// make as many calls as `others`.
async fn fetch_with_retry(
    api: &Api,
    call: &Call,
    max_retries: u32,
    others: u64,
) -> Result<(Answer, u32), &'static str> {
    for attempt in 0..=max_retries {
        let response = api.send(call).await;
        if response.status != 429 {
            return Ok((response, attempt + 1));
        }
        if attempt == max_retries {
            break;
        }
        let retry_after = response.number("retry-after", 1);
        advance(Duration::from_secs(retry_after * 2_u64.pow(attempt))).await;
        api.spend(call, others).await;
    }
    Err("Rate limit exceeded after max retries")
}

/// The page's `apiRequest`: the response's body, and how long it waited.
async fn api_request(api: &Api, call: &Call) -> (Answer, Duration) {
    let response = api.send(call).await;
    let remaining = response.number("x-ratelimit-remaining", 999);
    let reset = response.number("x-ratelimit-reset", 0);
    let mut waited = Duration::ZERO;
    if remaining < 50 {
        let now = Duration::from_millis(api.now().as_millis() as u64);
        waited = Duration::from_secs(reset).saturating_sub(now);
        advance(waited).await;
    }
    (response, waited)
}

#[tokio::test(start_paused = true)]
async fn fetch_with_retry_passes_on_its_second_try() {
    let rows = [
        (get("/v1/users").with(FREE), users(), 100, MINUTE),
        (post("/v1/users").with(STARTER), created(), 150, MINUTE),
        (post("/v1/admin/users/search").with(PRO), users(), 50, MINUTE),
        (post("/v1/auth/sign-in"), ok(), 10, MINUTE),
        (post("/v1/auth/magic-link"), ok(), 5, TEN_MINUTES),
        (post("/v1/auth/sign-up").with(FREE), ok(), 5, MINUTE),
        (post("/v1/auth/token/refresh").with(PRO), ok(), 20, MINUTE),
        (post("/v1/email/config/test").with(FREE), ok(), 5, HOUR),
    ];
    // Also when a part of a second is left of the wait.
    for early in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(700)] {
        for (call, served, limit, window) in &rows {
            let api = Api::new();
            api.spend(call, *limit).await;
            advance(early).await;
            let refused_at = api.now();
            let (response, tries) = fetch_with_retry(&api, call, 3, 0).await.unwrap();
            let reset =
                (api.now() + Duration::from_secs(*window)).as_nanos().div_ceil(1_000_000_000);
            let expected = served.clone().quota(*limit, limit - 1, reset as u64);
            assert_eq!((response, tries), (expected, 2), "{call:?}");
            let waited = (api.now() - refused_at).as_secs();
            assert_eq!(waited, *window, "no part of a second is cut off: {call:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fetch_with_retry_waits_twice_as_long_each_time_and_then_gives_up() {
    let api = Api::new();
    let call = post("/v1/users").with(FREE);
    api.spend(&call, 30).await;
    let given_up = Err("Rate limit exceeded after max retries");
    assert_eq!(fetch_with_retry(&api, &call, 3, 30).await, given_up);
    assert_eq!(api.now().as_secs() - START, 60 + 120 + 240);
    // One left by the others is enough.
    let passed = created().quota(30, 0, api.after(2 * MINUTE));
    assert_eq!(fetch_with_retry(&api, &call, 3, 29).await, Ok((passed, 2)));
}

#[tokio::test(start_paused = true)]
async fn api_request_is_never_refused() {
    // The clock starts within a second, and the reset is in whole seconds.
    for early in [Duration::ZERO, Duration::from_millis(250), Duration::from_nanos(1)] {
        let api = Api::new();
        advance(early).await;
        let call = get("/v1/users").with(FREE);
        for _ in 0..1_000 {
            let (response, _) = api_request(&api, &call).await;
            assert_eq!((response.status, response.body), (200, users().body));
            // Each call takes a while.
            advance(Duration::from_millis(137)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn api_request_waits_when_fewer_than_fifty_are_left() {
    let api = Api::new();
    let call = get("/v1/users").with(FREE);
    for left in (50..100).rev() {
        let (response, waited) = api_request(&api, &call).await;
        assert_eq!(response, users().quota(100, left, START + MINUTE));
        assert_eq!(waited, Duration::ZERO);
    }
    let (response, waited) = api_request(&api, &call).await;
    assert_eq!(response, users().quota(100, 49, START + MINUTE));
    assert_eq!(waited, Duration::from_secs(MINUTE));
    let (response, waited) = api_request(&api, &call).await;
    assert_eq!(response, users().quota(100, 99, START + 2 * MINUTE), "all is there again");
    assert_eq!(waited, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_search_does_the_work_of_more_calls_than_a_minute_holds() {
    let api = Api::new();
    let ids: Vec<_> = (0..150).map(|id| format!("usr_{id}")).collect();
    let mut served = 0;
    for id in &ids {
        let answer = api.send(&get(&format!("/v1/users/{id}")).with(FREE)).await;
        served += u64::from(answer.status == 200);
    }
    assert_eq!(served, 100, "one by one, a third is refused");
    let search = post("/v1/admin/users/search").with(FREE);
    let filters = json!({ "filters": { "ids": ids } });
    let found: Vec<_> = ids.iter().map(|id| json!({ "id": id, "name": "A User" })).collect();
    let found = answer(200, json!({ "users": found, "next": null }));
    // The page's `fetch` does not say that it sends JSON, so the browser says that it is a text.
    let as_text = search.clone().body("text/plain;charset=UTF-8", filters.to_string());
    for (left, search) in [(49, search.json(&filters)), (48, as_text)] {
        let expected = found.clone().quota(50, left, api.after(MINUTE));
        assert_eq!(api.send(&search).await, expected);
    }
}
