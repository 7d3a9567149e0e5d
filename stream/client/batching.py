"""Batches of records, limited by count and bytes. Pure."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["BATCH_BYTES", "BATCH_RECORDS", "Batcher", "encoded"]

BATCH_RECORDS = 5000
BATCH_BYTES = 900_000
"""A source accepts bodies of 1 MB by default."""


def encoded(record: Any) -> bytes:
    """Return *record* as JSON on one line; bytes and text are used as they are.

    Raises TypeError or ValueError: *record* can't be encoded as JSON, or is empty.
    """
    if isinstance(record, str):
        record = record.encode()
    if isinstance(record, bytes):
        # Line breaks in JSON are always whitespace, because strings can't contain them.
        line = record.strip().replace(b"\r", b" ").replace(b"\n", b" ")
        if not line:
            raise ValueError("the record is empty")
        return line
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


class Batcher:
    """Splits a sequence of records into batches, at positions that depend only on the records.

    :param max_records: maximum number of records in a batch.
    :param max_bytes: maximum size of a batch with its line breaks; a larger record is a batch of
        its own.
    """

    def __init__(self, max_records: int = BATCH_RECORDS, max_bytes: int = BATCH_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: list[bytes] = []
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def fits(self, record: bytes) -> bool:
        """Return whether the current batch has room for *record*."""
        return not self._records or (
            len(self._records) < self._max_records
            and self._bytes + len(record) + 1 <= self._max_bytes
        )

    def add(self, record: bytes) -> None:
        """Add *record*, which must fit."""
        self._records.append(record)
        self._bytes += len(record) + 1

    def take(self) -> list[bytes]:
        """Return the current batch and start the next one."""
        taken, self._records, self._bytes = self._records, [], 0
        return taken
