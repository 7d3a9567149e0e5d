"""Records collected into batches: bounded by their number and their bytes. Pure."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["BATCH_BYTES", "BATCH_RECORDS", "Batcher", "encoded"]

BATCH_RECORDS = 5000
BATCH_BYTES = 900_000
"""A source takes bodies of 1 MB by default."""


def encoded(record: Any) -> bytes:
    """*record* as JSON on one line: bytes and text as they are, anything else is written as JSON.

    Raises TypeError or ValueError if it can't be written as JSON, or has no content.
    """
    if isinstance(record, str):
        record = record.encode()
    if isinstance(record, bytes):
        # Outside of texts JSON has line breaks only as white space, and in texts none at all.
        line = record.strip().replace(b"\r", b" ").replace(b"\n", b" ")
        if not line:
            raise ValueError("the record is empty")
        return line
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Batcher:
    """Cuts a sequence of records into batches. Where it cuts depends on the records alone.

    :param max_records: of a batch.
    :param max_bytes: of a batch with its line breaks; a record that is larger is a batch of its
        own.
    """

    def __init__(self, max_records: int = BATCH_RECORDS, max_bytes: int = BATCH_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def fits(self, record: bytes) -> bool:
        """Return whether the batch that is collected has room for *record*."""
        return not self._records or (
            len(self._records) < self._max_records
            and self._bytes + len(record) + 1 <= self._max_bytes
        )

    def add(self, record: bytes) -> None:
        """Collect *record*, which has to fit."""
        self._records.append(record)
        self._bytes += len(record) + 1

    def take(self) -> list[bytes]:
        """The batch that was collected; the next one is empty."""
        taken, self._records, self._bytes = self._records, [], 0
        return taken
