"""A few hostile clients: the producer is still served, and memory and lease are stable."""

from __future__ import annotations

import pytest

from benchmarks.hostile import __main__ as hostile
from benchmarks.hostile.__main__ import run
from benchmarks.hostile.attacks import ATTACKS

SOME = (
    "bodies of 1 MB but for the last byte, 600 connections",
    "wrong secrets with 16 MB",
    "requests sent ahead, no answer read, 200 connections",
    "wrong secrets that never repeat, sent ahead",
    "gzip: a form of 5,000,000 fields",
    "zstd: a bomb of 512 MB",
    "gzip: 40,000 empty members",
    "OTLP: 20,000 records with 40 KB of attributes each",
    "API: wrong tokens with 16 MB, 60 connections",
    "API: a template of 24 brackets",
    "template: records that never end",
)


def test_a_producer_is_served_during_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record of the producer is answered with 200."""
    monkeypatch.setattr(hostile, "SETTLE_SECONDS", 2.0)  # latency isn't compared here
    chosen = [attack for attack in ATTACKS if attack.name in SOME]
    assert len(chosen) == len(SOME)
    rows = run(chosen, seconds=2, scale=4)
    assert [row.name for row in rows[1:-1]] == [attack.name for attack in chosen]
    for row in rows:
        assert row.answers.keys() == {"200"}, row
        assert row.leases_lost == 0, row
        assert row.mib_with_children < row.max_mib, row


def test_names_of_attacks_are_unique() -> None:
    """The command line selects attacks by name."""
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 60
