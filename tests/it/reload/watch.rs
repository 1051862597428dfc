//! A file of limits that is applied whenever it changes.
#![cfg(feature = "config")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tower_quota::{
    Limiter,
    config::{Limits, Registry, Watch},
};

/// The file is read once a second on the paused clock, so this is enough for two reads.
const SECONDS: Duration = Duration::from_millis(2_500);

fn text(units: u64) -> String {
    format!(
        "check_only = [\"mails\"]\n[policies.mails]\nalgorithm = \"fixed_window\"\nquota = \"{units} per day\"\n"
    )
}

struct Watched {
    limiter: Limiter,
    watch: Watch,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Watched {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.toml");
        fs::write(&path, text(100)).unwrap();
        let registry = Registry::new();
        let limits = Limits::read(&path, &registry).unwrap();
        let limiter = limits.builder(&registry).unwrap().build().unwrap();
        let watch = Watch::new(&limiter, &path, registry);
        Self { limiter, watch, path, _folder: folder }
    }

    fn units(&self) -> u64 {
        self.limiter.peek("mails", "a").at_once().unwrap().outcomes().next().unwrap().limit()
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_is_applied_and_a_wrong_one_is_not() {
    let watched = Watched::new();
    sleep(SECONDS).await;
    assert_eq!(watched.units(), 100);
    fs::write(&watched.path, text(200)).unwrap();
    sleep(SECONDS).await;
    assert_eq!(watched.units(), 200);
    for wrong in ["", "nonsense", &text(0)] {
        fs::write(&watched.path, wrong).unwrap();
        sleep(SECONDS).await;
        assert_eq!(watched.units(), 200);
    }
    fs::write(&watched.path, text(50)).unwrap();
    sleep(SECONDS).await;
    assert_eq!(watched.units(), 50);
}

/// Replaces a file as editors do: writes another one, and gives it the name.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_file_may_be_replaced_or_missing_for_a_while() {
    let watched = Watched::new();
    replace(&watched.path, &text(200));
    sleep(SECONDS).await;
    assert_eq!(watched.units(), 200);
    fs::remove_file(&watched.path).unwrap();
    sleep(60 * SECONDS).await;
    assert_eq!(watched.units(), 200, "the last limits stay");
    replace(&watched.path, &text(300));
    sleep(SECONDS).await;
    assert_eq!(watched.units(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dropped_applies_nothing_more() {
    let watched = Watched::new();
    assert!(format!("{:?}", watched.watch).contains("limits.toml"));
    drop(watched.watch);
    fs::write(&watched.path, text(200)).unwrap();
    sleep(10 * SECONDS).await;
    let outcome = watched.limiter.peek("mails", "a").at_once().unwrap();
    assert_eq!(outcome.remaining(), 100);
}

/// The only test that sends the process a signal, which others do not see: they have other files.
#[cfg(unix)]
#[tokio::test]
async fn a_signal_applies_the_file_at_once() {
    use rustix::process::{Signal, getpid, kill_process};

    let watched = Watched::new();
    let is_applied = async {
        fs::write(&watched.path, text(200)).unwrap();
        kill_process(getpid(), Signal::HUP).unwrap();
        while watched.units() != 200 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(common::PATIENCE, is_applied).await.expect("it is applied");
}
