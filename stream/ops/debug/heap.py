"""Memory use of the process: objects by type, or allocations during a period."""

from __future__ import annotations

import gc
import resource
import sys
import time
import tracemalloc
from collections import Counter

__all__ = ["allocations", "objects"]

_SHOWN = 50
_KIBIBYTE = 1024


def objects() -> str:
    """Return the number of objects of each type.

    Only objects tracked by the garbage collector are counted; most numbers and strings aren't.
    """
    counts = Counter(type(found) for found in gc.get_objects())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        peak //= _KIBIBYTE  # macOS reports bytes
    lines = [f"{peak} KiB resident at most, {sum(counts.values())} objects"]
    lines += [
        f"{count:9d}  {kind.__module__}.{kind.__qualname__}"
        for kind, count in counts.most_common(_SHOWN)
    ]
    return "\n".join(lines) + "\n"


def allocations(seconds: float) -> str:
    """Return where memory was allocated that is still in use after *seconds*.

    Slows the process down while it runs. Call it in a separate thread, one call at a time.
    """
    tracemalloc.start()
    try:
        time.sleep(seconds)
        snapshot = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    found = snapshot.filter_traces(
        [tracemalloc.Filter(False, tracemalloc.__file__), tracemalloc.Filter(False, __file__)]
    ).statistics("lineno")
    total = sum(line.size for line in found)
    lines = [f"{total / _KIBIBYTE:.0f} KiB in {seconds:g} s"]
    lines += [
        f"{line.size / _KIBIBYTE:9.1f} KiB  {line.count:7d} blocks"
        f"  {line.traceback[0].filename}:{line.traceback[0].lineno}"
        for line in found[:_SHOWN]
    ]
    return "\n".join(lines) + "\n"
