//! The configured example: the routes of operators on a paused clock, and its file in a real process.
//! That it answers as the HelloJohn example does is tested in `in_toml.rs`.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "describe",
    feature = "redis",
    feature = "tracing"
))]

use std::{
    fs::{self, File},
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Body, http::Request};
use common::{Answer, PATIENCE, Result, Server};
use serde_json::{Value, json};
use tokio::time::{advance, timeout};
use tower::ServiceExt;
use tower_quota::{Clock, config::Limits, key::PeerAddr};

use crate::examples::configured::{app, hellojohn::Contracts, registry};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/configured/limits.toml");
const FREE: &str = "sk_live_free_acme";
const PRO: &str = "sk_live_pro_acme";

struct Api(Router);

impl Api {
    fn new() -> Self {
        let registry = registry(Contracts::default());
        let limits = Limits::read(FILE, &registry).unwrap();
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
        let limiter = limits.builder(&registry).unwrap().clock(clock).build().unwrap();
        let rate_limit = limits.layer(limiter.clone(), &registry).unwrap().build().unwrap();
        Self(app(limiter, rate_limit))
    }

    async fn send(&self, method: &str, path: &str, credential: &str, body: Value) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .extension(PeerAddr(([192, 0, 2, 1], 50_000).into()))
            .header("authorization", format!("Bearer {credential}"))
            .header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        Answer::of(self.0.clone().oneshot(request.body(body).unwrap()).await.unwrap()).await
    }

    async fn users(&self, key: &str) -> Answer {
        self.send("GET", "/v1/users", key, Value::Null).await
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send(method, path, "op_nora", body).await
    }

    async fn remaining(&self, key: &str) -> String {
        self.users(key).await.headers["x-ratelimit-remaining"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_but_operators_uses_their_routes() {
    let api = Api::new();
    let forbidden = json!({ "error": "forbidden", "message": "Only operators may do this." });
    for credential in [FREE, "op_", "sk_live_op_nora", "OP_nora", ""] {
        for (method, path) in [
            ("GET", "/admin/explain?method=GET&path=/v1/users"),
            ("POST", "/admin/overrides"),
            ("DELETE", "/admin/overrides?key=sk_live_free_acme"),
            ("GET", "/admin/overrides"),
        ] {
            let answer = api.send(method, path, credential, json!({})).await;
            assert_eq!((answer.status, &answer.body), (403, &forbidden), "{credential} {path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_explanation_tells_what_would_be_answered_and_costs_nothing() {
    let api = Api::new();
    let path = format!("/admin/explain?method=GET&path=/v1/users&key={PRO}");
    for _ in 0..2_000 {
        let told = api.admin("GET", &path, Value::Null).await.body;
        assert_eq!(told["category"], "read");
        assert_eq!(told["policies"][0]["name"], "read", "{told}");
        assert_eq!(told["verdict"]["verdict"], "admitted", "{told}");
        assert_eq!(told["response"]["headers"]["x-ratelimit-remaining"], "999", "{told}");
        assert!(!told.to_string().contains(PRO), "{told}");
    }
    assert_eq!(api.remaining(PRO).await, "999");
    for used in 1..=100 {
        assert_eq!(api.users(FREE).await.status, 200, "{used}");
    }
    let told = format!("/admin/explain?method=GET&path=/v1/users&key={FREE}");
    let told = api.admin("GET", &told, Value::Null).await.body;
    assert_eq!(told["response"]["status"], 429);
    let body: Value = serde_json::from_str(told["response"]["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, api.users(FREE).await.body);
    let exempt = api.admin("GET", "/admin/explain?method=GET&path=/health", Value::Null).await;
    assert_eq!(exempt.body["is_exempt"], true);
    let broken = api.admin("GET", "/admin/explain?method=GE%20T&path=/health", Value::Null).await;
    assert_eq!(broken.status, 400);
}

#[tokio::test(start_paused = true)]
async fn overrides_hold_from_the_next_request_on_until_they_end() {
    let api = Api::new();
    assert_eq!(api.remaining(FREE).await, "99");
    let raise = json!({ "key": FREE, "policy": "read", "units": 5_000, "seconds": 3_600, "reason": "migration" });
    let set = api.admin("POST", "/admin/overrides", raise).await;
    assert_eq!(set.status, 200, "{:?}", set.body);
    assert_eq!(api.remaining(FREE).await, "4998");
    advance(Duration::from_secs(1)).await;
    let block = json!({ "key": FREE, "block": true, "seconds": 60, "reason": "scraping" });
    assert_eq!(api.admin("POST", "/admin/overrides", block).await.status, 200);
    assert_ne!(api.users(FREE).await.status, 200);
    assert_eq!(api.users(PRO).await.status, 200, "another caller");
    let told = api.admin("GET", "/admin/overrides", Value::Null).await.body;
    let told = told["overrides"].as_array().unwrap().clone();
    let reasons: Vec<_> = told.iter().map(|one| (&one["reason"], &one["author"])).collect();
    let (migration, scraping, nora) = (json!("migration"), json!("scraping"), json!("nora"));
    assert_eq!(reasons, [(&migration, &nora), (&scraping, &nora)]);
    advance(Duration::from_secs(60)).await;
    assert_eq!(api.remaining(FREE).await, "4999", "the block has ended");
    let of_key = format!("/admin/overrides?key={FREE}");
    let ended = api.admin("DELETE", &of_key, Value::Null).await.body;
    assert_eq!(ended["ended"].as_array().unwrap().len(), 1, "{ended}");
    assert_eq!(api.remaining(FREE).await, "98", "its plan's again");
    let none = api.admin("GET", "/admin/overrides", Value::Null).await.body;
    assert_eq!(none, json!({ "overrides": [] }));
}

#[tokio::test(start_paused = true)]
async fn an_override_that_cannot_be_is_a_400() {
    let api = Api::new();
    for wrong in [
        json!({ "key": "guess", "block": true, "seconds": 60 }),
        json!({ "key": FREE, "seconds": 60 }),
        json!({ "key": FREE, "block": true, "policy": "read", "units": 5, "seconds": 60 }),
        json!({ "key": FREE, "policy": "reed", "units": 5, "seconds": 60 }),
        json!({ "key": FREE, "block": true, "seconds": 0 }),
        json!({ "key": FREE, "policy": "read", "units": u64::MAX, "seconds": 60 }),
    ] {
        let answer = api.admin("POST", "/admin/overrides", wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong} {:?}", answer.body);
    }
    assert_eq!(api.admin("DELETE", "/admin/overrides?key=guess", Value::Null).await.status, 400);
    assert_eq!(api.users(FREE).await.status, 200);
}

/// The limit that a caller of a running server is told.
async fn limit(server: &Server) -> Result<String> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let users = client.get(format!("{}/v1/users", server.address)).bearer_auth(FREE).send().await?;
    Ok(users.headers()["x-ratelimit-limit"].to_str()?.to_owned())
}

async fn until_limit(server: &Server, expected: &str) -> Result<()> {
    let told = async {
        while limit(server).await? != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Result::Ok(())
    };
    timeout(PATIENCE, told).await?
}

#[tokio::test]
async fn a_changed_file_is_applied_and_a_bad_one_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, log) = (folder.path().join("limits.toml"), folder.path().join("log"));
    let good = fs::read_to_string(FILE)?;
    let free = |units: u32| good.replace("free = \"100 per", &format!("free = \"{units} per"));
    fs::write(&file, &good)?;
    let stderr = File::create(&log)?;
    let server = Server::start_with("configured", |command| {
        command.env("LIMITS", &file).stderr(stderr);
    })
    .await?;
    assert_eq!(limit(&server).await?, "100");
    fs::write(&file, free(70))?;
    until_limit(&server, "70").await?;

    let bad = free(60).replace("[policies.bulk]", "[policies.bulk]\nwindow = 5\nhold = \"2s\"");
    fs::write(&file, bad)?;
    server.signal("HUP")?;
    let logged = async {
        loop {
            let text = fs::read_to_string(&log)?;
            if let Some(line) = text.lines().find(|line| line.contains("`window`")) {
                return Result::Ok(line.to_owned());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let line = timeout(PATIENCE, logged).await??;
    assert!(line.contains("`2s` is no time"), "all problems are in one line: {line}");
    assert_eq!(limit(&server).await?, "70");

    fs::write(&file, free(50))?;
    server.signal("HUP")?;
    until_limit(&server, "50").await?;
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}
