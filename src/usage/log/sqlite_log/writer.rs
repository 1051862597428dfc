//! The thread that writes entries and sums, and deletes old ones: [`Writer`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rusqlite::{Connection, Transaction, TransactionBehavior, params};

use super::{
    micros,
    queue::{BATCH, Queue},
};
use crate::usage::log::{
    Entry, Sum,
    sums::{DAY, SumId},
};

/// The time between a failure and the next try of the same batch.
const RETRY: Duration = Duration::from_secs(1);
/// How often old entries are deleted while no new ones come.
const IDLE: Duration = Duration::from_secs(60);
/// The time without a lost entry after which the log reports that it loses no more.
const CALM: Duration = Duration::from_secs(60);
/// The most entries deleted in one transaction: more than a batch adds.
const PRUNE: usize = 2 * BATCH;

const INSERT: &str = "INSERT INTO entries (at, endpoint, method, status, response_time, policy,
    verdict, units, held, fingerprint, label) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";

const ADD: &str = "INSERT INTO sums (fingerprint, minute, endpoint, method, status_class, refused,
    label, requests, response_time, longest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
    ON CONFLICT DO UPDATE SET requests = requests + excluded.requests,
    response_time = response_time + excluded.response_time,
    longest = max(longest, excluded.longest), label = excluded.label";

/// Ids grow with time, so the first entries are the oldest.
const EXPIRE: &str = "DELETE FROM entries WHERE id IN (SELECT id FROM
    (SELECT id, at FROM entries ORDER BY id LIMIT ?2) WHERE at < ?1)";

const EXPIRE_SUMS: &str = "DELETE FROM sums WHERE id IN
    (SELECT id FROM sums WHERE minute < ?1 ORDER BY minute LIMIT ?2)";

/// The only writer of the file, on a thread of its own.
pub(super) struct Writer {
    pub(super) queue: Arc<Queue>,
    pub(super) database: Connection,
    pub(super) max_age: Duration,
    pub(super) max_bytes: u64,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut health = Health::default();
        while let Some(batch) = self.queue.next(IDLE) {
            while let Err(error) = self.write(&batch) {
                health.failed(&error);
                if !self.queue.failed(RETRY) {
                    return;
                }
            }
            self.queue.written(batch.len());
            health.wrote(self.queue.stats().lost);
            // Old entries go in small transactions, as long as no new ones wait.
            while !self.queue.has_waiting() && matches!(self.write(&[]), Ok(true)) {}
        }
    }

    /// Writes all of the batch or nothing, and deletes old entries. `true` if there may be more to
    /// delete.
    fn write(&mut self, batch: &[Entry]) -> rusqlite::Result<bool> {
        let Self { database, max_age, max_bytes, .. } = self;
        let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        insert(&transaction, batch)?;
        let deleted = prune(&transaction, *max_age, *max_bytes)?;
        transaction.commit()?;
        Ok(deleted >= PRUNE)
    }
}

fn insert(transaction: &Transaction<'_>, batch: &[Entry]) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare_cached(INSERT)?;
    let mut sums: HashMap<SumId, Sum> = HashMap::new();
    for entry in batch {
        sums.entry(SumId::new(entry)).or_insert_with(|| Sum::empty_for(entry)).add(entry);
        let key = entry.key.as_ref();
        insert.execute(params![
            micros(entry.at),
            &*entry.endpoint,
            entry.method,
            entry.status,
            micros(entry.response_time),
            entry.policy.as_deref(),
            entry.verdict.as_str(),
            i64::try_from(entry.units).unwrap_or(i64::MAX),
            micros(entry.held),
            key.map(|key| key.fingerprint.to_bytes()),
            key.map(|key| &*key.label),
        ])?;
    }
    let mut add = transaction.prepare_cached(ADD)?;
    for sum in sums.values() {
        let fingerprint = sum.key.as_ref().map(|key| key.fingerprint.to_bytes());
        add.execute(params![
            fingerprint.as_ref().map_or(&[][..], |bytes| &bytes[..]),
            micros(sum.minute),
            &*sum.endpoint,
            sum.method,
            sum.status_class,
            sum.refused,
            sum.key.as_ref().map_or("", |key| &*key.label),
            i64::try_from(sum.requests).unwrap_or(i64::MAX),
            micros(sum.response_time),
            micros(sum.longest),
        ])?;
    }
    Ok(())
}

/// Deletes entries and sums that are too old, and the oldest where the file is too large. Returns the
/// most rows that one statement has deleted: [`PRUNE`] if more may be left.
fn prune(
    transaction: &Transaction<'_>,
    max_age: Duration,
    max_bytes: u64,
) -> rusqlite::Result<usize> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = |age: Duration| micros(now.saturating_sub(age));
    let delete = |rows: &str, before: i64, at_most: usize| {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        transaction.prepare_cached(rows)?.execute(params![before, at_most])
    };
    let entries = delete(EXPIRE, before(max_age), PRUNE)?;
    let mut deleted = entries.max(delete(EXPIRE_SUMS, before(DAY.min(max_age)), PRUNE)?);
    let number =
        |pragma: &str| transaction.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let pages = number("page_count")?.saturating_sub(number("freelist_count")?);
    let used = pages.saturating_mul(number("page_size")?);
    if used > i64::try_from(max_bytes).unwrap_or(i64::MAX) {
        deleted = deleted.max(delete(EXPIRE, i64::MAX, PRUNE)?);
        deleted = deleted.max(delete(EXPIRE_SUMS, i64::MAX, PRUNE / 10)?);
    }
    Ok(deleted)
}

/// Whether writing works. Each change is logged once.
#[derive(Default)]
pub(super) struct Health {
    failing: bool,
    lost: u64,
    losing_until: Option<Instant>,
}

impl Health {
    pub(super) fn failed(&mut self, error: &rusqlite::Error) {
        if !self.failing {
            self.failing = true;
            #[cfg(feature = "tracing")]
            tracing::error!(%error, "the request log cannot be written; trying again");
            #[cfg(not(feature = "tracing"))]
            let _ = error;
        }
    }

    pub(super) fn wrote(&mut self, lost: u64) {
        if std::mem::take(&mut self.failing) {
            #[cfg(feature = "tracing")]
            tracing::info!(lost, "the request log is written again");
        }
        if lost > self.lost {
            self.lost = lost;
            if self.losing_until.replace(Instant::now() + CALM).is_none() {
                #[cfg(feature = "tracing")]
                tracing::warn!(
                    lost,
                    "the request log loses entries: the disk is slower than they come"
                );
            }
        } else if self.losing_until.is_some_and(|until| until < Instant::now()) {
            self.losing_until = None;
            #[cfg(feature = "tracing")]
            tracing::info!(lost, "the request log loses no more entries");
        }
    }
}
