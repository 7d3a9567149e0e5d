"""A user who keeps changing the sink, while the API is killed and restarted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.e2e.processes import Deployment

__all__ = ["SinkChanges"]

_POLL_SECONDS = 0.3
_TASK_SECONDS = 90.0
_NO_API = (OSError, EOFError, ValueError, KeyError)


class SinkChanges(threading.Thread):
    """Changes the mapping of a sink; each change closes the open file and opens another.

    :param sink: its URL.
    :param table: returns the sink's table for the change with a number.
    :param interval: seconds between two changes.
    :ivar ends: number of changes by outcome.
    """

    def __init__(
        self, deployed: Deployment, sink: str, table: Callable[[int], Any], interval: float
    ) -> None:
        super().__init__(daemon=True)
        self.ends: Counter[str] = Counter()
        self._deployed = deployed
        self._sink = sink
        self._table = table
        self._interval = interval
        self._end = threading.Event()

    def finish(self) -> None:
        """Start no further change, and wait for the last one to end."""
        self._end.set()
        self.join()

    def run(self) -> None:
        """Change the sink once in each interval until the end."""
        number = 0
        while not self._end.wait(self._interval):
            number += 1
            self.ends[self._change(number)] += 1

    def _change(self, number: int) -> str:
        try:
            body = {"changeDescription": f"change {number}", "table": self._table(number)}
            status, task = self._deployed.call("PATCH", self._sink, body)
        except _NO_API:
            return "no API"
        if status != 202:
            return f"refused with {status}"
        deadline = time.monotonic() + _TASK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            try:
                status, latest = self._deployed.call("GET", task["url"])
                if status == 200 and latest["isFinished"]:
                    return f"task {latest['status']} {latest.get('error', '')}".strip()[:100]
            except _NO_API:
                continue
        return "task never ended"
