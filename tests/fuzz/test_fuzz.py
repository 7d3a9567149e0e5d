"""A short run of `make fuzz`."""

from __future__ import annotations

import pytest

from stream.sink.outcome import Completion
from tests.fuzz import __main__ as fuzz
from tests.fuzz import records
from tests.source.http.test_handler import FakeSink


def test_no_input_is_read_differently() -> None:
    """Most are refused; what is accepted is read the same way by all."""
    counts = fuzz.search(20_000, seed=3)
    assert not [name for name in counts if name[0].isupper()]
    assert counts["accepted"] > 300


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that took a length with a sign would be found out."""
    honest = fuzz._ours
    monkeypatch.setattr(
        fuzz, "_ours", lambda pieces: honest([b"".join(pieces).replace(b": +", b": ")])
    )
    counts = fuzz.search(20_000, seed=3)
    assert counts["Differs from h11"] > 0


def test_any_body_ends_in_rows_or_in_a_reason() -> None:
    """Some of them are stored, all others are refused with what is wrong."""
    counts = records.search(1500, seed=3)
    assert not [name for name in counts if name[0].isupper()]
    assert counts["200"] > 100 and counts["207"] > 3


def test_a_broken_way_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that isn't quoted, a reader that lets a fault through."""

    class Careless(FakeSink):
        def _answer(self, completion: Completion) -> None:
            self.rows = [row.replace(b'""', b'"') for row in self.rows]
            super()._answer(completion)

    with monkeypatch.context() as patched:
        patched.setattr(records, "FakeSink", Careless)
        assert records.search(300, seed=3)["Wrong"] > 0
    monkeypatch.setattr("stream.record.context.parse_json", lambda body: 1 // 0)
    assert records.search(300, seed=3)["Wrong"] > 0
