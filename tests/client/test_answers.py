"""Interpretation of the answer to a batch."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.client.answers import Again, Final, Refusal, Split, Stored, answer_of
from stream.client.retry_after import LONGEST_SECONDS, retry_after_seconds

_NOW = datetime(2026, 5, 1, 10, 0, 0, tzinfo=UTC)


def _answer(status: int, document: Any = None, count: int = 3, **headers: str) -> Any:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answer_of(status, named, content, count, _NOW)


def test_all_stored() -> None:
    """The answer contains the number of stored records."""
    assert _answer(200, {"message": "Accepted 3/3 records.", "accepted": 3}) == Stored(3)
    assert _answer(202, {"message": "Accepted 3/3 records.", "accepted": 3}) == Stored(3)


def test_some_rejected() -> None:
    """Lines of the answer start at 1 and positions at 0; a record that two sinks reject counts
    once.
    """
    errors = [
        {"sinkId": "a", "error": "stream.in.badRequest", "message": "No path.", "lines": [1, 3]},
        {
            "sinkId": "b",
            "error": "stream.in.badRequest",
            "message": "No.",
            "hint": "H.",
            "lines": [3],
        },
    ]
    answer = _answer(207, {"message": "", "accepted": 1, "rejected": 2, "errors": errors})
    assert answer == Stored(
        1,
        (
            Refusal((0, 2), "stream.in.badRequest", "No path.", "a"),
            Refusal((2,), "stream.in.badRequest", "No. H.", "b"),
        ),
    )
    assert answer.rejected == 2


def test_all_rejected() -> None:
    """The status is 4xx, but no retry follows."""
    errors = [{"error": "x", "message": "No.", "lines": [1, 2, 3]}]
    answer = _answer(400, {"message": "", "accepted": 0, "rejected": 3, "errors": errors})
    assert answer == Stored(0, (Refusal((0, 1, 2), "x", "No."),))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 507])
def test_retried_batches(status: int) -> None:
    """The same batch is retried after a temporary error."""
    assert _answer(status, {"message": "Later."}, retry_after="7") == Again("Later.", 7.0)


@pytest.mark.parametrize("status", [400, 413])
def test_split_batches(status: int) -> None:
    """A refused batch is split, unless a part of it is already stored."""
    document = {"message": "Too large.", "error": "stream.in.batchTooLarge"}
    assert _answer(status, document) == Split("stream.in.batchTooLarge", "Too large.")
    assert _answer(status, document, stream_stored="0/6") == Split(
        "stream.in.batchTooLarge", "Too large."
    )
    assert isinstance(_answer(status, document, stream_stored="3/6"), Final)
    assert isinstance(_answer(status, document, count=1, stream_stored="1/2"), Split)


@pytest.mark.parametrize("status", [401, 404, 405, 415, 422])
def test_permanent_errors(status: int) -> None:
    """A permanent error isn't retried."""
    assert _answer(status, {"message": "No."}) == Final(status, "No.")


def test_no_sink() -> None:
    """A source that would store nothing is an error."""
    document = {"message": "No enabled sink found.", "accepted": 3}
    assert isinstance(_answer(200, document), Final)
    assert isinstance(_answer(200, {"accepted": 3}, stream_sinks="0"), Final)


def test_a_service_without_batches() -> None:
    """A batch isn't sent, since it would be stored as one record."""
    assert isinstance(_answer(200, b"OK"), Final)
    assert _answer(200, b"OK", count=1) == Stored(1)


def test_a_replayed_answer_that_was_too_long() -> None:
    """The service only says that it has already stored the batch."""
    assert _answer(200, b"OK", idempotency_replayed="true") == Stored(None, replayed=True)


@given(
    status=st.integers(100, 599),
    content=st.binary(max_size=30)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["message", "errors", "lines", "accepted", "failed", "hint"]), inner
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    count=st.integers(1, 5),
)
def test_any_answer(status: int, content: bytes, count: int) -> None:
    """Every answer results in an outcome."""
    answer = answer_of(status, {}, content, count, _NOW)
    assert isinstance(answer, Stored | Again | Split | Final)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("Fri, 01 May 2026 10:00:30 GMT", 30.0),
        ("Fri, 01 May 2026 09:00:00 GMT", 0.0),
        ("100000", LONGEST_SECONDS),
        ("-3", 0.0),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    """The delay is given in seconds or as a date, and is at most some minutes."""
    assert retry_after_seconds(text, _NOW) == seconds
