"""Lines for a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger

from stream.ops.logging import control as control_module
from stream.ops.logging.control import LogControl
from stream.ops.logging.terminal import terminal_lines

_TIME = "2026-01-02T03:04:05.678Z"


def _line(**fields: Any) -> str:
    line = {"time": _TIME, "level": "info", "message": "hello", **fields}
    return terminal_lines(line, has_colour=False)


def test_events_of_level_info() -> None:
    """The time has no date, and fields and component aren't shown."""
    text = _line(component="etcd", rows=4)
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello\n", text)


@pytest.mark.parametrize("level", ["debug", "warn", "error"])
def test_other_levels(level: str) -> None:
    """A line has level, message, component and fields."""
    text = _line(level=level, component="etcd", rows=4, **{"file.id": "f"})
    assert text[9:] == f"{level.upper():<5} hello [etcd] rows=4 file.id=f\n"
    assert _line(level=level)[9:] == f"{level.upper():<5} hello\n"
    assert _line(level=level, suppressed=0)[9:] == f"{level.upper():<5} hello\n"
    assert _line(level=level, suppressed=2)[9:] == f"{level.upper():<5} hello suppressed=2\n"


def test_stack() -> None:
    """The stack follows the line, indented."""
    text = _line(level="error", **{"error.stack": "a\n b"})
    assert text.endswith("ERROR hello\n    a\n     b\n")


def test_colour() -> None:
    """A warning is yellow and an error red; control characters in values are escaped."""
    line = {"time": _TIME, "level": "warn", "message": "\x1b[2J", "component": "c"}
    text = terminal_lines(line, has_colour=True)
    assert "\x1b[33mWARN  \\x1b[2J\x1b[0m" in text
    assert "\x1b[2J" not in text
    assert "\x1b[31m" in terminal_lines({**line, "level": "error"}, has_colour=True)
    assert "\x1b" not in terminal_lines(line, has_colour=False)


def test_debug_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, state changes are shown only at level debug."""
    monkeypatch.setattr(control_module, "form_for", lambda _: "terminal")
    monkeypatch.setenv("NO_COLOR", "1")
    for levels, expected in (({}, ["ready", "late"]), ({"x": "debug"}, ["ready", "moved", "late"])):
        monkeypatch.setattr("sys.__stdout__", (tmp_path / "out").open("w"))
        log = Logger(namespace="stream.x", observer=LogControl(levels=levels).observer)
        log.info("ready", log_terminal="ready")
        log.info("moved")
        log.warn("late")
        words = (tmp_path / "out").read_text().split()
        assert [word for word in words if word in {"ready", "moved", "late"}] == expected
