"""The process that writes to a lake; started by `stream.target.lake.workers`.

It runs one job after another. Its arguments are the module with the function ``work``, and the ID
of the node's process. It ends when its input ends or the node's process ends.
"""

from __future__ import annotations

import ctypes
import importlib
import io
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stream.errors import UserError
from stream.staging.errors import StagingError
from stream.target.lake.frames import (
    INPUT,
    MAX_LINE,
    OUTPUT,
    ROWS,
    LakeUnusable,
    failure,
    slices_of,
)
from stream.values.redaction import hide_secrets

__all__ = ["NICENESS", "Work", "main"]

NICENESS = 5
"""Niceness of the process, which gives it a lower priority than the node."""

MAX_SHOWN = 2000
"""Maximum length of an unexpected error in characters."""

_PR_SET_PDEATHSIG = 1

Work = Callable[[dict[str, Any], Iterator[Iterator[bytes]]], dict[str, Any]]
"""Runs a job with the slices of its file and returns the answer."""


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _answer(work: Work, job: dict[str, Any], rows: Callable[[int], bytes]) -> bytes:
    slices = slices_of(rows, job.get("slices", 0))
    try:
        answer = work(job, slices)
        for rest in slices:
            for _ in rest:
                pass
        return json.dumps(answer).encode() + b"\n"
    except UserError as error:
        return failure(error)
    except LakeUnusable as error:
        return failure(error)
    except StagingError as error:
        return failure(LakeUnusable(str(error)))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = hide_secrets(str(error)[:MAX_SHOWN])
        where = f"{Path(place.filename).name}:{place.lineno}"
        return failure(f"{type(error).__name__}: {text} ({where})")


def main() -> None:
    """Run the process."""
    module, parent = sys.argv[1:3]
    _die_with_parent(int(parent))
    work: Work = importlib.import_module(module).work
    jobs = open(INPUT, "rb", buffering=0)  # noqa: PTH123, SIM115
    lines = io.BufferedReader(jobs, MAX_LINE)
    rows = io.BufferedReader(open(ROWS, "rb", buffering=0), 256 * 1024)  # noqa: PTH123, SIM115
    # A library's output must not be mistaken for an answer.
    output = os.dup(OUTPUT)
    os.dup2(2, OUTPUT)
    while line := lines.readline(MAX_LINE):
        view = memoryview(_answer(work, json.loads(line), rows.read))
        while view:
            view = view[os.write(output, view) :]
    os._exit(0)
