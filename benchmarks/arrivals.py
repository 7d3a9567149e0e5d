"""Load at a fixed rate; latency is measured from the due time of a request."""

from __future__ import annotations

import json
import os
import subprocess

import attrs

from benchmarks.programs import open_loop_program
from benchmarks.setting import JSON_TYPE, Setting, record_body
from benchmarks.wrk import LOAD_CPU, pinned

__all__ = ["Arrivals", "arrivals"]


@attrs.frozen
class Arrivals:
    """The figures of a run at a fixed rate, in requests and milliseconds.

    :ivar due: requests that were due after the warm-up.
    :ivar answered: those with 2xx.
    :ivar refused: those with another status.
    :ivar late: those without an answer at the end; they count with the time that they have waited.
    """

    due: int
    answered: int
    refused: int
    late: int
    seconds: float
    p50: float
    p99: float
    max: float

    @property
    def rate(self) -> float:
        """Return answers with 2xx a second."""
        return self.answered / self.seconds


def arrivals(
    setting: Setting, url: str, rate: float, seconds: float, connections: int = 256
) -> Arrivals:
    """Send single records at *rate* for *seconds*. Raises Missing."""
    body = setting.folder / "arrivals.body"
    body.write_text(record_body())
    command = [
        *(str(open_loop_program()), "-url", url, "-rate", f"{rate:.3f}"),
        *("-seconds", f"{seconds:.3f}", "-connections", str(connections)),
        *("-type", JSON_TYPE, "-body", str(body)),
    ]
    ended = subprocess.run(
        pinned(LOAD_CPU, command),
        env={**os.environ, "GOMAXPROCS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return Arrivals(**json.loads(ended.stdout))
