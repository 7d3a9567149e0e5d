"""Work without a lake, for tests of the processes. It imports few modules."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stream.errors import UserError

__all__ = ["work"]


def work(job: dict[str, Any], slices: Iterator[Iterator[bytes]]) -> dict[str, Any]:
    """Do the work of the processes in these tests."""
    match job["do"]:
        case "error":
            raise UserError("refused", name="tableMisfit")
        case "fault":
            raise ZeroDivisionError("of ours")
        case "exit":
            os._exit(3)
        case "hang":
            while True:
                time.sleep(0.01)
        case "secret":
            return {"pid": os.getpid(), "command": Path("/proc/self/cmdline").read_text()}
    print("a library that prints is no answer")
    found = [sum(map(len, blocks)) for blocks in slices]
    return {"pid": os.getpid(), "found": found}
