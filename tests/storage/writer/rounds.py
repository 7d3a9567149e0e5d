"""The two ways of running the rounds of a volume, for tests in which the disk fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from stream.storage.writer import disk, disk_thread
from stream.storage.writer.disk_thread import FileAppends

__all__ = ["ROUNDS", "PythonThread", "append_and_sync", "choose_rounds"]

ROUNDS = ("interpreted", "compiled")


class PythonThread:
    """Stands in for `stream.native.DiskThread`.

    It makes the system calls of `stream.storage.writer.disk`, so faults that a test puts there
    apply.
    """

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._ended: list[list[tuple[int, int, int, float]]] = []

    def start(self, files: Sequence[FileAppends]) -> None:
        """Run a round in a thread."""

        def run() -> None:
            self._ended.append([append_and_sync(*each) for each in files])
            os.eventfd_write(self._wake, 1)

        threading.Thread(target=run, daemon=True).start()

    def take(self) -> list[tuple[int, int, int, float]] | None:
        """Return the outcomes of the round, once."""
        return self._ended.pop() if self._ended else None


def append_and_sync(
    descriptor: int, offset: int, data: Sequence[bytes], sync: bool
) -> tuple[int, int, int, float]:
    """Do what a compiled thread does with one file; return the outcome."""
    module: Any = disk
    try:
        module._write_all(descriptor, data, offset)
    except OSError as error:
        return error.errno or 0, 0, 0, 0.0
    try:
        if sync:
            module.sync_data(descriptor, module.os)
    except OSError as error:
        return 0, error.errno or 0, 0, 0.0
    return 0, 0, os.fstat(descriptor).st_nlink, 0.001 if sync else 0.0


def choose_rounds(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Make volumes run their rounds in a *way* of `ROUNDS`, with the faults of the test."""
    chosen = SimpleNamespace(is_built=way == "compiled", DiskThread=PythonThread)
    monkeypatch.setattr(disk_thread, "native", chosen)
