"""A sandbox in a separate process that kills itself at a named point of its work.

``python -m tests.sandbox.child <path> <point>`` prints its URL once it is ready.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import react

from stream.sandbox import csvrows, importer, rows, runner
from tests.sandbox.conftest import make_service


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(module: Any, name: str) -> None:
    setattr(module, name, lambda *_, **__: die())


def after(module: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        die()

    setattr(module, name, call)


def between_batches() -> None:
    original: Callable[..., Iterator[Any]] = csvrows.row_batches

    def batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
        for number, batch in enumerate(original(*args, **kwargs)):
            if number == 1:
                die()
            yield batch

    setattr(importer, "row_batches", batches)  # noqa: B010 — it is imported there by name


POINTS: dict[str, Callable[[], None]] = {
    "nowhere": lambda: None,
    "before the load": lambda: before(runner, "load"),
    "between batches": between_batches,
    "before the mark": lambda: before(rows, "mark_applied"),
    "before the rows are committed": lambda: after(rows, "mark_applied"),
    "after the rows are committed": lambda: before(runner, "_finish_import"),
    "before the end is committed": lambda: after(runner, "_finish_import"),
    "before a table is known": lambda: before(runner, "_finish_create"),
    "before a table is dropped": lambda: before(rows, "drop_tables"),
}


async def run(path: str, point: str) -> None:
    service = make_service(Path(path))
    await service.startService()
    POINTS[point]()
    print(service.url, flush=True)
    await Deferred()  # forever


if __name__ == "__main__":
    react(lambda _: ensureDeferred(run(sys.argv[1], sys.argv[2])), _reactor=reactor)
