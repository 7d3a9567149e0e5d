"""A short run of `make fuzz`."""

from __future__ import annotations

import pytest

from tests.fuzz import __main__ as fuzz


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
