//! What was written before a process is killed is there afterwards.
//!
//! Without the test harness: this program starts itself once more, as the one that is killed.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Empty;
use tempfile::TempDir;
use tower::{Service, ServiceBuilder};
use tower_quota::{
    Limiter, RateLimitLayer,
    key::{Caller, header},
    usage::{RequestLog, SqliteLog},
};

type Body = Empty<bytes::Bytes>;

const FILE: &str = "REQUEST_LOG_TO_KILL";
const PATIENCE: Duration = Duration::from_secs(30);
/// More than one batch.
const ROUND: u64 = 1_500;

const NAME: &str = "what_was_acknowledged_survives_a_kill";

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().any(|arg| arg == "--list") {
        println!("{NAME}: test");
        return Ok(());
    }
    match env::var_os(FILE) {
        Some(path) => answer_until_killed(Path::new(&path)),
        None => {
            // Each time at another moment.
            for acknowledged in [1, 2, 7] {
                kill_after(acknowledged)?;
            }
            println!("test {NAME} ... ok");
            Ok(())
        }
    }
}

/// Answers requests without end, and prints how many of them are surely in the log.
fn answer_until_killed(path: &Path) -> Result<(), Box<dyn Error>> {
    let file = SqliteLog::builder(path).max_waiting(100_000).build()?;
    let log =
        RequestLog::builder(Caller::new(header("x-key")).secret(7)).sink(file.clone()).build()?;
    let layer = RateLimitLayer::builder(Limiter::builder().build()?).observe(log).build()?;
    let answer = async |_: Request<Body>| Ok::<_, Box<dyn Error>>(Response::new(Body::new()));
    let mut service = ServiceBuilder::new().layer(layer).service_fn(answer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut answered = 0;
    loop {
        for _ in 0..ROUND {
            let request = Request::get("/").header("x-key", "7").body(Body::new())?;
            runtime.block_on(service.call(request))?;
        }
        answered += ROUND;
        assert!(file.flush(PATIENCE));
        println!("{answered}");
        // Those are not acknowledged: the process may be killed while they wait or are written.
        for _ in 0..ROUND / 3 {
            let request = Request::get("/").header("x-key", "7").body(Body::new())?;
            runtime.block_on(service.call(request))?;
        }
        answered += ROUND / 3;
    }
}

fn kill_after(acknowledgements: usize) -> Result<(), Box<dyn Error>> {
    let folder = TempDir::new()?;
    let path = folder.path().join("log");
    let mut process =
        Command::new(env::current_exe()?).env(FILE, &path).stdout(Stdio::piped()).spawn()?;
    let stdout = process.stdout.take().ok_or("stdout is piped")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut acknowledged = 0;
    for _ in 0..acknowledgements {
        acknowledged = lines.next().ok_or("the process ends by itself")??.parse()?;
    }
    // SIGKILL: nothing of the process runs any more.
    process.kill()?;
    process.wait()?;
    // The lines that it printed between the last one read and its end.
    for line in lines {
        acknowledged = line?.parse()?;
    }

    let database = rusqlite::Connection::open(&path)?;
    let intact: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    assert_eq!(intact, "ok");
    let number = |query: &str| {
        let number = database.query_row(query, [], |row| row.get(0));
        number.map(i64::cast_unsigned)
    };
    let written = number("SELECT count(*) FROM entries")?;
    assert!(written >= acknowledged, "{written} of {acknowledged} are there");
    assert!(written <= acknowledged + ROUND / 3 + ROUND, "{written} were never made");
    let summed = number("SELECT sum(requests) FROM sums")?;
    assert_eq!(summed, written, "a batch is there with its sums or not at all");
    drop(database);
    assert!(SqliteLog::builder(&path).build().is_ok(), "the log goes on");
    Ok(())
}
