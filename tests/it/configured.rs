//! What operators do on the server of the configured example. Its limits are tested in `in_toml.rs`.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "describe",
    feature = "redis",
    feature = "tracing"
))]

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request};
use common::Answer;
use serde_json::{Value, json};
use tokio::time::advance;
use tower::ServiceExt;
use tower_quota::{Clock, config::Limits};

use super::examples::configured::{app, hellojohn::Contracts, registry};

const START: u64 = 1_705_399_200;
const KEY: &str = "sk_live_free_acme";
const OPERATOR: &str = "op_ana";

fn server() -> Router {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/configured/limits.toml");
    let registry = registry(Contracts::default());
    let limits = Limits::read(file, &registry).unwrap();
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(START));
    let limiter = limits.builder(&registry).unwrap().clock(clock).build().unwrap();
    app(limiter.clone(), limits.layer(limiter, &registry).unwrap().build().unwrap())
}

async fn send(server: &Router, credential: &str, call: &str, body: Option<Value>) -> Answer {
    let (method, path) = call.split_once(' ').unwrap();
    let peer: SocketAddr = "192.0.2.1:50000".parse().unwrap();
    let mut request = Request::builder().method(method).uri(path).extension(ConnectInfo(peer));
    if !credential.is_empty() {
        request = request.header("authorization", format!("Bearer {credential}"));
    }
    let request = match body {
        Some(body) => {
            request.header("content-type", "application/json").body(Body::from(body.to_string()))
        }
        None => request.body(Body::empty()),
    };
    Answer::of(server.clone().oneshot(request.unwrap()).await.unwrap()).await
}

async fn read(server: &Router) -> Answer {
    send(server, KEY, "GET /v1/users", None).await
}

async fn set(server: &Router, body: Value) -> Answer {
    send(server, OPERATOR, "POST /admin/overrides", Some(body)).await
}

async fn explain(server: &Router, query: &str) -> Value {
    let answer = send(server, OPERATOR, &format!("GET /admin/explain?{query}"), None).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test(start_paused = true)]
async fn only_operators_do_what_operators_do() {
    let server = server();
    for call in [
        "GET /admin/explain?path=/v1/users",
        "GET /admin/overrides",
        "POST /admin/overrides",
        "DELETE /admin/overrides?key=sk_live_free_acme",
    ] {
        for credential in ["", KEY, "op_", "nobody"] {
            let answer = send(&server, credential, call, None).await;
            assert_eq!(
                (answer.status, &answer.body["error"]),
                (403, &json!("forbidden")),
                "{call}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_blocked_for_a_time_or_until_the_operator_ends_it() {
    let server = server();
    let block = json!({ "key": KEY, "block": true, "seconds": 60, "reason": "scraping" });
    for ends_early in [true, false] {
        assert_eq!(set(&server, block.clone()).await.status, 200);
        let refused = read(&server).await;
        assert_eq!((refused.status, &refused.headers["retry-after"]), (429, &"60".to_owned()));
        assert_eq!(send(&server, "sk_live_free_other", "GET /v1/users", None).await.status, 200);

        let listed = send(&server, OPERATOR, "GET /admin/overrides", None).await.body;
        let mut listed = listed["overrides"].as_array().unwrap().clone();
        assert_eq!(listed.len(), 1);
        assert!(listed[0]["caller"].take().is_string());
        let (since, until) = (listed[0]["since"].as_u64().unwrap(), listed[0]["until"].as_u64());
        assert_eq!(until, Some(since + 60));
        assert_eq!(
            listed[0],
            json!({
                "caller": null, "block": true, "policy": null, "units": null,
                "reason": "scraping", "author": "ana", "since": since, "until": until,
            })
        );
        if ends_early {
            let call = format!("DELETE /admin/overrides?key={KEY}");
            let ended = send(&server, OPERATOR, &call, None).await;
            assert_eq!((ended.status, ended.body), (200, json!({ "ended": 1 })));
        } else {
            advance(Duration::from_secs(60)).await;
        }
        assert_eq!(read(&server).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_another_quota_for_a_time() {
    let server = server();
    assert_eq!(read(&server).await.headers["x-ratelimit-remaining"], "99");
    let raise = json!({ "key": KEY, "policy": "read", "units": 5_000, "seconds": 30 });
    assert_eq!(set(&server, raise).await.status, 200);
    let raised = read(&server).await;
    assert_eq!(raised.headers["x-ratelimit-limit"], "5000");
    assert_eq!(raised.headers["x-ratelimit-remaining"], "4998", "what was used stays used");
    advance(Duration::from_secs(30)).await;
    assert_eq!(read(&server).await.headers["x-ratelimit-remaining"], "97");
}

#[tokio::test(start_paused = true)]
async fn an_override_that_cannot_be_is_refused_and_says_why() {
    let server = server();
    for (body, message) in [
        (
            json!({ "key": KEY, "seconds": 60 }),
            "Send `block`: true, or a `policy` and its `units`.",
        ),
        (
            json!({ "key": KEY, "policy": "raed", "units": 5, "seconds": 60 }),
            "No override was set: no policy is named `raed`.",
        ),
        (
            json!({ "key": KEY, "block": true, "seconds": 0 }),
            "No override was set: an override lasts from 1 microsecond to 366 days.",
        ),
        (json!({ "key": "mine", "block": true, "seconds": 60 }), "The `key` is no API key."),
        (
            json!({ "key": "sk_live_free_\n", "block": true, "seconds": 60 }),
            "The `key` is no API key.",
        ),
        (
            json!({ "key": KEY, "policy": "read", "units": u64::MAX, "seconds": 60 }),
            "No override was set: policy `read` cannot have this quota: 18446744073709551614 units \
             are more than a header can carry; write at most 999999999999999, or \
             `Quota::unlimited()`.",
        ),
    ] {
        let answer = set(&server, body).await;
        assert_eq!((answer.status, &answer.body["message"]), (400, &json!(message)));
    }
    let unknown = set(&server, json!({ "key": KEY, "blok": true, "seconds": 60 })).await;
    assert_eq!(unknown.status, 422);
    let end = send(&server, OPERATOR, "DELETE /admin/overrides", None).await;
    assert_eq!((end.status, &end.body["error"]), (400, &json!("bad_request")));
    let listed = send(&server, OPERATOR, "GET /admin/overrides", None).await.body;
    assert_eq!(listed, json!({ "overrides": [] }));
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_what_the_next_request_gets_and_charges_nothing() {
    let server = server();
    let query = format!("path=/v1/users&key={KEY}");
    for used in 0..=100 {
        let explained = explain(&server, &query).await;
        assert_eq!(explained, explain(&server, &query).await, "it charges nothing");
        assert!(!explained.to_string().contains("acme"), "no key is shown");
        let answer = read(&server).await;
        let is_refused = answer.status == 429;
        assert_eq!(is_refused, used == 100);
        assert_eq!(explained["category"], "read");
        assert_eq!(explained["verdict"], if is_refused { "refused" } else { "admitted" });
        let policies = explained["policies"].as_array().unwrap();
        assert_eq!((&policies[0]["name"], policies.len()), (&json!("read"), 1));
        assert_eq!(policies[0]["verdict"], if is_refused { "refused" } else { "admitted" });
        let status = if is_refused { json!(429) } else { json!(null) };
        assert_eq!(explained["response"]["status"], status);
        for (name, value) in &answer.headers {
            if name.starts_with("x-ratelimit") || name == "retry-after" {
                assert_eq!(explained["response"]["headers"][name], json!(value));
            }
        }
    }
    // By address, and by a key that is none.
    let sign_in = explain(&server, "method=POST&path=/v1/auth/sign-in&ip=198.51.100.7").await;
    assert_eq!(
        (&sign_in["category"], &sign_in["verdict"]),
        (&json!("sign-in"), &json!("admitted"))
    );
    let exempt = explain(&server, "path=/health").await;
    assert_eq!((&exempt["exempt"], &exempt["verdict"]), (&json!(true), &json!("admitted")));
    set(&server, json!({ "key": KEY, "block": true, "seconds": 60 })).await;
    assert_eq!(explain(&server, &query).await["reason"], "blocked");
    // Whatever its method, it is the question that is answered.
    for method in ["HEAD", "CONNECT", "OPTIONS"] {
        let explained = explain(&server, &format!("path=/v1/users&method={method}")).await;
        assert!(explained["policies"].is_array(), "{method}: {explained}");
    }
    for query in ["path=%00", "", "path=/&ip=999", "path=/&path=/", "path=/&what=1"] {
        let call = format!("GET /admin/explain?{query}");
        let answer = send(&server, OPERATOR, &call, None).await;
        assert_eq!((answer.status, &answer.body["error"]), (400, &json!("bad_request")), "{query}");
    }
}
