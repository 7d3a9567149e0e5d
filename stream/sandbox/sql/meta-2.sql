-- Files that don't expire.

ALTER TABLE files ADD COLUMN permanent INTEGER NOT NULL DEFAULT 0;
