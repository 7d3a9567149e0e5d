"""Additional checks, loaded by schemathesis: tasks end, and succeed."""

from __future__ import annotations

import time
from typing import Any

import requests
import schemathesis

__all__ = ["task_ends_well"]

_TASK_SECONDS = 30.0
_POLL_SECONDS = 0.02
_OUR_FAULT = "Unknown error"
_TOKEN = "X-StorageApi-Token"


@schemathesis.check
def task_ends_well(ctx: Any, response: Any, case: Any) -> None:
    """Check that a started task ends, and that a failed one has a reason for the user.

    The check waits for the end, so the next request doesn't meet a locked object.
    """
    if response.status_code != 202:
        return
    url = response.json()["url"]
    headers = {_TOKEN: response.request.headers[_TOKEN]}
    deadline = time.monotonic() + _TASK_SECONDS
    while time.monotonic() < deadline:
        task = requests.get(url, headers=headers, timeout=_TASK_SECONDS).json()
        if task["isFinished"]:
            assert task.get("error") != _OUR_FAULT, f"the task failed unexpectedly: {task}"
            return
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"the task did not end: {url}")
