//! "Delivery retries": a worker, not a request, checks the same limiter.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{task::yield_now, time::advance};
use tower_quota::Rejection;

use super::api::*;

const ACME: (&str, &str) = ("sk_live_pro_acme", "acme");

/// Lets the worker do what it can at this moment.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

async fn pass(time: Duration) {
    advance(time).await;
    settle().await;
}

/// What was delivered to a webhook. The moments are the wall clock's, so not compared.
async fn delivered(api: &Api, webhook: &str, credential: &str) -> Vec<Value> {
    let call = get(&format!("/v1/webhooks/{webhook}/deliveries")).with(credential);
    let Value::Array(mut deliveries) = api.send(&call).await.body["deliveries"].take() else {
        panic!("deliveries are a list");
    };
    for delivery in &mut deliveries {
        let at = delivery.as_object_mut().unwrap().remove("delivered_at").unwrap();
        assert!(at.as_u64().is_some_and(|at| at > START), "{at}");
    }
    deliveries
}

fn deliveries(count: usize, webhook: &str, tenant: &str) -> Vec<Value> {
    vec![json!({ "webhook": webhook, "tenant": tenant }); count]
}

/// Asks for `times` deliveries, each of which the API accepts.
async fn enqueue(api: &Api, webhook: &str, credential: &str, times: usize) {
    let test = post(&format!("/v1/webhooks/{webhook}/test")).with(credential);
    for _ in 0..times {
        let answer = api.send(&test).await;
        assert_eq!((answer.status, answer.body), (202, queued().body));
    }
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_deliveries_an_hour_and_the_next_when_the_hour_has_slid() {
    let api = Api::new();
    // As fast as webhook tests may: ten a minute.
    for minute in 1..=10 {
        enqueue(&api, "wh_1", PRO, 10).await;
        assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(minute * 10, "wh_1", "acme"));
        pass(Duration::from_secs(MINUTE)).await;
    }
    enqueue(&api, "wh_1", PRO, 1).await;
    assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(100, "wh_1", "acme"));

    // The limiter says how long: the first ten were fifty minutes before the hour's end.
    let decision = api.limiter.check("delivery", ACME).await.unwrap();
    let rejection = Rejection::of(&decision).unwrap();
    assert_eq!((rejection.outcome().unwrap().limit(), decision.remaining()), (100, 0));
    assert_eq!(rejection.retry_after(), Some(Duration::from_secs(HOUR - TEN_MINUTES)));

    // Timers count in milliseconds.
    pass(Duration::from_secs(HOUR - TEN_MINUTES) - Duration::from_millis(1)).await;
    assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(100, "wh_1", "acme"));
    pass(Duration::from_millis(2)).await;
    assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(101, "wh_1", "acme"));
}

#[tokio::test(start_paused = true)]
async fn the_worker_draws_on_the_quota_that_the_limiter_is_asked_about() {
    let api = Api::new();
    enqueue(&api, "wh_1", PRO, 1).await;
    let decision = api.limiter.check("delivery", ACME).cost(98).await.unwrap();
    assert_eq!(decision.outcomes().next().unwrap().remaining(), 1, "one by the worker, 98 here");
    enqueue(&api, "wh_1", PRO, 2).await;
    assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(2, "wh_1", "acme"));
}

#[tokio::test(start_paused = true)]
async fn all_webhooks_of_a_key_share_its_deliveries_and_other_keys_do_not_wait() {
    let api = Api::new();
    let spent = api.limiter.check("delivery", ACME).cost(99).await.unwrap();
    assert!(spent.is_allowed());
    enqueue(&api, "wh_1", PRO, 1).await;
    enqueue(&api, "wh_2", PRO, 1).await;
    assert_eq!(delivered(&api, "wh_1", PRO).await, deliveries(1, "wh_1", "acme"));
    assert_eq!(delivered(&api, "wh_2", PRO).await, deliveries(0, "wh_2", "acme"));

    let other = "Bearer sk_live_pro_other";
    enqueue(&api, "wh_2", other, 1).await;
    assert_eq!(delivered(&api, "wh_2", other).await, deliveries(1, "wh_2", "other"));
    let same_tenant = "Bearer sk_live_free_acme";
    enqueue(&api, "wh_3", same_tenant, 1).await;
    assert_eq!(delivered(&api, "wh_3", PRO).await, deliveries(1, "wh_3", "acme"));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_sees_its_own_deliveries_only() {
    let api = Api::new();
    enqueue(&api, "wh_1", PRO, 1).await;
    let other = "Bearer sk_live_pro_other";
    assert_eq!(delivered(&api, "wh_1", other).await, deliveries(0, "wh_1", "other"));
}

#[tokio::test(start_paused = true)]
async fn the_deliveries_that_wait_are_bounded() {
    let api = Api::new();
    for tenant in 0..1_024 {
        let (token, tenant) = (format!("sk_live_pro_t{tenant}"), format!("t{tenant}"));
        let spent = api.limiter.check("delivery", (&*token, &*tenant)).cost(100).await.unwrap();
        assert!(spent.is_allowed());
        let test = post("/v1/webhooks/wh_1/test").with(format!("Bearer {token}"));
        assert_eq!(api.send(&test).await, queued().quota(10, 9, api.after(MINUTE)));
    }
    settle().await;
    let test = post("/v1/webhooks/wh_1/test").with(PRO);
    let busy = answer(503, json!({ "error": "busy", "message": "Too many deliveries wait." }));
    assert_eq!(api.send(&test).await, busy.quota(10, 9, api.after(MINUTE)));

    // When their hour has passed, there is room again.
    pass(Duration::from_secs(HOUR) + Duration::from_millis(1)).await;
    for _ in 0..20 {
        settle().await;
    }
    assert_eq!(api.send(&test).await.status, 202);
}
