"""Collection of records into batches."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.client.batching import Batcher, encoded

_RECORDS = st.lists(st.binary(min_size=1, max_size=30), max_size=60)


def _batches(records: list[bytes], max_records: int, max_bytes: int) -> list[list[bytes]]:
    batcher, found = Batcher(max_records, max_bytes), []
    for record in records:
        if not batcher.fits(record):
            found.append(batcher.take())
        batcher.add(record)
    if len(batcher):
        found.append(batcher.take())
    return found


@given(records=_RECORDS, max_records=st.integers(1, 10), max_bytes=st.integers(1, 100))
def test_batches(records: list[bytes], max_records: int, max_bytes: int) -> None:
    """No record is lost or moved, and only a single record may exceed the limit."""
    batches = _batches(records, max_records, max_bytes)
    assert [record for batch in batches for record in batch] == records
    for batch in batches:
        assert len(batch) <= max_records
        assert len(batch) == 1 or sum(len(record) + 1 for record in batch) <= max_bytes


@given(records=_RECORDS, start=st.integers(0, 5))
def test_splitting_after_any_batch(records: list[bytes], start: int) -> None:
    """The same batches follow, so that a repeated push sends the same ones."""
    batches = _batches(records, 4, 50)
    before = sum(len(batch) for batch in batches[:start])
    assert _batches(records[before:], 4, 50) == batches[start:]


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({"a": "é", "b": [1]}, '{"a":"é","b":[1]}'),
        ('{\r\n "a": 1\n}\n', '{   "a": 1 }'),
        (b" 1 ", "1"),
        (None, "null"),
    ],
)
def test_encoded(record: Any, line: str) -> None:
    """A record is encoded as one line of JSON."""
    assert encoded(record) == line.encode()
    json.loads(encoded(record))


@pytest.mark.parametrize("record", [float("nan"), "", b"\n", object()])
def test_records_that_can_not_be_encoded(record: Any) -> None:
    """A record that can't be encoded is refused immediately."""
    with pytest.raises((TypeError, ValueError)):
        encoded(record)
