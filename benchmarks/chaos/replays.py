"""A user who corrects mappings and replays rejected records, while the API is killed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.e2e.processes import Deployment, wait_for

__all__ = ["Replays"]

_POLL_SECONDS = 0.3
_TASK_SECONDS = 90.0
_NO_API = (OSError, EOFError, ValueError, KeyError)


class Replays(threading.Thread):
    """Replays one sink after the other: sets a lenient mapping, replays, and restores the mapping.

    :param sinks: URLs of sinks, by type of table at the end.
    :param table: returns the table of the sink at a URL, strict or not.
    :param interval: seconds between two sinks.
    :ivar ends: number of tasks by outcome.
    :ivar stored: number of records stored according to the replays; unknown for lost tasks.
    """

    def __init__(
        self,
        deployed: Deployment,
        sinks: Sequence[str],
        table: Callable[[str, bool], dict[str, Any]],
        interval: float,
    ) -> None:
        super().__init__(daemon=True)
        self.ends: Counter[str] = Counter()
        self.stored = 0
        self._deployed = deployed
        self._sinks = sinks
        self._table = table
        self._interval = interval
        self._end = threading.Event()

    def finish(self) -> None:
        """Stop, and replay all remaining records. The cluster is healed."""
        self._end.set()
        self.join()
        for sink in self._sinks:
            # A task of a killed API holds the sink for some seconds.
            wait_for(lambda sink=sink: self._replay(sink), "a replay", _TASK_SECONDS)  # type: ignore[misc]

    def run(self) -> None:
        """Process one sink after the other until stopped."""
        number = 0
        while not self._end.wait(self._interval):
            sink = self._sinks[number % len(self._sinks)]
            self._replay(sink)
            self._task("strict", "PATCH", sink, self._change(sink, is_strict=True))
            number += 1

    def _replay(self, sink: str) -> bool:
        """Return whether the replay is known to have succeeded, with nothing left."""
        self._task("lenient", "PATCH", sink, self._change(sink, is_strict=False))
        outputs = self._task("replay", "POST", f"{sink}/rejected/replay", {})
        self.stored += outputs.get("stored", 0)
        return outputs.get("rejected") == 0

    def _change(self, sink: str, *, is_strict: bool) -> dict[str, Any]:
        return {"changeDescription": "chaos", "table": self._table(sink, is_strict)}

    def _task(self, name: str, method: str, url: str, body: Any) -> dict[str, Any]:
        """Run a task; return its outputs, if known."""
        try:
            status, task = self._deployed.call(method, url, body)
        except _NO_API:
            self.ends[f"{name}: no API"] += 1
            return {}
        if status != 202:
            self.ends[f"{name}: refused with {status}"] += 1
            return {}
        deadline = time.monotonic() + _TASK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
            try:
                status, latest = self._deployed.call("GET", task["url"])
            except _NO_API:
                continue
            if status == 200 and latest["isFinished"]:
                end = f"{name}: {latest['status']} {latest.get('error', '')}"
                self.ends[end.strip()[:100]] += 1
                return dict(latest.get("outputs") or {})
        self.ends[f"{name}: never ended"] += 1
        return {}
