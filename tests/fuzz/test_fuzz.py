"""A short run of `make fuzz`."""

from __future__ import annotations

import pytest

from stream.sink.outcome import Completion
from tests.fuzz import __main__ as fuzz
from tests.fuzz import records
from tests.source.http.test_handler import FakeSink


def test_no_input_is_parsed_differently() -> None:
    """Most inputs are refused; accepted ones are parsed the same way by all parsers."""
    counts = fuzz.search(20_000, seed=3)
    assert not [name for name in counts if name[0].isupper()]
    assert counts["accepted"] > 300


def test_a_difference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds a parser that accepts a length with a sign."""
    honest = fuzz._ours
    monkeypatch.setattr(
        fuzz, "_ours", lambda pieces: honest([b"".join(pieces).replace(b": +", b": ")])
    )
    counts = fuzz.search(20_000, seed=3)
    assert counts["Differs from h11"] > 0


def test_any_body_results_in_rows_or_an_error() -> None:
    """Some bodies are stored, and all others are refused with the reason."""
    counts = records.search(1500, seed=3)
    assert not [name for name in counts if name[0].isupper()]
    assert counts["200"] > 100 and counts["207"] > 3


def test_faults_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds an unquoted cell and a parser with an unexpected error."""

    class Careless(FakeSink):
        def _answer(self, completion: Completion) -> None:
            self.rows = [row.replace(b'""', b'"') for row in self.rows]
            super()._answer(completion)

    with monkeypatch.context() as patched:
        patched.setattr(records, "FakeSink", Careless)
        assert records.search(300, seed=3)["Wrong"] > 0
    monkeypatch.setattr("stream.record.context.parse_json", lambda body: 1 // 0)
    assert records.search(300, seed=3)["Wrong"] > 0
