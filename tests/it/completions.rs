//! The completions example, line by line of its sheet.
//!
//! These tests run the example's own router on a clock that they move.
#![cfg(all(feature = "axum", feature = "testing", feature = "tracing"))]

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, BodyDataStream},
    http::{Request, header::CONTENT_TYPE},
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep};
use tower::ServiceExt;
use tower_quota::{Clock, key::PeerAddr, testing::TestClient};

use common::Answer;

use super::examples::completions;

/// 2024-01-16 13:10 UTC.
const START: u64 = 1_705_410_600;
const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);
const ANA: &str = "sk_acme_ana";
const BEN: &str = "sk_acme_ben";
const OTHER: &str = "sk_other_ana";

/// The example's API on a clock of its own.
struct Api {
    app: Router,
    began: Instant,
}

impl Api {
    fn new() -> Self {
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(START));
        let limiter = completions::limits(clock).build().unwrap();
        Self { app: completions::app(limiter).unwrap(), began: Instant::now() }
    }

    async fn send(&self, request: Request<Body>) -> axum::response::Response {
        self.app.clone().oneshot(request).await.unwrap()
    }

    async fn complete(&self, key: &str, body: Value) -> Answer {
        Answer::of(self.send(request(key, &body)).await).await
    }

    /// Asks for so many tokens, all of which are made at once.
    async fn make(&self, key: &str, tokens: u64) -> Answer {
        self.complete(key, json!({ "max_tokens": tokens, "tokens": tokens })).await
    }

    /// A stream of a token each second, and its status.
    async fn stream(&self, key: &str, max_tokens: u64, tokens: u64) -> (u16, BodyDataStream) {
        let body = json!({
            "max_tokens": max_tokens, "tokens": tokens, "stream": true, "pace_ms": 1_000
        });
        let response = self.send(request(key, &body)).await;
        (response.status().as_u16(), response.into_body().into_data_stream())
    }

    async fn usage(&self, key: &str) -> Value {
        let request = Request::get("/v1/usage").header("authorization", format!("Bearer {key}"));
        let answer = Answer::of(self.send(request.body(Body::empty()).unwrap()).await).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.headers.keys().all(|name| !name.contains("ratelimit")), "it is free");
        answer.body
    }

    /// What is left of the organization's tokens and credits.
    async fn left(&self, key: &str) -> (u64, u64) {
        let usage = self.usage(key).await;
        let left = |unit: &str| usage[unit]["remaining"].as_u64().unwrap();
        (left("tokens"), left("credits"))
    }

    async fn in_flight(&self, key: &str) -> u64 {
        self.usage(key).await["streams"]["in_flight"].as_u64().unwrap()
    }
}

fn request<B: From<String>>(key: &str, body: &Value) -> Request<B> {
    Request::post("/v1/completions")
        .header("authorization", format!("Bearer {key}"))
        .header(CONTENT_TYPE, "application/json")
        .body(body.to_string().into())
        .unwrap()
}

/// Asserts that it is a problem by this policy, and returns it.
fn refusal(answer: Answer, policy: &str) -> Value {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.body["violated-policies"][0], policy, "{answer:?}");
    answer.body
}

async fn text(body: &mut BodyDataStream) -> String {
    let frame = body.next().await.expect("it goes on").unwrap();
    String::from_utf8(frame.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_an_event_a_token_and_then_done() {
    let api = Api::new();
    let body = json!({ "max_tokens": 200, "tokens": 2, "stream": true, "pace_ms": 20 });
    let answer = api.complete(ANA, body).await;
    assert_eq!((answer.status, &*answer.headers["content-type"]), (200, "text/event-stream"));
    let events = "data: {\"index\":0}\n\ndata: {\"index\":1}\n\ndata: [DONE]\n\n";
    assert_eq!(answer.body, events);

    let body = json!({ "max_tokens": 200, "tokens": 120, "pace_ms": 20 });
    let answer = api.complete(ANA, body).await;
    assert_eq!(answer.body, json!({ "usage": { "total_tokens": 120 } }));
    assert_eq!(api.left(ANA).await, (10_000 - 2 - 120, 2_000));
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_max_tokens() {
    let api = Api::new();
    let (_, mut body) = api.stream(ANA, 2, 100).await;
    let mut events = Vec::new();
    while let Some(frame) = body.next().await {
        events.push(String::from_utf8(frame.unwrap().to_vec()).unwrap());
    }
    let told = "data: {\"index\":0}\n\ndata: {\"index\":1}\n\ndata: [DONE]\n\n";
    assert_eq!(events.concat(), told);
    assert_eq!(api.left(ANA).await, (9_998, 2_000));
}

#[test]
fn a_user_has_sixty_requests_a_minute() {
    let limiter = completions::limits(Clock::manual()).build().unwrap();
    let mut client = TestClient::of(completions::app(limiter).unwrap());
    let one = |key| request::<String>(key, &json!({ "max_tokens": 1, "tokens": 1 }));
    client.send(61, one(ANA)).expect_admitted(60).expect_retry_after(60 * SECOND);
    let refused = client.decisions().pop().unwrap();
    assert_eq!(refused.decision().unwrap().tightest().unwrap().policy(), "requests", "{refused}");
    client.send(1, one(BEN)).expect_admitted(1); // another user
    client.send(1, one(OTHER)).expect_admitted(1); // a user of the same name elsewhere
    client.advance(60 * SECOND).send(1, one(ANA)).expect_admitted(1);
}

#[tokio::test(start_paused = true)]
async fn a_user_has_four_under_way_and_a_place_is_free_when_one_ends() {
    let api = Api::new();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (status, stream) = api.stream(ANA, 100, 3).await;
        assert_eq!(status, 200);
        streams.push(stream);
    }
    assert_eq!(api.in_flight(ANA).await, 4);
    let refused = api.make(ANA, 1).await;
    assert!(!refused.headers.contains_key("retry-after"), "nobody knows when one ends");
    refusal(refused, "streams");
    assert_eq!(api.make(BEN, 1).await.status, 200);

    // A caller that hangs up pays for what was made.
    let mut first = streams.pop().unwrap();
    assert_eq!(text(&mut first).await, "data: {\"index\":0}\n\n");
    drop(first);
    assert_eq!(api.in_flight(ANA).await, 3);
    assert_eq!(api.make(ANA, 1).await.status, 200);
    assert_eq!(api.left(ANA).await.0, 10_000 - 3 - 300, "of three 100 are reserved");

    // The end of a body is enough, before it is dropped.
    let mut second = streams.pop().unwrap();
    while second.next().await.is_some() {}
    assert_eq!(api.in_flight(ANA).await, 2);
    assert_eq!(api.left(ANA).await.0, 10_000 - 3 - 3 - 200);
    drop(streams);
    assert_eq!((api.in_flight(ANA).await, api.left(ANA).await.0), (0, 10_000 - 6));
}

#[tokio::test(start_paused = true)]
async fn an_organization_draws_on_its_credits_when_its_tokens_are_used_up() {
    let api = Api::new();
    assert_eq!(api.make(ANA, 9_900).await.status, 200);
    assert_eq!(api.make(BEN, 150).await.status, 200, "a request draws on one of them as a whole");
    assert_eq!(api.left(ANA).await, (100, 1_850));
    assert_eq!(api.make(ANA, 100).await.status, 200);
    assert_eq!(api.left(ANA).await, (0, 1_850));
    // What was reserved of the credits and not made comes back as well.
    let body = json!({ "max_tokens": 1_850, "tokens": 50 });
    assert_eq!(api.complete(ANA, body).await.status, 200);
    assert_eq!(api.left(ANA).await, (0, 1_800));
    // More than is left: the tokens come back at the end of the day, 10 hours and 50 minutes later.
    let refused = api.make(ANA, 1_801).await;
    assert_eq!(refused.headers["retry-after"], (10 * 3_600 + 50 * 60).to_string());
    refusal(refused, "tokens");
    assert_eq!(api.left(OTHER).await, (10_000, 2_000));

    advance(DAY).await;
    assert_eq!(api.left(ANA).await, (10_000, 1_800), "credits do not come back");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_made_comes_back_to_the_day_of_the_beginning() {
    let api = Api::new();
    advance(Duration::from_secs(10 * 3_600 + 49 * 60 + 58)).await;
    // Two seconds before midnight.
    let (_, mut stream) = api.stream(ANA, 500, 4).await;
    assert_eq!(api.make(ANA, 9_500).await.status, 200);
    assert_eq!(api.left(ANA).await.0, 0);
    while stream.next().await.is_some() {}
    assert_eq!(api.left(ANA).await.0, 10_000, "the new day has all of its own");
}

#[tokio::test(start_paused = true)]
async fn more_than_could_ever_be_had_is_refused_as_such() {
    let api = Api::new();
    let refused = api.make(ANA, 10_001).await;
    assert!(!refused.headers.contains_key("retry-after"), "{refused:?}");
    let detail = refusal(refused, "tokens")["detail"].to_string();
    assert!(detail.contains("10000") || detail.contains("10,000"), "{detail}");
    assert_eq!(api.left(ANA).await, (10_000, 2_000));
}

#[tokio::test(start_paused = true)]
async fn the_headers_have_all_policies_and_their_units() {
    let api = Api::new();
    let answer = api.make(ANA, 1_000).await;
    let policies = "\"requests\";q=60;w=60, \"streams\";q=4;qu=\"concurrent-requests\", \
                    \"tokens\";q=10000;qu=\"tokens\";w=86400, \"credits\";q=2000;qu=\"tokens\";w=3153600000";
    assert_eq!(answer.headers["ratelimit-policy"], policies);
    let limits = "\"requests\";r=59;t=60, \"streams\";r=3, \"tokens\";r=9000;t=39000, \
                  \"credits\";r=2000;t=1448189400";
    assert_eq!(answer.headers["ratelimit"], limits);
}

#[tokio::test(start_paused = true)]
async fn the_usage_is_free_and_exact() {
    let api = Api::new();
    api.make(ANA, 40).await;
    for _ in 0..100 {
        assert_eq!(
            api.usage(ANA).await,
            json!({
                "requests": { "limit": 60, "remaining": 59 },
                "streams": { "limit": 4, "in_flight": 0 },
                "tokens": { "limit": 10_000, "remaining": 9_960 },
                "credits": { "remaining": 2_000 },
            })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_on_is_blocked_for_longer_and_longer() {
    let api = Api::new();
    let spend = async || {
        while api.make(ANA, 1).await.status == 200 {}
    };
    for block in [5, 20, 60, 60] {
        // The first refusal is that of the request which finds the quota spent.
        spend().await;
        for _ in 0..3 {
            let problem = refusal(api.make(ANA, 1).await, "requests");
            assert_ne!(problem["reason"], "penalty");
        }
        let blocked = api.make(ANA, 1).await;
        let problem = blocked.body.clone();
        assert_eq!((blocked.status, &problem["reason"]), (429, &json!("penalty")), "{problem}");
        let until = START + api.began.elapsed().as_secs() + block;
        assert_eq!(problem["until"], until, "{problem}");
        // Neither longer by what comes meanwhile, nor over for others.
        assert_eq!(api.make(ANA, 1).await.body["reason"], "penalty");
        assert_eq!(api.make(BEN, 1).await.status, 200);
        advance(Duration::from_secs(block)).await;
        assert_ne!(api.make(ANA, 1).await.body["reason"], "penalty");
        // Then the quota is there again.
        advance(60 * SECOND).await;
    }
    advance(600 * SECOND).await;
    spend().await;
    for _ in 0..3 {
        api.make(ANA, 1).await;
    }
    assert_eq!(api.make(ANA, 1).await.body["reason"], "penalty");
    advance(5 * SECOND).await;
    assert_ne!(api.make(ANA, 1).await.body["reason"], "penalty", "the first block again");
}

#[tokio::test(start_paused = true)]
async fn who_has_no_key_is_counted_by_address() {
    let api = Api::new();
    let guess = |key: &str, ip: [u8; 4]| {
        let mut request = request(key, &json!({ "max_tokens": 1, "tokens": 1 }));
        request.extensions_mut().insert(PeerAddr(SocketAddr::from((ip, 50_000))));
        request
    };
    for nth in 0..60 {
        let key = ["", "sk_", "sk_acme", "sk_acme_", "pk_acme_ana"][nth % 5];
        let answer = Answer::of(api.send(guess(key, [192, 0, 2, 1])).await).await;
        assert_eq!((answer.status, &answer.body["status"]), (401, &json!(401)));
    }
    let refused = Answer::of(api.send(guess("sk_acme", [192, 0, 2, 1])).await).await;
    refusal(refused, "guesses");
    let other = Answer::of(api.send(guess("sk_acme", [192, 0, 2, 2])).await).await;
    assert_eq!(other.status, 401);
    let keyed = Answer::of(api.send(guess(ANA, [192, 0, 2, 1])).await).await;
    assert_eq!(keyed.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_mistake_costs_no_tokens() {
    let api = Api::new();
    for body in [
        json!({ "max_tokens": 0, "tokens": 1 }),
        json!({ "max_tokens": -1, "tokens": 1 }),
        json!({ "max_tokens": "many", "tokens": 1 }),
        json!({ "tokens": 1 }),
        json!({ "max_tokens": 500 }),
        json!({ "max_tokens": 9_000, "tokens": 9_000, "pace_ms": 1_000 }),
        json!([]),
    ] {
        let answer = api.complete(ANA, body).await;
        assert!((400..500).contains(&answer.status) && answer.status != 429, "{answer:?}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!((api.left(ANA).await, api.in_flight(ANA).await), ((10_000, 2_000), 0));
    }
    let missing = Request::get("/nothing").body(Body::empty()).unwrap();
    let missing = Answer::of(api.send(missing).await).await;
    assert_eq!(
        (missing.status, &*missing.headers["content-type"]),
        (404, "application/problem+json")
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_hangs_up_before_the_head_pays_for_what_was_made() {
    let api = Api::new();
    let body = json!({ "max_tokens": 100, "tokens": 100, "pace_ms": 1_000 });
    let asked = api.send(request(ANA, &body));
    tokio::select! {
        _ = asked => unreachable!("it takes 100 seconds"),
        () = sleep(Duration::from_millis(3_500)) => {}
    }
    assert_eq!((api.left(ANA).await.0, api.in_flight(ANA).await), (9_997, 0));
}
