-- Times are in microseconds. `at` and `minute` count from 1970 UTC.

CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    method TEXT NOT NULL,
    status INTEGER,
    response_time INTEGER NOT NULL,
    policy TEXT,
    verdict TEXT NOT NULL,
    units INTEGER NOT NULL,
    held INTEGER NOT NULL,
    fingerprint BLOB,
    label TEXT
) STRICT;

-- SQLite ends each index entry with the id, so a page of a key's entries is one range of the index.
CREATE INDEX IF NOT EXISTS entries_of_key ON entries (fingerprint);

-- Requests without a key have an empty fingerprint: in UNIQUE, no two NULLs are equal.
CREATE TABLE IF NOT EXISTS sums (
    id INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    minute INTEGER NOT NULL,
    endpoint TEXT NOT NULL,
    method TEXT NOT NULL,
    status_class INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    label TEXT NOT NULL,
    requests INTEGER NOT NULL,
    response_time INTEGER NOT NULL,
    longest INTEGER NOT NULL,
    UNIQUE (fingerprint, minute, endpoint, method, status_class, refused)
) STRICT;

CREATE INDEX IF NOT EXISTS sums_by_minute ON sums (minute);
