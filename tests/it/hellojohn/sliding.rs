//! "Requests are tracked using a sliding window."

use std::time::Duration;

use tokio::time::advance;

use super::api::*;

async fn pass(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn the_quota_is_not_doubled_around_the_edge_of_a_minute() {
    let api = Api::new();
    let call = get("/v1/users").with(FREE);
    pass(59).await;
    api.spend(&call, 100).await;
    let reset = api.after(MINUTE);
    for (seconds, retry_after) in [(1, 59), (1, 58), (57, 1)] {
        pass(seconds).await;
        assert_eq!(api.send(&call).await, refused(100, reset, retry_after));
    }
    pass(1).await;
    assert_eq!(api.send(&call).await, users().quota(100, 99, reset + MINUTE));
}

#[tokio::test(start_paused = true)]
async fn what_was_used_comes_back_when_the_window_has_passed_over_it() {
    let api = Api::new();
    let call = get("/v1/users").with(FREE);
    api.spend(&call, 60).await;
    let first = api.after(MINUTE);
    pass(20).await;
    assert_eq!(api.send(&call).await, users().quota(100, 39, first));
    api.spend(&call, 39).await;
    let second = api.after(MINUTE);
    assert_eq!(api.send(&call).await, refused(100, first, 40));
    pass(40).await;
    // The sixty are back, the forty are not.
    assert_eq!(api.send(&call).await, users().quota(100, 59, second));
    api.spend(&call, 59).await;
    assert_eq!(api.send(&call).await, refused(100, second, 20));
}

#[tokio::test(start_paused = true)]
async fn no_minute_holds_more_than_the_quota_however_greedy_the_caller() {
    let api = Api::new();
    let call = post("/v1/users").with(FREE);
    let mut passed = Vec::new();
    // Five calls a second for five minutes.
    for _ in 0..5 * 300 {
        if api.send(&call).await.status == 201 {
            passed.push(api.now());
        }
        advance(Duration::from_millis(200)).await;
    }
    for (nth, first) in passed.iter().enumerate() {
        if let Some(one_too_many) = passed.get(nth + 30) {
            let between = *one_too_many - *first;
            assert!(between >= Duration::from_secs(MINUTE), "31 calls within {between:?}");
        }
    }
    assert_eq!(passed.len(), 5 * 30, "and each minute's quota can be used");
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_does_not_put_off_the_next() {
    let api = Api::new();
    let call = post("/v1/auth/magic-link");
    api.spend(&call, 5).await;
    let reset = api.after(TEN_MINUTES);
    for elapsed in 0..TEN_MINUTES {
        assert_eq!(api.send(&call).await, refused(5, reset, TEN_MINUTES - elapsed));
        pass(1).await;
    }
    assert_eq!(api.send(&call).await, ok().quota(5, 4, reset + TEN_MINUTES));
}
