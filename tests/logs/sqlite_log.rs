//! The request log in a file, while the disk fails.
#![cfg(all(feature = "usage-sqlite", feature = "tracing"))]

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use rusqlite::Connection;
use tempfile::TempDir;
use tower::{Service, ServiceBuilder};
use tower_quota::{
    Limiter, RateLimitLayer,
    key::{Caller, header},
    usage::{RequestLog, SqliteLog},
};

use crate::log;

type Body = Empty<Bytes>;

const PATIENCE: Duration = Duration::from_secs(30);

async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::new()))
}

#[test]
fn what_is_no_file_is_no_log() {
    for path in ["", ":memory:"] {
        assert_eq!(
            SqliteLog::builder(path).build().unwrap_err().to_string(),
            format!(
                "request log `{path}`: that is no file, so that it would be gone with the process; write a path"
            )
        );
    }
}

#[cfg(unix)]
#[test]
fn only_the_user_reads_the_file_and_those_beside_it() {
    use std::os::unix::fs::PermissionsExt;

    let folder = TempDir::new().unwrap();
    let file = SqliteLog::builder(folder.path().join("log")).build().unwrap();
    assert!(file.flush(Duration::MAX), "nothing waits");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["log", "log-shm", "log-wal"]);
}

#[tokio::test]
async fn a_locked_file_stops_no_request_and_each_change_is_logged_once() {
    log::keep();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let file = SqliteLog::builder(&path).max_waiting(2_000).build().unwrap();
    let log = RequestLog::builder(Caller::new(header("x-key")).secret(7))
        .sink(file.clone())
        .build()
        .unwrap();
    let limiter = Limiter::builder().build().unwrap();
    let layer = RateLimitLayer::builder(limiter).observe(log).build().unwrap();
    let mut service = ServiceBuilder::new().layer(layer).service_fn(answer);
    let mut send = async |times: u64| {
        for _ in 0..times {
            let request = Request::get("/").header("x-key", "sk_live_0123SECRET89abcdef");
            let response = service.call(request.body(Body::new()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
        }
    };

    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    send(5_000).await;
    wait_until(|| file.stats().is_failing);
    send(5_000).await;
    let stats = file.stats();
    assert_eq!((stats.written, stats.waiting + stats.lost), (0, 10_000));
    // What the queue holds, and the batch that is tried again.
    assert!((2_000..=3_000).contains(&stats.waiting), "{stats:?}");

    other.execute_batch("COMMIT").unwrap();
    assert!(file.flush(PATIENCE));
    let after = file.stats();
    assert_eq!((after.written, after.lost, after.is_failing), (stats.waiting, stats.lost, false));
    send(10).await;
    assert!(file.flush(PATIENCE));
    let rows: i64 = other.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).unwrap();
    assert_eq!(rows.cast_unsigned(), after.written + 10);

    // The log is written by a thread of its own.
    let logged = log::of_all_threads();
    let told = |what: &str| logged.matches(what).count();
    assert_eq!(told("the request log cannot be written; trying again"), 1, "{logged}");
    assert_eq!(told("database is locked"), 1, "{logged}");
    assert_eq!(told("the request log is written again"), 1, "{logged}");
    assert_eq!(told("the request log loses entries"), 1, "{logged}");
    assert!(!logged.contains("SECRET"));

    // Neither does the file hold a key.
    drop((service, file));
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("SECRET"));
    }
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}
