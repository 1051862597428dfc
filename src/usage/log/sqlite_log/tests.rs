//! Tests of the file: what survives, what goes, and what is logged.

use rusqlite::{StatementStatus, params};
use tempfile::TempDir;

use super::*;
use crate::{
    limiter::Reason,
    usage::log::{Fingerprint, LoggedKey, LoggedVerdict, MemoryLog, tests::entry},
};

const PATIENCE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

/// The `nth` of entries that differ in everything, a tenth of a second after the one before.
fn nth(nth: u64, start: Duration) -> Entry {
    let refused = nth.is_multiple_of(5);
    Entry {
        at: start + Duration::from_millis(100 * nth),
        endpoint: format!("/things/{}", nth % 3).into(),
        method: ["GET", "POST"][nth as usize % 2],
        status: [Some(200), Some(404), None][nth as usize % 3],
        response_time: Duration::from_micros(nth),
        policy: refused.then(|| "read".into()),
        verdict: match refused {
            true => LoggedVerdict::Refused(Reason::QuotaExceeded),
            false => LoggedVerdict::Allowed,
        },
        units: nth,
        held: Duration::from_micros(2 * nth),
        key: (nth % 4 != 3).then(|| {
            LoggedKey::new(Fingerprint(u128::MAX - u128::from(nth % 4)), "sk_…0001".into())
        }),
    }
}

fn open_in(folder: &TempDir) -> SqliteLog {
    SqliteLog::builder(folder.path().join("log")).build().unwrap()
}

fn all(log: &impl Reader, key: u128) -> Vec<Entry> {
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = log.entries(Fingerprint(key), before, 7).unwrap();
        assert!(page.entries.len() == 7 || page.next.is_none());
        all.extend(page.entries);
        match page.next {
            Some(next) => before = Some(next),
            None => return all,
        }
    }
}

/// The sums of a key, in an order that does not depend on the log.
fn sums(log: &impl Reader, key: u128, since: Duration) -> Vec<String> {
    let sums = log.sums(Fingerprint(key), since).unwrap();
    assert!(sums.is_sorted_by_key(|sum| sum.minute));
    let mut sums: Vec<_> = sums.iter().map(|sum| format!("{sum:?}")).collect();
    sums.sort();
    sums
}

#[test]
fn a_later_process_reads_what_a_memory_log_would_return() {
    let start = Duration::from_secs((now() - HOUR).as_secs());
    let folder = TempDir::new().unwrap();
    let memory = MemoryLog::new();
    {
        let log = open_in(&folder);
        for entry in (0..2_345).map(|number| nth(number, start)) {
            log.record(&entry);
            memory.record(&entry);
        }
        // Closing writes what waits.
    }
    let log = open_in(&folder);
    for key in [u128::MAX, u128::MAX - 1, u128::MAX - 2, 0] {
        assert_eq!(all(&log, key), all(&memory, key));
        for since in [Duration::ZERO, start + Duration::from_secs(100), now()] {
            assert_eq!(sums(&log, key, since), sums(&memory, key, since));
        }
    }
    assert_eq!(all(&log, u128::MAX).len(), 587);
    let keys = |log: &dyn Reader, since| {
        let mut keys = log.keys(since).unwrap();
        keys.sort_by_key(|sum| sum.key.fingerprint);
        keys
    };
    for since in [Duration::ZERO, start + Duration::from_secs(100), now()] {
        assert_eq!(keys(&log, since), keys(&memory, since));
    }
    assert_eq!(keys(&log, Duration::ZERO).len(), 3);
}

#[test]
fn sums_grow_from_batch_to_batch() {
    let folder = TempDir::new().unwrap();
    let log = open_in(&folder);
    for millis in [5, 20, 10] {
        log.record(&Entry { at: now(), response_time: Duration::from_millis(millis), ..entry(7) });
        assert!(log.flush(PATIENCE));
    }
    let sums = log.sums(Fingerprint(7), Duration::ZERO).unwrap();
    let requests: u64 = sums.iter().map(|sum| sum.requests).sum();
    let time: Duration = sums.iter().map(|sum| sum.response_time).sum();
    let longest = sums.iter().map(|sum| sum.longest).max();
    assert_eq!((requests, time), (3, Duration::from_millis(35)));
    assert_eq!(longest, Some(Duration::from_millis(20)));
    assert_eq!(log.stats(), SqliteLogStats { written: 3, ..SqliteLogStats::default() });
}

#[test]
fn a_flush_may_wait_for_any_time() {
    let folder = TempDir::new().unwrap();
    let log = open_in(&folder);
    log.record(&Entry { at: now(), ..entry(7) });
    let (flushed, is_flushed) = std::sync::mpsc::channel();
    thread::spawn(move || flushed.send(log.flush(Duration::MAX)));
    assert_eq!(is_flushed.recv_timeout(PATIENCE), Ok(true));
}

#[test]
fn a_full_disk_loses_entries_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let builder = SqliteLog::builder(folder.path().join("log")).max_waiting(500);
    let database = open(&builder.path).unwrap();
    let _: i64 = database.query_row("PRAGMA max_page_count = 40", [], |row| row.get(0)).unwrap();
    let log = builder.start(database).unwrap();
    let mut recorded = 0;
    while !log.stats().is_failing {
        log.record(&Entry { at: now(), ..entry(7) });
        recorded += 1;
        assert!(recorded < 1_000_000);
        std::thread::yield_now();
    }
    // No request waits for the disk: a thousand retries of a second each would not end.
    for _ in 0..1_000 {
        log.record(&Entry { at: now(), ..entry(7) });
    }
    recorded += 1_000;
    let stats = log.stats();
    assert!(stats.is_failing && stats.lost >= 500 && stats.waiting >= 500, "{stats:?}");
    assert_eq!(stats.written + stats.waiting + stats.lost, recorded);
    assert!(!log.flush(Duration::from_millis(10)));
    drop(log);
    let log = open_in(&folder);
    assert_eq!(all(&log, 7).len() as u64, stats.written, "what was written is there");
    log.record(&Entry { at: now(), ..entry(7) });
    assert!(log.flush(PATIENCE), "and there is room again");
}

#[test]
fn entries_that_are_too_old_are_deleted() {
    let folder = TempDir::new().unwrap();
    let builder = SqliteLog::builder(folder.path().join("log")).max_waiting(20_000);
    let log = builder.clone().build().unwrap();
    for age in [3 * HOUR, HOUR / 2] {
        for _ in 0..7_000 {
            log.record(&Entry { at: now() - age, ..entry(7) });
        }
    }
    assert!(log.flush(PATIENCE));
    drop(log);
    let log = builder.max_age(HOUR).build().unwrap();
    // One transaction does not delete them all, and there is no second entry to begin another.
    log.record(&Entry { at: now(), ..entry(7) });
    wait_until(|| all(&log, 7).len() == 7_001);
    let sums = || log.sums(Fingerprint(7), Duration::ZERO).unwrap();
    wait_until(|| sums().iter().map(|sum| sum.requests).sum::<u64>() == 7_001);
}

#[cfg(feature = "tracing")]
#[test]
fn each_change_of_health_is_logged_once() {
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .without_time()
        .with_ansi(false);
    tracing::subscriber::with_default(subscriber.finish(), || {
        let mut health = writer::Health::default();
        for lost in [0, 0, 5, 9] {
            for _ in 0..3 {
                health.failed(&rusqlite::Error::InvalidQuery);
            }
            health.wrote(lost);
            health.wrote(lost);
        }
    });
    let written = String::from_utf8(written.0.lock().clone()).unwrap();
    let times = |what: &str| written.matches(what).count();
    assert_eq!((times("trying again"), times("written again")), (4, 4), "{written}");
    assert_eq!((times("loses entries"), written.lines().count()), (1, 9), "{written}");
}

#[test]
fn the_oldest_entries_are_deleted_when_the_file_is_too_large() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let log =
        SqliteLog::builder(&path).max_bytes(MIN_MAX_BYTES).max_waiting(50_000).build().unwrap();
    for units in 0..30_000 {
        log.record(&Entry { at: now(), units, ..entry(7) });
    }
    assert!(log.flush(PATIENCE));
    let kept: Vec<u64> = all(&log, 7).iter().map(|entry| entry.units).collect();
    let newest: Vec<u64> = (0..30_000).rev().take(kept.len()).collect();
    assert!(kept == newest && kept.len() > 2_000, "{} kept", kept.len());
    drop(log);
    let bytes = std::fs::metadata(path).unwrap().len();
    assert!(bytes < 2 * MIN_MAX_BYTES, "{bytes} bytes");
}

#[test]
fn a_page_of_a_million_entries_is_a_range_of_the_index() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    drop(open_in(&folder));
    let database = open(&path).unwrap();
    database
        .execute(
            "WITH RECURSIVE numbers (n) AS
                 (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 999999)
             INSERT INTO entries SELECT n + 1, ?1 + n, '/things/{id}', 'GET', 200, 5000, 'read',
                 'allowed', 1, 0, CASE n % 10 WHEN 0 THEN ?2 ELSE ?3 END, 'pk_…0001' FROM numbers",
            params![micros(now()), 7_u128.to_be_bytes(), 8_u128.to_be_bytes()],
        )
        .unwrap();
    let log = open_in(&folder);
    for before in [None, Some(500_001), Some(11), Some(1)] {
        let start = std::time::Instant::now();
        let page = log.entries(Fingerprint(7), before, 100).unwrap();
        eprintln!("a page of 1,000,000 entries: {:?}", start.elapsed());
        let expected = before.map_or(100, |before| ((before - 1) / 10).min(100));
        assert_eq!(page.entries.len(), expected as usize);

        // The time is the machine's; the work is not.
        let mut statement = database.prepare(read::PAGE).unwrap();
        let before = before.map_or(1 << 60, u64::cast_signed);
        let mut rows = statement.query(params![7_u128.to_be_bytes(), before, 101]).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        let work = |status| statement.get_status(status);
        assert_eq!(work(StatementStatus::FullscanStep), 0);
        assert_eq!(work(StatementStatus::Sort), 0);
        let steps = work(StatementStatus::VmStep);
        assert!(steps < 30 * 101, "{steps} steps");
    }
    let mut plan = database.prepare(&format!("EXPLAIN QUERY PLAN {}", read::PAGE)).unwrap();
    let plan: Vec<String> = plan
        .query_map(params![[0_u8; 16], 0, 0], |row| row.get(3))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(plan, ["SEARCH entries USING INDEX entries_of_key (fingerprint=? AND rowid<?)"]);
}

#[test]
fn settings_that_cannot_work_fail() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log");
    let builder = || SqliteLog::builder(&path);
    let at = format!("request log `{}`: ", path.display());
    let problem = |builder: SqliteLogBuilder| builder.build().unwrap_err().to_string();
    assert_eq!(
        problem(builder().max_age(Duration::ZERO)),
        format!("{at}a maximum age of 0 keeps nothing; write a longer one")
    );
    assert_eq!(
        problem(builder().max_bytes(1_000)),
        format!("{at}it has less room than a MiB; write `.max_bytes(1 << 20)` or more")
    );
    assert_eq!(
        problem(builder().max_waiting(0)),
        format!("{at}no entry may wait, so none is written; write `.max_waiting(1)` or more")
    );
    let nowhere = problem(SqliteLog::builder(folder.path().join("no/such/folder")));
    assert!(
        nowhere.ends_with("; write the path of a file that this process may write"),
        "{nowhere}"
    );
    open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(problem(builder()).contains("it is of another version of the log: 2"));
}

fn wait_until(is_so: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
}
