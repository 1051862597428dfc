//! The operator's page: what it shows, what each change does from the next request on, and who may
//! see it.
#![cfg(all(feature = "axum", feature = "usage"))]

use std::time::{Duration, UNIX_EPOCH};

use axum::{Router, body::Body, http::Request, routing::get};
use serde_json::{Value, json};
use tokio::time::advance;
use tower::ServiceExt;
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer,
    key::{Caller, bearer, header},
    usage::{MemoryLog, OperatorPage, RequestLog, UsagePage},
};

use common::Answer;

const A: &str = "sk_live_000000000000000000001111";
const B: &str = "sk_live_000000000000000000002222";
const HOUR: Duration = Duration::from_secs(3_600);

fn app() -> Router {
    app_that_remembers(2)
}

fn app_that_remembers(keys: usize) -> Router {
    let reads = Policy::sliding_window("read", Quota::per_hour(4)).key(bearer()).or_refuse();
    let writes = Policy::token_bucket("write", Quota::per_hour(60).burst(2));
    let tried = Policy::sliding_window("tried", Quota::per_hour(1)).key(bearer()).or_skip();
    let caller = Caller::new(bearer());
    let limiter = Limiter::builder()
        .caller(caller.clone())
        .clock(Clock::tokio(UNIX_EPOCH + 40 * 365 * 24 * HOUR))
        .exempt(Matcher::get("/free"))
        .policy(tried.dry_run())
        .category(Category::new("reads").on(Matcher::get("/read")).policy(reads))
        .category(
            Category::new("writes")
                .on(Matcher::post("/write"))
                .policy(writes.key(bearer()).or_refuse()),
        )
        .build()
        .unwrap();
    let log = RequestLog::builder(caller).sink(MemoryLog::new()).remember_keys(keys);
    let log = log.build().unwrap();
    let layer = RateLimitLayer::builder(limiter.clone()).observe(log.clone()).build().unwrap();
    let operator = OperatorPage::builder(limiter.clone(), log.clone())
        .layer(layer.clone())
        .complete(|head| {
            if let Some(key) = head.headers.get("x-session").cloned() {
                head.headers.insert("authorization", key);
            }
        })
        .guard(|request| {
            let name = request.headers.get("x-operator")?.to_str().ok()?;
            Some(name.to_owned())
        })
        .build()
        .unwrap();
    let usage = UsagePage::builder(limiter.clone(), log.clone()).build().unwrap();
    Router::new()
        .route("/read", get(|| async {}))
        .route("/write", axum::routing::post(|| async {}))
        .route("/free", get(|| async {}))
        .layer(layer)
        .nest("/operator", operator.router())
        .nest("/usage", usage.router())
}

/// The status, and what is left.
async fn call(app: &Router, method: &str, path: &str, key: &str) -> (u16, Option<String>) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("authorization", format!("Bearer {key}")).body(Body::empty());
    let mut answer = Answer::of(app.clone().oneshot(request.unwrap()).await.unwrap()).await;
    (answer.status, answer.headers.remove("x-ratelimit-remaining"))
}

async fn reads(app: &Router, key: &str) -> u16 {
    call(app, "GET", "/read", key).await.0
}

async fn overview(app: &Router) -> Value {
    let request = Request::get("/operator").header("x-operator", "nora").body(Body::empty());
    let answer = Answer::of(app.clone().oneshot(request.unwrap()).await.unwrap()).await;
    assert_eq!(answer.status, 200);
    answer.body
}

/// The overview's entry of one of the busiest keys.
async fn listed(app: &Router, label: &str) -> Value {
    let all = overview(app).await["busiest"].take();
    let mut all = all.as_array().unwrap().iter().filter(|key| key["label"] == label);
    all.next().expect("the key is listed").clone()
}

async fn change(app: &Router, label: &str, change: Value) -> Answer {
    let fingerprint = listed(app, label).await["fingerprint"].as_str().unwrap().to_owned();
    let request = Request::post(format!("/operator/keys/{fingerprint}"))
        .header("x-operator", "nora")
        .header("content-type", "application/json");
    let request = request.body(Body::from(change.to_string())).unwrap();
    Answer::of(app.clone().oneshot(request).await.unwrap()).await
}

async fn changed(app: &Router, label: &str, to: Value) {
    let answer = change(app, label, to.clone()).await;
    assert_eq!((answer.status, answer.body), (200, json!({})), "{to}");
}

const LABEL_A: &str = "sk_live_…1111";
const LABEL_B: &str = "sk_live_…2222";

#[tokio::test(start_paused = true)]
async fn the_busiest_and_the_most_refused_keys_are_listed_with_their_quotas() {
    let app = app();
    for _ in 0..7 {
        reads(&app, A).await;
    }
    for _ in 0..4 {
        call(&app, "GET", "/free", B).await;
        call(&app, "POST", "/write", B).await;
    }
    let page = overview(&app).await;
    let label = |list: &str, place: usize| page[list][place]["label"].clone();
    assert_eq!((label("busiest", 0), label("busiest", 1)), (LABEL_B.into(), LABEL_A.into()));
    assert_eq!(
        (label("most_refused", 0), label("most_refused", 1)),
        (LABEL_A.into(), LABEL_B.into())
    );
    let a = &page["most_refused"][0];
    assert_eq!(
        (&a["requests"], &a["refused"], &a["blocked"]),
        (&json!(7), &json!(3), &Value::Null)
    );
    let read = json!([{
        "policy": "read", "counted_by": "bearer token", "algorithm": "sliding_window", "limit": 4,
        "used": 4, "remaining": 0, "reset_seconds": 3_600.0, "units": 4, "window_seconds": 3_600.0,
        "changed": null,
    }]);
    assert_eq!(a["quotas"], read);
    let again = overview(&app).await;
    assert_eq!(again["busiest"], page["busiest"], "looking costs nothing");
    assert!(!page.to_string().contains("0000000000"), "no key is disclosed");
    advance(2 * HOUR).await;
    assert_eq!(overview(&app).await["busiest"], json!([]), "it is of the last hour");
}

#[tokio::test(start_paused = true)]
async fn a_key_without_refusals_is_not_among_the_most_refused() {
    let app = app();
    reads(&app, A).await;
    let page = overview(&app).await;
    assert_eq!(page["busiest"].as_array().unwrap().len(), 1);
    assert_eq!(page["most_refused"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_decoys_hide_no_abuser() {
    let app = app_that_remembers(10);
    let decoy = |number: u32| format!("sk_live_{number:024}");
    // They come first, and fill the room for the minute's sums.
    for number in 10_000..11_000 {
        reads(&app, &decoy(number)).await;
    }
    for number in 11_000..12_000 {
        reads(&app, &decoy(number)).await;
        if number % 4 == 0 {
            reads(&app, A).await;
        }
    }
    let page = overview(&app).await;
    for list in ["busiest", "most_refused"] {
        let first = &page[list][0];
        assert_eq!(first["label"], LABEL_A, "{list}");
        assert!(first["requests"].as_u64().unwrap() > 200, "{first} of 250");
        assert_eq!(first["quotas"][0]["policy"], "read", "{list}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_gives_a_key_its_quotas_back_and_no_other() {
    let app = app();
    for key in [A, B] {
        for _ in 0..4 {
            assert_eq!(reads(&app, key).await, 200);
        }
        assert_eq!(reads(&app, key).await, 429);
    }
    changed(&app, LABEL_A, json!({ "action": "reset" })).await;
    assert_eq!(reads(&app, B).await, 429);
    for expected in [200, 200, 200, 200, 429] {
        assert_eq!(reads(&app, A).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_key_is_blocked_one_that_cannot_be_read_is_refused() {
    let app = app();
    reads(&app, A).await;
    let twice = async || {
        let request = Request::get("/free").header("authorization", format!("Bearer {A}"));
        let request = request.header("authorization", "Bearer another").body(Body::empty());
        Answer::of(app.clone().oneshot(request.unwrap()).await.unwrap()).await
    };
    assert_eq!(twice().await.status, 200, "exempt");
    changed(&app, LABEL_A, json!({ "action": "block", "seconds": 600 })).await;
    let refused = twice().await;
    assert_eq!((refused.status, &refused.body["error"]), (400, &json!("unreadable_key")));
    assert_eq!(refused.body.get("policy"), None);
    assert_eq!(
        refused.body["message"],
        "The caller's key cannot be read: the request has it twice, or is malformed."
    );
    changed(&app, LABEL_A, json!({ "action": "unblock" })).await;
    assert_eq!(twice().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_reason_and_the_operator_are_shown_beside_what_they_changed() {
    let app = app();
    reads(&app, A).await;
    let block = json!({ "action": "block", "seconds": 600, "reason": " scraping " });
    changed(&app, LABEL_A, block).await;
    let set =
        json!({ "action": "set_quota", "policy": "read", "units": 9, "seconds": 60, "reason": "" });
    changed(&app, LABEL_A, set).await;
    let listed = listed(&app, LABEL_A).await;
    let (blocked, changed) = (&listed["blocked"], &listed["quotas"][0]["changed"]);
    assert_eq!((&blocked["reason"], &blocked["author"]), (&json!("scraping"), &json!("nora")));
    assert_eq!((&changed["reason"], &changed["author"]), (&Value::Null, &json!("nora")));
    let changes = overview(&app).await["changes"].take();
    assert_eq!(changes[1]["change"], "blocked for 600 s: scraping");
    let too_long = json!({ "action": "block", "seconds": 600, "reason": "x".repeat(201) });
    let refused = change(&app, LABEL_A, too_long).await;
    assert_eq!(refused.body["detail"], "The reason has more than 200 characters.");
}

#[tokio::test(start_paused = true)]
async fn a_change_without_effect_is_an_error() {
    let app = app();
    reads(&app, A).await;
    let refused = async |fingerprint: &str, change: Value| {
        let request = Request::post(format!("/operator/keys/{fingerprint}"))
            .header("x-operator", "nora")
            .header("content-type", "application/json")
            .body(Body::from(change.to_string()));
        let answer = Answer::of(app.clone().oneshot(request.unwrap()).await.unwrap()).await;
        assert_eq!(answer.status, 400, "{change}");
        answer.body["detail"].as_str().unwrap().to_owned()
    };
    let (known, unknown) = (listed(&app, LABEL_A).await["fingerprint"].take(), "0".repeat(32));
    let known = known.as_str().unwrap();
    assert_eq!(
        refused(&unknown, json!({ "action": "reset" })).await,
        "Nothing is known that the key has used, and nothing was reset."
    );
    assert_eq!(refused(known, json!({ "action": "unblock" })).await, "The key is not blocked.");
    let set = json!({ "action": "set_quota", "policy": "raed", "units": 9, "seconds": 60 });
    assert_eq!(refused(known, set).await, "The key is not known to draw on a policy `raed`.");
    assert_eq!(overview(&app).await["changes"], json!([]), "nothing was changed");

    // The log remembers two keys: a third and a fourth take the places of the first two.
    for key in ["sk_live_000000000000000000003333", "sk_live_000000000000000000004444"] {
        reads(&app, key).await;
    }
    assert_eq!(
        refused(known, json!({ "action": "reset" })).await,
        "Nothing is known that the key has used, and nothing was reset."
    );
}

#[tokio::test(start_paused = true)]
async fn a_blocked_key_is_refused_everywhere_for_its_time_and_costs_nothing() {
    let app = app();
    reads(&app, A).await;
    reads(&app, B).await;
    changed(&app, LABEL_A, json!({ "action": "block", "seconds": 600 })).await;
    for (method, path) in [("GET", "/read"), ("POST", "/write"), ("GET", "/free"), ("GET", "/none")]
    {
        assert_eq!(call(&app, method, path, A).await, (429, None), "{path}");
    }
    let refused = Request::get("/read").header("authorization", format!("Bearer {A}"));
    let refused = app.clone().oneshot(refused.body(Body::empty()).unwrap()).await.unwrap();
    let refused = Answer::of(refused).await;
    assert_eq!(
        (&*refused.headers["retry-after"], &refused.body["error"]),
        ("600", &json!("blocked"))
    );
    assert_eq!(reads(&app, B).await, 200);
    assert_eq!(listed(&app, LABEL_A).await["blocked"]["seconds"], 600.0);
    let usage = Request::get("/usage").header("authorization", format!("Bearer {A}"));
    let usage = app.clone().oneshot(usage.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(Answer::of(usage).await.body["blocked_seconds"], 600.0, "its owner sees it");

    advance(Duration::from_millis(599_999)).await;
    assert_eq!(reads(&app, A).await, 429);
    advance(Duration::from_millis(1)).await;
    assert_eq!(call(&app, "GET", "/read", A).await, (200, Some("2".into())));
    changed(&app, LABEL_A, json!({ "action": "block", "seconds": 600 })).await;
    changed(&app, LABEL_A, json!({ "action": "unblock" })).await;
    assert_eq!(call(&app, "GET", "/read", A).await, (200, Some("1".into())));
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_raised_and_lowered_for_a_time() {
    let app = app();
    for remaining in ["3", "2"] {
        assert_eq!(call(&app, "GET", "/read", A).await, (200, Some(remaining.into())));
    }
    let set = |units: u64| json!({ "action": "set_quota", "policy": "read", "units": units, "seconds": 60 });
    changed(&app, LABEL_A, set(10)).await;
    assert_eq!(call(&app, "GET", "/read", A).await, (200, Some("7".into())), "two were used");
    changed(&app, LABEL_A, set(3)).await;
    assert_eq!(call(&app, "GET", "/read", A).await, (429, Some("0".into())));
    assert_eq!(call(&app, "GET", "/read", B).await, (200, Some("3".into())));
    let quota = listed(&app, LABEL_A).await["quotas"][0].take();
    assert_eq!((&quota["limit"], &quota["changed"]["seconds"]), (&json!(3), &json!(60.0)));

    changed(&app, LABEL_A, json!({ "action": "restore_quota", "policy": "read" })).await;
    let quota = listed(&app, LABEL_A).await["quotas"][0].take();
    assert_eq!((&quota["limit"], &quota["changed"]), (&json!(4), &Value::Null));
    assert_eq!(call(&app, "GET", "/read", A).await, (200, Some("0".into())));

    changed(&app, LABEL_A, set(100)).await;
    assert_eq!(reads(&app, A).await, 200);
    advance(Duration::from_secs(60)).await;
    assert_eq!(reads(&app, A).await, 429, "the minute is over");
    assert_eq!(listed(&app, LABEL_A).await["quotas"][0]["limit"], 4);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_its_own_stays() {
    let app = app();
    call(&app, "POST", "/write", A).await;
    let faster = json!({ "action": "set_quota", "policy": "write", "units": 3_600, "seconds": 60 });
    changed(&app, LABEL_A, faster).await;
    call(&app, "POST", "/write", A).await;
    let quota = listed(&app, LABEL_A).await["quotas"][0].take();
    assert_eq!((&quota["limit"], &quota["units"]), (&json!(2), &json!(3_600)));
    advance(Duration::from_secs(1)).await;
    assert_eq!(call(&app, "POST", "/write", A).await, (200, Some("0".into())), "a unit a second");
    assert_eq!(call(&app, "POST", "/write", A).await.0, 429);
}

#[tokio::test(start_paused = true)]
async fn changes_are_listed_with_the_operator_who_made_them() {
    let app = app();
    reads(&app, A).await;
    changed(&app, LABEL_A, json!({ "action": "block", "seconds": 1 })).await;
    changed(&app, LABEL_A, json!({ "action": "reset" })).await;
    let page = overview(&app).await["changes"].take();
    let texts: Vec<_> = page.as_array().unwrap().iter().map(|made| &made["change"]).collect();
    assert_eq!(texts, ["reset all quotas", "blocked for 1 s"]);
    assert_eq!(page[0]["operator"], "nora");
}

#[tokio::test(start_paused = true)]
async fn only_operators_see_or_change_anything() {
    let app = app();
    reads(&app, A).await;
    let fingerprint = listed(&app, LABEL_A).await["fingerprint"].as_str().unwrap().to_owned();
    let keys = format!("/operator/keys/{fingerprint}");
    for (method, path) in [
        ("GET", "/operator"),
        ("GET", "/operator?style.css"),
        ("GET", "/operator?script.js"),
        ("POST", &keys),
    ] {
        for accept in ["application/json", "text/html"] {
            let request = Request::builder().method(method).uri(path).header("accept", accept);
            let request = request.header("content-type", "application/json");
            let request = request.header("authorization", format!("Bearer {A}"));
            let body = Body::from(r#"{"action": "reset"}"#);
            let answer = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 403, "{method} {path}");
        }
    }
    // What another site's form could send in the name of a signed-in operator.
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let request =
            Request::post(&keys).header("x-operator", "nora").header("content-type", kind);
        let body = Body::from(r#"{"action": "block", "seconds": 60}"#);
        let answer = app.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 415, "{kind}");
    }
    assert_eq!(reads(&app, A).await, 200);
    assert_eq!(overview(&app).await["changes"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_a_400_and_changes_nothing() {
    let app = app();
    reads(&app, A).await;
    let set = |policy: &str, units: u64, seconds: u64| json!({ "action": "set_quota", "policy": policy, "units": units, "seconds": seconds });
    for nonsense in [
        json!({ "action": "burn" }),
        json!({ "action": "block" }),
        json!({ "action": "block", "seconds": 0 }),
        json!({ "action": "block", "seconds": -1 }),
        json!({ "action": "block", "seconds": u64::MAX }),
        set("read", 0, 60),
        set("read", u64::MAX, 60),
        set("read", u64::MAX - 1, 60),
        set("nothing", 5, 60),
        set("write", 5, 60),
        json!({ "action": "restore_quota", "policy": "read" }),
        json!({ "action": "restore_quota", "policy": "nothing" }),
        json!("x".repeat(10_000)),
    ] {
        let answer = change(&app, LABEL_A, nonsense.clone()).await;
        assert_eq!(answer.status, 400, "{nonsense}");
    }
    for path in [
        "/operator/keys/7",
        "/operator/keys/%ff",
        "/operator/keys/+0000000000000000000000000000001",
        // Of no key that is known.
        "/operator/keys/00000000000000000000000000000001",
    ] {
        let request = Request::post(path).header("x-operator", "nora");
        let request = request.header("content-type", "application/json");
        let answer = request.body(Body::from(r#"{"action": "reset"}"#)).unwrap();
        assert_eq!(app.clone().oneshot(answer).await.unwrap().status(), 400, "{path}");
    }
    assert_eq!(reads(&app, A).await, 200);
    assert_eq!(overview(&app).await["changes"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_are_remembered_than_set() {
    let app = app();
    for key in [A, B, "sk_live_000000000000000000003333"] {
        reads(&app, key).await;
    }
    assert_eq!(listed(&app, LABEL_A).await["quotas"], json!([]));
    assert_eq!(listed(&app, LABEL_B).await["quotas"].as_array().unwrap().len(), 1);
    reads(&app, A).await;
    assert_eq!(listed(&app, LABEL_A).await["quotas"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_came_again_is_remembered_beside_any_number_that_come_once() {
    let app = app_that_remembers(10);
    reads(&app, A).await;
    for number in 0..100 {
        reads(&app, &format!("sk_live_{number:024}")).await;
        if number % 5 == 0 {
            reads(&app, A).await;
        }
        assert_eq!(listed(&app, LABEL_A).await["quotas"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn without_a_guard_there_is_no_page() {
    let page = |keys: usize| {
        let caller = Caller::new(bearer());
        let limiter = Limiter::builder().caller(caller.clone()).build().unwrap();
        let log = RequestLog::builder(caller).sink(MemoryLog::new()).remember_keys(keys);
        OperatorPage::builder(limiter, log.build().unwrap())
    };
    assert_eq!(
        page(7).build().unwrap_err().to_string(),
        "operator page: anybody could use it; add `.guard(…)`"
    );
    assert_eq!(
        page(0).guard(|_| None).build().unwrap_err().to_string(),
        "operator page: its log remembers no keys; add `.remember_keys(10_000)` to the `RequestLog`"
    );
    assert!(page(7).guard(|_| None).build().is_ok());
}

#[test]
fn a_limiter_that_knows_callers_otherwise_than_the_log_has_no_page() {
    let caller = Caller::new(bearer());
    for other in [None, Some(Caller::new(bearer())), Some(Caller::new(header("x-key")))] {
        let limiter = other.into_iter().fold(Limiter::builder(), LimiterBuilder::caller);
        let log = RequestLog::builder(caller.clone()).sink(MemoryLog::new()).remember_keys(7);
        let page = OperatorPage::builder(limiter.build().unwrap(), log.build().unwrap());
        assert_eq!(
            page.guard(|_| None).build().unwrap_err().to_string(),
            "operator page: the limiter does not know callers as the log does; give a clone of one `Caller` to `LimiterBuilder::caller` and to `RequestLog::builder`"
        );
    }
}

async fn explain(app: &Router, asked: Value) -> Answer {
    let request = Request::post("/operator/explain")
        .header("x-operator", "nora")
        .header("content-type", "application/json");
    let request = request.body(Body::from(asked.to_string())).unwrap();
    Answer::of(app.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn a_request_is_explained_and_neither_charged_nor_shown() {
    let app = app();
    let bearer = format!("Bearer {A}");
    let asked = json!({"method": "GET", "path": format!("/read?{A}"), "headers": [["authorization", bearer]]});
    for left in ["3", "2"] {
        for _ in 0..2 {
            let answer = explain(&app, asked.clone()).await;
            assert_eq!(answer.status, 200);
            let explained = &answer.body["explanation"];
            assert_eq!(explained["verdict"], "admitted");
            assert_eq!(explained["category"], "reads");
            assert_eq!(explained["response"]["headers"]["x-ratelimit-remaining"], left);
            let text = answer.body["text"].as_str().unwrap();
            assert!(text.contains("Policy `read`: passes\n"), "{text}");
            assert!(!answer.body.to_string().contains(A));
        }
        assert_eq!(call(&app, "GET", "/read", A).await.1.as_deref(), Some(left));
    }
    // What a middleware would leave in the request is there as well.
    let by_session = json!({"method": "GET", "path": "/read", "headers": [["x-session", bearer]]});
    let answer = explain(&app, by_session).await.body;
    assert_eq!(answer["explanation"]["response"]["headers"]["x-ratelimit-remaining"], "1");
    let without_key = json!({"method": "GET", "path": "/read", "peer": "192.0.2.1"});
    let answer = explain(&app, without_key).await.body;
    let explained = &answer["explanation"];
    assert_eq!(explained["response"]["status"], 400);
    assert_eq!(
        (&explained["verdict"], &explained["refused_by"]),
        (&json!("refused"), &json!("read"))
    );
    assert_eq!(explained["reason"], "missing_key");
    assert_eq!(overview(&app).await["busiest"][0]["requests"], 2, "explanations are not logged");
    assert_eq!(overview(&app).await["lints"], json!([]));
}

#[tokio::test]
async fn without_a_layer_an_explanation_is_the_limiters() {
    let policy = Policy::sliding_window("read", Quota::per_hour(4)).key(bearer()).or_refuse();
    let caller = Caller::new(bearer());
    let limiter = Limiter::builder().caller(caller.clone()).policy(policy).build().unwrap();
    let log = RequestLog::builder(caller).sink(MemoryLog::new()).remember_keys(2).build().unwrap();
    let operator = OperatorPage::builder(limiter, log).guard(|_| Some("nora".to_owned()));
    let app = Router::new().nest("/operator", operator.build().unwrap().router());
    let explained = explain(&app, json!({"method": "GET", "path": "/"})).await.body;
    assert_eq!(explained["explanation"]["refused_by"], "read");
    assert!(explained["explanation"]["response"].is_null());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_explained_is_refused_without_showing_it() {
    let app = app();
    for (asked, detail) in [
        (json!({"method": "GET", "path": "/", "key": A}), "The body is no object of `method`"),
        (json!({"method": "GET", "path": "/", A: 1}), "The body is no object of `method`"),
        (json!({"method": "GET", "path": "/", "peer": A}), "The body is no object of `method`"),
        (json!({"method": "", "path": "/"}), "The method is one like `GET`."),
        (json!({"method": "GET", "path": A}), "The path is one like `/v1/users/7?page=2`"),
        (json!({"method": "GET", "path": format!("/ {A}")}), "The path is one like"),
        (
            json!({"method": "GET", "path": "/", "headers": [["a", "b"], [format!("{A} {A}"), ""]]}),
            "Header 2 is no header",
        ),
        (
            json!({"method": "GET", "path": "/", "headers": vec![("a", "b"); 101]}),
            "There are more than 100 headers.",
        ),
    ] {
        let answer = explain(&app, asked).await;
        assert_eq!(answer.status, 400);
        let told = answer.body["detail"].as_str().unwrap();
        assert!(told.starts_with(detail), "{told}");
        assert!(!answer.body.to_string().contains(A));
    }
    let request = Request::post("/operator/explain").header("content-type", "application/json");
    let request = request.body(Body::from("{}")).unwrap();
    assert_eq!(app.clone().oneshot(request).await.unwrap().status(), 403);
}
