"""Errors that no code handles are in the log."""

from __future__ import annotations

import gc
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from twisted.logger import globalLogPublisher

from stream.ops.logging.lines import LineObserver
from stream.ops.logging.unhandled import log_unhandled

SECRET = "123-456-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, str]]]]:
    """The lines that were logged."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log_unhandled()
    stream = io.StringIO()
    observer = LineObserver(stream)
    globalLogPublisher.addObserver(observer)
    yield lambda: [
        line
        for line in map(json.loads, stream.getvalue().splitlines())
        if line.get("component") == "ops.logging.unhandled"  # others may log meanwhile
    ]
    globalLogPublisher.removeObserver(observer)


class _Broken:
    """An object whose end and form fail."""

    def __del__(self) -> None:
        raise ValueError(f"token={SECRET}")

    def __repr__(self) -> str:
        raise RuntimeError


def test_an_error_without_a_caller(lines: Callable[[], list[dict[str, str]]]) -> None:
    """Its object may have no text form."""
    broken = [_Broken()]
    broken.clear()
    gc.collect()
    [line] = lines()
    assert line["level"] == "error"
    assert line["error.type"] == "ValueError"
    assert "_Broken.__del__" in line["message"]
    assert "__del__" in line["error.stack"]
    assert SECRET not in json.dumps(line)


def test_an_error_of_a_thread(lines: Callable[[], list[dict[str, str]]]) -> None:
    """A thread may end itself by SystemExit."""

    def fail() -> None:
        raise ValueError(f"Authorization: Bearer {SECRET}")

    for function in (fail, sys.exit):
        thread = threading.Thread(target=function, name="worker-7")
        thread.start()
        thread.join()
    [line] = lines()
    assert (line["message"], line["level"]) == ("the thread worker-7 has failed", "error")
    assert line["error.type"] == "ValueError"
    assert SECRET not in json.dumps(line)


def test_a_log_that_fails_does_not_hide_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python prints it then."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    log_unhandled()

    def fail(*args: object, **fields: object) -> None:
        raise OSError

    monkeypatch.setattr("stream.ops.logging.unhandled._log.failure", fail)
    broken = [_Broken()]
    broken.clear()
    gc.collect()
    thread = threading.Thread(target=int, args=("x",))
    thread.start()
    thread.join()
    printed = capsys.readouterr().err
    assert "Exception ignored in" in printed
    assert "invalid literal for int" in printed
