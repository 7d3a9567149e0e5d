"""Settings shared by all sections of a benchmark: directory, duration, rounds, table cells."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import attrs

from benchmarks.wrk import Figure, write_script

__all__ = ["BODY_BYTES", "JSON_TYPE", "Setting", "cell", "record_body"]

BODY_BYTES = 1024
JSON_TYPE = "application/json"

_numbers = count()


@attrs.frozen
class Setting:
    """The setting of the benchmarks.

    :ivar folder: folder of files and data; removed at the end.
    :ivar seconds: duration of each run.
    :ivar rounds: number of measurements of each subject, alternating with the others.
    """

    folder: Path
    seconds: int
    rounds: int

    def data(self) -> Path:
        """Return a new path for data."""
        return self.folder / f"data-{next(_numbers)}"

    def script(self, content_type: str, body: str | bytes, delay_ms: float | None = None) -> Path:
        """Return a new path for a script of wrk."""
        path = self.folder / f"script-{next(_numbers)}.lua"
        return write_script(path, content_type, body, delay_ms)

    def single(self) -> Path:
        """Return the script that sends single records."""
        return self.script(JSON_TYPE, record_body())


def record_body(size: int = BODY_BYTES) -> str:
    """Return a JSON record of *size* bytes."""
    padding = "x" * (size - len('{"user":{"name":"Ada"},"padding":""}'))
    return json.dumps({"user": {"name": "Ada"}, "padding": padding}, separators=(",", ":"))


def cell(runs: Sequence[Figure], records: int = 1) -> str:
    """Return median and range of the records per second, with *records* in a request."""
    rates = sorted(run.rate * records for run in runs)
    return f"{statistics.median(rates):,.0f} ({rates[0]:,.0f}–{rates[-1]:,.0f})"
