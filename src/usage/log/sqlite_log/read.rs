//! Reads the file: pages of entries, and sums.

use std::time::Duration;

use rusqlite::{Row, params, types::Type};

use super::{SqliteLog, micros};
use crate::usage::log::{
    Entry, Fingerprint, KeySum, LoggedKey, LoggedVerdict, Page, ReadError, Reader, Sum,
    entry::method_name,
};

pub(super) const PAGE: &str = "SELECT id, at, endpoint, method, status, response_time, policy,
    verdict, units, held, fingerprint, label FROM entries
    WHERE fingerprint = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";

pub(super) const SUMS: &str = "SELECT fingerprint, label, minute, endpoint, method, status_class,
    refused, requests, response_time, longest FROM sums
    WHERE fingerprint = ?1 AND minute >= ?2 ORDER BY minute";

/// If a key has two labels, the later minute has the right one.
const KEYS: &str = "SELECT fingerprint, label, max(minute), sum(requests) AS requests,
    sum(requests * refused) AS refused FROM sums
    WHERE minute >= ?1 AND fingerprint != x'' GROUP BY fingerprint";

impl Reader for SqliteLog {
    fn entries(
        &self,
        key: Fingerprint,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        // One entry more than `limit` shows that there are older ones.
        let one_more = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
        let parameters = params![key.to_bytes(), before, one_more];
        let mut found = rows(self, PAGE, parameters, entry)?;
        let has_more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().map(|(id, _)| *id).filter(|_| has_more);
        Ok(Page::new(found.into_iter().map(|(_, entry)| entry).collect(), next))
    }

    fn sums(&self, key: Fingerprint, since: Duration) -> Result<Vec<Sum>, ReadError> {
        rows(self, SUMS, params![key.to_bytes(), micros(since)], sum)
    }

    fn keys(&self, since: Duration) -> Result<Vec<KeySum>, ReadError> {
        let keys = rows(self, KEYS, params![micros(since)], |row| {
            let number = |column| unsigned(row, column);
            let sum = |key| Ok(KeySum::new(key, number("requests")?, number("refused")?));
            key(row)?.map(sum).transpose()
        });
        Ok(keys?.into_iter().flatten().collect())
    }
}

fn rows<T>(
    log: &SqliteLog,
    query: &str,
    parameters: &[&dyn rusqlite::ToSql],
    read: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, ReadError> {
    let database = log.0.reading.lock();
    let all = || database.prepare_cached(query)?.query_map(parameters, read)?.collect();
    let all: rusqlite::Result<Vec<T>> = all();
    all.map_err(|error| ReadError::new(error.to_string()))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<(u64, Entry)> {
    let verdict: String = row.get("verdict")?;
    let unknown = || rusqlite::Error::InvalidColumnType(7, "verdict".into(), Type::Text);
    let entry = Entry {
        at: duration(row, "at")?,
        endpoint: row.get("endpoint")?,
        method: method_name(row.get_ref("method")?.as_str()?),
        status: row.get("status")?,
        response_time: duration(row, "response_time")?,
        policy: row.get("policy")?,
        verdict: LoggedVerdict::from_name(&verdict).ok_or_else(unknown)?,
        units: unsigned(row, "units")?,
        held: duration(row, "held")?,
        key: key(row)?,
    };
    Ok((unsigned(row, "id")?, entry))
}

fn sum(row: &Row<'_>) -> rusqlite::Result<Sum> {
    Ok(Sum {
        key: key(row)?,
        minute: duration(row, "minute")?,
        endpoint: row.get("endpoint")?,
        method: method_name(row.get_ref("method")?.as_str()?),
        status_class: row.get("status_class")?,
        refused: row.get("refused")?,
        requests: unsigned(row, "requests")?,
        response_time: duration(row, "response_time")?,
        longest: duration(row, "longest")?,
    })
}

fn key(row: &Row<'_>) -> rusqlite::Result<Option<LoggedKey>> {
    let fingerprint: Option<[u8; 16]> = row.get("fingerprint")?;
    let Some(fingerprint) = fingerprint else { return Ok(None) };
    Ok(Some(LoggedKey::new(Fingerprint::from_bytes(fingerprint), row.get("label")?)))
}

fn duration(row: &Row<'_>, column: &str) -> rusqlite::Result<Duration> {
    unsigned(row, column).map(Duration::from_micros)
}

/// By hand, because only some versions of `rusqlite` read unsigned numbers.
fn unsigned(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    let index = row.as_ref().column_index(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, number))
}
