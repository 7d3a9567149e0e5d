"""Metrics of the process, with and without /proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream import telemetry


def test_descriptors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors are counted in /proc or /dev/fd, or not at all."""
    before = telemetry.count_descriptors()
    assert before > 2
    with (tmp_path / "file").open("wb"):
        assert telemetry.count_descriptors() == before + 1
        monkeypatch.setattr(telemetry, "_DESCRIPTORS", (tmp_path / "none", Path("/dev/fd")))
        assert telemetry.count_descriptors() == before + 1
    monkeypatch.setattr(telemetry, "_DESCRIPTORS", (tmp_path / "none",))
    assert telemetry.count_descriptors() == 0
