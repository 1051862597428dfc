//! The Prometheus example, and the dashboard for its numbers. In a process of its own, because the
//! recorder that the example installs is the process's.

#[path = "../examples/prometheus/main.rs"]
mod prometheus;

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Body, http::Request};
use common::redis::{PATIENCE, Server};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_quota::{
    Clock, Limiter, Now, Policy, Quota,
    key::PeerAddr,
    store::{Charge, Correction, MemoryStore, RedisStore, Store, StoreFuture},
};

const DASHBOARD: &str = include_str!("../examples/prometheus/dashboard.json");
const GUIDE: &str = include_str!("../src/guide/operating.md");

/// The alert rules of the guide.
fn alerts() -> &'static str {
    GUIDE.split_once("```yaml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0
}

/// Runs Prometheus's own checker, which Debian has in the package `prometheus`. It must find nothing.
fn promtool(arguments: &[&str], input: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = promtool.spawn().unwrap_or_else(|error| panic!("promtool: {error}"));
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
}

async fn ask(app: &Router, method: &str, path: &str) -> (u16, String) {
    let peer = PeerAddr(SocketAddr::from(([192, 0, 2, 1], 50_000)));
    let request = Request::builder().method(method).uri(path).extension(peer);
    let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.into()).unwrap())
}

/// A store whose answers come later, as over a network.
struct Remote(MemoryStore);

impl Store for Remote {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        StoreFuture::later(self.0.charge(charges, now))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        StoreFuture::later(self.0.correct(corrections, now))
    }
}

/// The text at `/metrics` after all that is counted has happened.
async fn exposed() -> String {
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
    let app = prometheus::app(prometheus::exporter().unwrap(), clock).unwrap();
    for nth in 1..=40 {
        assert_eq!(ask(&app, "GET", "/search").await.0, if nth <= 30 { 200 } else { 429 });
    }
    for _ in 0..4 {
        assert_eq!(ask(&app, "POST", "/exports").await.0, 200);
    }
    let remote = Remote(MemoryStore::new());
    let policy = Policy::sliding_window("delivery", Quota::per_hour(100));
    let remote = Limiter::builder().store(remote).check_only(policy).build().unwrap();
    let _ = remote.check("delivery", "key").await.unwrap();
    let policy = |units| Policy::sliding_window("delivery", Quota::per_hour(units));
    assert!(remote.apply(Limiter::builder().check_only(policy(200))).is_ok());
    assert!(remote.apply(Limiter::builder().check_only(policy(0))).is_err());
    // The second is refused by Redis, and the third by what is remembered of that.
    tokio::time::resume(); // a real server takes real time
    let server = Server::start();
    let redis = RedisStore::builder(server.url()).connect_timeout(PATIENCE);
    let redis = redis.response_timeout(PATIENCE).decision_timeout(PATIENCE);
    let redis = redis.secret(7).build().unwrap();
    let policy = Policy::sliding_window("replicated delivery", Quota::per_hour(1));
    let redis = Limiter::builder().store(redis).check_only(policy).build().unwrap();
    for _ in 0..3 {
        let _ = redis.check("replicated delivery", "key").await.unwrap();
    }
    let _ = remote.reset("delivery", "key").await.unwrap();
    let (status, told) = ask(&app, "GET", "/metrics").await;
    assert_eq!(status, 200);
    told
}

/// Each query of the dashboard, those of its variables too.
fn queries(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queries = variables.map(|variable| &variable["query"]);
    targets.map(|target| &target["expr"]).chain(queries).map(|of| of.as_str().unwrap()).collect()
}

/// The words of a query that are names or labels.
fn words(query: &str) -> impl Iterator<Item = &str> {
    query.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'))
}

/// The names of the table with the metrics.
fn documented(text: &str) -> BTreeSet<&str> {
    let rows =
        text.lines().filter_map(|line| line.split_once("| `tower_quota_")?.1.split_once('`'));
    rows.map(|(name, _)| name).collect()
}

#[tokio::test(start_paused = true)]
async fn the_dashboard_asks_for_what_the_exporter_tells() {
    let told = exposed().await;
    let samples: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
    for sample in [
        r#"tower_quota_decisions_total{policy="search",category="search",verdict="allowed"} 30"#,
        r#"tower_quota_decisions_total{policy="search",category="search",verdict="refused"} 10"#,
        r#"tower_quota_decisions_total{policy="stricter search",category="search",verdict="dry_run_refused"} 30"#,
        r#"tower_quota_decisions_total{policy="export",category="export",verdict="held"} 2"#,
        r#"tower_quota_decisions_total{policy="delivery",category="",verdict="allowed"} 1"#,
        r#"tower_quota_held_duration_seconds_bucket{category="export",le="0.5"} 0"#,
        r#"tower_quota_held_duration_seconds_bucket{category="export",le="1"} 2"#,
        "tower_quota_live_keys 3",
        "tower_quota_held_requests 0",
        "tower_quota_deny_cache_hits_total 1",
        r#"tower_quota_store_errors_total{operation="charge"} 0"#,
        r#"tower_quota_reloads_total{result="applied"} 1"#,
        r#"tower_quota_reloads_total{result="failed"} 1"#,
    ] {
        assert!(samples.contains(&sample), "{sample}\n\n{told}");
    }

    promtool(&["check", "metrics"], &told);
    for metric in words(alerts()).filter(|word| word.starts_with("tower_quota_")) {
        assert!(samples.iter().any(|sample| sample.starts_with(metric)), "{metric} is in an alert");
    }

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut asked = BTreeSet::new();
    for query in queries(&dashboard) {
        let metrics: Vec<_> =
            words(query).filter(|word| word.starts_with("tower_quota_")).collect();
        assert!(!metrics.is_empty(), "{query}");
        let of_metric = |sample: &&str| {
            metrics.iter().any(|name| {
                sample.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
        };
        let told: Vec<_> = samples.iter().copied().filter(of_metric).collect();
        assert!(!told.is_empty(), "nothing is told for {query}");
        for label in ["policy", "category", "verdict", "operation", "result", "le"] {
            let asked = words(query).any(|word| word == label);
            assert!(
                !asked || told.iter().any(|told| told.contains(&format!("{label}=\""))),
                "{label}: {query}"
            );
        }
        for verdict in query.split("verdict=").skip(1) {
            let verdicts = verdict.trim_start_matches('~').split('"').nth(1).unwrap();
            for verdict in verdicts.split('|') {
                let label = format!("verdict=\"{verdict}\"");
                assert!(told.iter().any(|told| told.contains(&label)), "{label}: {query}");
            }
        }
        asked.extend(metrics.iter().map(|name| name.trim_end_matches("_bucket").to_owned()));
    }

    // The metrics are those that are documented, and all of them are on the dashboard.
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names: BTreeSet<_> = types.map(|(name, _)| name.to_owned()).collect();
    assert_eq!(asked, names);
    let names: BTreeSet<_> =
        names.iter().filter_map(|name| name.strip_prefix("tower_quota_")).collect();
    assert_eq!(documented(include_str!("../src/lib.rs")), names);
}

#[test]
fn prometheus_takes_the_alerts_and_the_queries_of_the_dashboard() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    promtool(&["check", "rules", "--lint-fatal", &file("alerts.yml", alerts())], "");

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let queries =
        queries(&dashboard).into_iter().filter(|query| !query.starts_with("label_values("));
    // Grafana replaces what begins with `$`.
    let queries = queries.map(|query| query.replace("$__rate_interval", "5m").replace('$', ""));
    let rules =
        queries.enumerate().map(|(nth, expr)| json!({ "record": format!("q{nth}"), "expr": expr }));
    let groups = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    promtool(&["check", "rules", &file("dashboard.yml", &groups.to_string())], "");
}

#[test]
fn each_alert_fires_when_it_should_and_not_on_a_calm_day() {
    // What a series adds in each minute, on a bad day and on a calm one.
    let decisions = |verdict| {
        format!(
            "tower_quota_decisions_total{{policy=\"read\",category=\"api\",verdict=\"{verdict}\"}}"
        )
    };
    let held =
        |le| format!("tower_quota_held_duration_seconds_bucket{{category=\"api\",le=\"{le}\"}}");
    let series = [
        ("tower_quota_store_errors_total{operation=\"charge\"}".to_owned(), 1, 0),
        (decisions("allowed"), 60, 60),
        (decisions("refused"), 20, 10),
        (decisions("missing_key"), 90, 30),
        ("tower_quota_overflowed_total{policy=\"read\"}".to_owned(), 1, 0),
        ("tower_quota_reloads_total{result=\"applied\"}".to_owned(), 0, 1),
        ("tower_quota_reloads_total{result=\"failed\"}".to_owned(), 1, 0),
        (held("2"), 10, 100),
        (held("5"), 100, 100),
        (held("+Inf"), 100, 100),
    ];
    let alerts_of = [
        ("QuotaStoreFails", json!({ "operation": "charge" })),
        ("QuotaRefusesMany", json!({ "policy": "read" })),
        ("QuotaKeysMissing", json!({ "policy": "read" })),
        ("QuotaStoreFull", json!({ "policy": "read" })),
        ("QuotaReloadFailed", json!({ "result": "failed" })),
        ("QuotaHoldsLong", json!({})),
    ];
    assert_eq!(alerts().matches("- alert: ").count(), alerts_of.len());
    let day = |is_bad: bool| {
        let series = series.iter().map(|(series, bad, calm)| {
            let a_minute = if is_bad { bad } else { calm };
            json!({ "series": series, "values": format!("0+{a_minute}x40") })
        });
        let expected = alerts_of.iter().map(|(name, labels)| {
            let fires = json!([{ "exp_labels": labels }]);
            let fires = if is_bad { fires } else { json!([]) };
            json!({ "eval_time": "40m", "alertname": name, "exp_alerts": fires })
        });
        let (series, expected): (Vec<_>, Vec<_>) = (series.collect(), expected.collect());
        json!({ "interval": "1m", "input_series": series, "alert_rule_test": expected })
    };
    let tests = json!({ "rule_files": ["alerts.yml"], "tests": [day(true), day(false)] });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("alerts.yml"), alerts()).unwrap();
    let tests_file = folder.path().join("tests.json");
    fs::write(&tests_file, tests.to_string()).unwrap();
    promtool(&["test", "rules", tests_file.to_str().unwrap()], "");
}
