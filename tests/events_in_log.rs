//! Without a subscriber to `tracing` events, the logger of the `log` crate gets them, because axum
//! turns on `tracing`'s feature `log`. In a process of its own, because the logger is the process's.

use std::io::Write;

use common::Lines;
use log::{LevelFilter, Log, Metadata, Record};
use tower_quota::{Limiter, Policy, Quota};

struct Logger(Lines);

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        writeln!(self.0.clone(), "{} {}", record.level(), record.args()).unwrap();
    }

    fn flush(&self) {}
}

#[tokio::test]
async fn a_logger_hears_of_refusals_and_dry_runs() {
    let lines = Lines::default();
    log::set_boxed_logger(Box::new(Logger(lines.clone()))).unwrap();
    log::set_max_level(LevelFilter::Debug);
    let policy = |name| Policy::fixed_window(name, Quota::per_hour(1));
    let limiter =
        Limiter::builder().check_only(policy("real")).check_only(policy("tried").dry_run());
    let limiter = limiter.build().unwrap();
    for _ in 0..2 {
        let _ = limiter.check("real", "key").await.unwrap();
        let _ = limiter.check("tried", "key").await.unwrap();
    }
    let text = lines.text();
    let told = |event: &str| text.lines().any(|line| line.starts_with(event));
    assert!(told(r#"DEBUG a request was refused policy="real""#), "{text}");
    assert!(told(r#"INFO a dry run would have refused this request policy="tried""#), "{text}");
}
