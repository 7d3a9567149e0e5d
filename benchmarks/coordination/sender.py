"""A producer in the background that sends numbered records at a steady pace."""

from __future__ import annotations

import itertools
import json
import threading
from contextlib import suppress
from typing import Self

from tests.e2e.processes import request

__all__ = ["Sender"]


class Sender(threading.Thread):
    """Sends numbered records to one source while its context is open.

    :param pace: seconds between two of them.
    :ivar answers: status by number, 0 without an answer.
    """

    def __init__(self, url: str, pace: float) -> None:
        super().__init__(daemon=True)
        self.answers: dict[int, int] = {}
        self._url = url
        self._pace = pace
        self._end = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Send no further record; return when the last one has been answered."""
        self._end.set()
        self.join()

    def run(self) -> None:
        """Send records until stopped, and record the answer to each."""
        for number in itertools.count():
            body = json.dumps({"id": number}).encode()
            self.answers[number] = 0
            with suppress(OSError):
                self.answers[number], _ = request(
                    "POST", self._url, body, {"Content-Type": "application/json"}
                )
            if self._end.wait(self._pace):
                return
