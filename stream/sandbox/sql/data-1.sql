-- The project's rows, version 1. Next to these two book-keeping tables lies one table per storage
-- table, named by its id ("in.c-bucket.table"), every column TEXT. Open it with any SQLite reader.

CREATE TABLE _store (
    id TEXT NOT NULL             -- store.id of the meta.sqlite this file belongs to
);

-- A job's rows and its line here are committed together. A job that meta.sqlite still calls
-- unfinished after a crash has been applied if, and only if, it is listed.
CREATE TABLE _applied_jobs (
    job_id INTEGER NOT NULL PRIMARY KEY,
    loaded_rows INTEGER NOT NULL,
    table_rows INTEGER NOT NULL
);

-- Counting a large table takes long, so the count is kept, and changes with the rows.
CREATE TABLE _row_counts (
    table_id TEXT NOT NULL PRIMARY KEY,
    rows INTEGER NOT NULL
);
