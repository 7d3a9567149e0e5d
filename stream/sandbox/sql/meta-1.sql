-- What the sandbox knows about the project, version 1. Times are ISO 8601 in UTC, to the second,
-- except the columns named *_at, which are seconds since the epoch and are compared, not shown.

CREATE TABLE store (
    id TEXT NOT NULL,            -- ties data.sqlite to this file
    created TEXT NOT NULL
);

CREATE TABLE tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash BLOB NOT NULL,          -- SHA-256 of the whole token: it is random, so no salt or stretching
    detail TEXT NOT NULL         -- JSON: description, permissions, creator
);

CREATE TABLE buckets (
    id TEXT NOT NULL PRIMARY KEY,
    stage TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    created TEXT NOT NULL,
    changed TEXT NOT NULL
);
-- SQLite's own table names ignore case, so two ids that differ in case only can't both exist.
CREATE UNIQUE INDEX buckets_any_case ON buckets (id COLLATE NOCASE);

CREATE TABLE tables (
    id TEXT NOT NULL PRIMARY KEY,
    bucket_id TEXT NOT NULL REFERENCES buckets (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    columns TEXT NOT NULL,       -- JSON list, in the declared order
    primary_key TEXT NOT NULL,   -- JSON list
    rows_count INTEGER NOT NULL DEFAULT 0,
    created TEXT NOT NULL,
    changed TEXT NOT NULL,
    last_import TEXT
);
CREATE UNIQUE INDEX tables_any_case ON tables (id COLLATE NOCASE);
CREATE INDEX tables_of_bucket ON tables (bucket_id);

CREATE TABLE table_metadata (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    table_id TEXT NOT NULL REFERENCES tables (id) ON DELETE CASCADE,
    provider TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    timestamp TEXT NOT NULL,
    UNIQUE (table_id, provider, key)
);

CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    tags TEXT NOT NULL,          -- JSON list
    sliced INTEGER NOT NULL,
    encrypted INTEGER NOT NULL,
    token_id TEXT NOT NULL,      -- who prepared it
    created TEXT NOT NULL,
    created_at REAL NOT NULL,
    imported_at REAL
);

CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    operation TEXT NOT NULL,
    params TEXT NOT NULL,        -- JSON
    status TEXT NOT NULL,        -- waiting, processing, success, error
    target TEXT NOT NULL,        -- the bucket or table it works on
    file_id INTEGER,
    token_id TEXT NOT NULL,      -- who asked for it
    results TEXT,                -- JSON
    error TEXT,                  -- JSON: code, message, exceptionId
    created TEXT NOT NULL,
    started TEXT,
    ended TEXT
);
CREATE INDEX unfinished_jobs ON jobs (id) WHERE status IN ('waiting', 'processing');

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL,
    component TEXT NOT NULL,
    message TEXT NOT NULL,
    type TEXT NOT NULL,
    duration REAL NOT NULL,
    run_id TEXT NOT NULL,
    params TEXT NOT NULL,        -- JSON
    results TEXT NOT NULL,       -- JSON
    token_id TEXT NOT NULL,
    created TEXT NOT NULL
);

-- Ids start well above those of the configured tokens, and are never used twice, not even after a reset.
INSERT INTO sqlite_sequence (name, seq) VALUES ('tokens', 1000), ('files', 1000), ('jobs', 1000);
