//! A file of limits that is applied whenever it changes.
#![cfg(feature = "config")]

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::request::Parts;
use tokio::time::{sleep, timeout};
use tower_quota::{
    Limiter,
    config::{Limits, Registry, Watch},
    key::{Extracted, KeyExtractor},
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

/// To open a pipe waits for a writer, and to read a device does not end.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn what_is_no_file_is_not_read_and_the_next_file_is() {
    let watched = Watched::new();
    let replacements: [fn(&Path); 3] = [
        |path| {
            assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        },
        |path| std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        |path| fs::File::create(path).unwrap().set_len(3 << 30).unwrap(),
    ];
    for (replace_by, units) in replacements.into_iter().zip(200..) {
        fs::remove_file(&watched.path).unwrap();
        replace_by(&watched.path);
        let error = Limits::read(&watched.path, &Registry::new()).unwrap_err().to_string();
        assert!(error.contains("it cannot be read: it is "), "{error}");
        sleep(SECONDS).await;
        replace(&watched.path, &text(units));
        sleep(SECONDS).await;
        assert_eq!(watched.units(), units);
    }
}

/// A key that panics if it is asked for its name.
struct Panicking(Arc<AtomicBool>);

impl KeyExtractor for Panicking {
    fn kind(&self) -> Cow<'_, str> {
        assert!(!self.0.load(SeqCst), "on purpose");
        "tenant".into()
    }

    fn extract<'a>(&self, _: &'a Parts) -> Extracted<'a> {
        Extracted::Missing
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_function_does_not_end_the_watch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("limits.toml");
    let text = |units| text(units) + "keys = [\"tenant\"]\nwithout_key = \"refuse\"\n";
    fs::write(&path, text(100)).unwrap();
    let panics = Arc::new(AtomicBool::new(false));
    let registry = Registry::new().key("tenant", Panicking(Arc::clone(&panics)));
    let limits = Limits::read(&path, &registry).unwrap();
    let limiter = limits.builder(&registry).unwrap().build().unwrap();
    let _watch = Watch::new(&limiter, &path, registry);
    let units = || limiter.peek("mails", "a").at_once().unwrap().outcomes().next().unwrap().limit();
    panics.store(true, SeqCst);
    fs::write(&path, text(200)).unwrap();
    sleep(SECONDS).await;
    assert_eq!(units(), 100);
    panics.store(false, SeqCst);
    fs::write(&path, text(300)).unwrap();
    sleep(SECONDS).await;
    assert_eq!(units(), 300);
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
