//! A log in a SQLite file: [`SqliteLog`].
//!
//! Requests put entries into the `queue`, a thread (`writer`) writes them, and `read` has a
//! connection of its own.

mod queue;
mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt,
    fs::OpenOptions,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

pub use self::queue::SqliteLogStats;
use self::{queue::Queue, writer::Writer};
use super::{Entry, Reader, Sink};
use crate::{error::BuildError, lock::Mutex};

const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
const DEFAULT_MAX_BYTES: u64 = 1 << 30;
const DEFAULT_MAX_WAITING: usize = 10_000;
/// An empty database needs a twentieth of this.
const MIN_MAX_BYTES: u64 = 1 << 20;
/// How long another process may lock the file until a write or a read fails.
const BUSY: Duration = Duration::from_secs(1);
/// The version of the tables.
const VERSION: i64 = 1;

/// The newest entries, and the sums of the last day's minutes, in a SQLite file: they survive a
/// restart.
///
/// Entries go through a bounded queue to a thread that writes them in batches of at most 1,000. While
/// the disk keeps up, a batch begins at most 100 ms after its first entry. A batch is written in full,
/// synchronously, or not at all. So a crash loses no entry that is [written](Self::flush), only those
/// that wait.
///
/// A request never waits for the disk. While the disk is locked, full or slow, entries wait in the
/// queue. Entries beyond its bound are lost, and [counted](Self::stats). With the feature `tracing`,
/// each change between writing, failing and losing is logged once.
///
/// On Unix, a new file has the mode 0600: only the user of this process can read it. A file that is
/// already there keeps its mode.
///
/// The log's caller needs a [secret](crate::key::Caller::secret): without it, a later process could
/// not find the entries of a key. A clone is the same log. Dropping the last clone writes the
/// entries that wait.
///
/// # Beside your own SQLite
/// A program links one SQLite, so cargo allows one version of `libsqlite3-sys`. This feature works with
/// `rusqlite` 0.32 to 0.43, and cargo chooses the one that your own library needs: `rusqlite` of these versions,
/// `sqlx` 0.8 or 0.9, `diesel` 2. If yours needs another one, cargo says that two packages link to `sqlite3`.
/// Then leave the feature `usage-sqlite` out, and write entries into a table of your own: implement
/// [`Sink`](crate::usage::Sink), and [`Reader`](crate::usage::Reader) for the pages.
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("requests.sqlite");
/// use std::time::Duration;
/// use tower_quota::{key::{self, Caller}, usage::{RequestLog, SqliteLog}};
///
/// let file = SqliteLog::builder(path)
///     .max_age(Duration::from_secs(90 * 86_400))
///     .max_bytes(10 << 30)
///     .build()?;
/// # let secret = 7;
/// // secret: u128::from_str_radix(&std::env::var("LOG_SECRET")?, 16)?
/// let caller = Caller::new(key::header("x-api-key")).secret(secret);
/// let log = RequestLog::builder(caller).sink(file.clone()).build()?;
/// # let _ = log;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SqliteLog(Arc<Running>);

struct Running {
    path: PathBuf,
    queue: Arc<Queue>,
    /// A connection for one reader at a time. Readers and the writer do not wait for each other.
    reading: Mutex<Connection>,
    writer: Option<JoinHandle<()>>,
}

impl SqliteLog {
    /// A log in the file at `path`. A file that does not exist is created.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteLogBuilder {
        SqliteLogBuilder {
            path: path.into(),
            max_age: DEFAULT_MAX_AGE,
            max_bytes: DEFAULT_MAX_BYTES,
            max_waiting: DEFAULT_MAX_WAITING,
        }
    }

    /// Waits until all entries recorded so far are written, for at most `patience`. `true` if all were
    /// written. It blocks: under tokio, call it in `spawn_blocking`.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        self.0.queue.flush(patience)
    }

    /// What became of the entries since the log was opened.
    #[must_use]
    pub fn stats(&self) -> SqliteLogStats {
        self.0.queue.stats()
    }
}

/// Collects what a [`SqliteLog`] needs.
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteLogBuilder {
    path: PathBuf,
    max_age: Duration,
    max_bytes: u64,
    max_waiting: usize,
}

impl SqliteLogBuilder {
    /// How long entries are kept. Default: 30 days. The sums of minutes are kept for a day.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = age;
        self
    }

    /// The most bytes of the file in use; beyond, the oldest entries go. Default: 1 GiB, about five
    /// million entries. The file does not shrink. Its journal takes a few MB more.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// The most entries that wait to be written; beyond, entries are lost. Default: 10,000, which take
    /// about 3 MB.
    pub fn max_waiting(mut self, entries: usize) -> Self {
        self.max_waiting = entries;
        self
    }

    /// Opens the log.
    ///
    /// # Errors
    /// A setting that cannot work, or a file that cannot be opened: the error names it and says what
    /// to write instead.
    pub fn build(self) -> Result<SqliteLog, BuildError> {
        let culprit = format!("request log `{}`", self.path.display());
        let fail = |problem: &str| Err(BuildError::new(&culprit, problem));
        // SQLite would open a database in memory.
        if self.path.as_os_str().is_empty() || self.path.as_os_str() == ":memory:" {
            return fail(
                "that is no file, so that it would be gone with the process; write a path",
            );
        }
        if self.max_age.is_zero() {
            return fail("a maximum age of 0 keeps nothing; write a longer one");
        }
        if self.max_bytes < MIN_MAX_BYTES {
            return fail("it has less room than a MiB; write `.max_bytes(1 << 20)` or more");
        }
        if self.max_waiting == 0 {
            return fail("no entry may wait, so none is written; write `.max_waiting(1)` or more");
        }
        let opened = open(&self.path).and_then(|database| self.start(database));
        opened.map_err(|error| {
            let problem = format!("{error}; write the path of a file that this process may write");
            BuildError::new(culprit, problem)
        })
    }

    fn start(self, database: Connection) -> Result<SqliteLog, Box<dyn std::error::Error>> {
        let reading = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reading.busy_timeout(BUSY)?;
        let queue = Arc::new(Queue::new(self.max_waiting));
        let writer = Writer {
            queue: Arc::clone(&queue),
            database,
            max_age: self.max_age,
            max_bytes: self.max_bytes,
        };
        let writer = thread::Builder::new().name("request log".into()).spawn(|| writer.run())?;
        Ok(SqliteLog(Arc::new(Running {
            path: self.path,
            queue,
            reading: Mutex::new(reading),
            writer: Some(writer),
        })))
    }
}

/// Creates the file if it does not exist, readable by this user only. SQLite gives its other files the
/// same mode.
fn create(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// Opens the file for writing, and creates missing tables.
fn open(path: &Path) -> Result<Connection, Box<dyn std::error::Error>> {
    create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    database.busy_timeout(BUSY)?;
    // Readers and the writer do not wait for each other.
    database.pragma_update(None, "journal_mode", "wal")?;
    // A committed batch survives a power failure.
    database.pragma_update(None, "synchronous", "full")?;
    match database.pragma_query_value(None, "user_version", |row| row.get(0))? {
        0 | VERSION => {}
        other => return Err(format!("it is of another version of the log: {other}").into()),
    }
    database.execute_batch(include_str!("schema.sql"))?;
    database.pragma_update(None, "user_version", VERSION)?;
    Ok(database)
}

impl Sink for SqliteLog {
    fn record(&self, entry: &Entry) {
        self.0.queue.push(entry);
    }

    fn is_persistent(&self) -> bool {
        true
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(Arc::new(self.clone()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported already.
            drop(writer.join());
        }
    }
}

impl fmt::Debug for SqliteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLog")
            .field("path", &self.0.path)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// A time in the file, in microseconds. More than 292,000 years count as that.
fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
