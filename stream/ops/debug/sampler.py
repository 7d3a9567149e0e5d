"""A sampling profiler: one thread records the stacks of all threads many times a second.

Sampling costs little and shows the process as it normally runs; a tracing profiler would slow down
every call.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

__all__ = ["MAX_SECONDS", "Profile", "sample", "thread_stacks"]

MAX_SECONDS = 300.0
_INTERVAL_SECONDS = 0.005
_MAX_DEPTH = 100
_SHOWN = 30
_WAITING = ("(threading.py:", "(queue.py:", "(selectors.py:")


class Profile:
    """The stacks that a sampling profiler has recorded, with their counts.

    :ivar stacks: count of each stack; a stack begins with its outermost function.
    :ivar samples: number of samples.
    """

    def __init__(self) -> None:
        self.stacks: Counter[tuple[str, ...]] = Counter()
        self.samples = 0

    def add(self, stack: tuple[str, ...]) -> None:
        """Count a stack."""
        self.stacks[stack] += 1

    def folded(self) -> str:
        """Return one line for each stack, in the format of flame graph tools."""
        return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(self._items()))

    def _items(self) -> list[tuple[tuple[str, ...], int]]:
        return list(self.stacks.items())

    def summary(self) -> str:
        """Return the functions with the most time, with and without the time of their callees.

        Waiting threads are omitted; the reactor waits in ``doPoll``.
        """
        own: Counter[str] = Counter()
        whole: Counter[str] = Counter()
        for stack, count in self.stacks.items():
            if any(mark in stack[-1] for mark in _WAITING):
                continue
            own[stack[-1]] += count
            for function in set(stack):
                whole[function] += count
        total = max(1, self.samples)
        lines = [f"{self.samples} samples; share of them in the function itself, and below it:"]
        for function, count in own.most_common(_SHOWN):
            lines.append(
                f"{count / total:7.1%} {whole[function] / total:7.1%}  {function}",
            )
        return "\n".join(lines) + "\n"


def sample(seconds: float) -> Profile:
    """Sample all threads for *seconds*; call it in a separate thread.

    :param seconds: at most `MAX_SECONDS`.
    """
    profile = Profile()
    own = threading.get_ident()
    end = time.monotonic() + min(seconds, MAX_SECONDS)
    while time.monotonic() < end:
        profile.samples += 1
        for name, frame in _frames(own):
            profile.add((name, *_stack(frame)))
        time.sleep(_INTERVAL_SECONDS)
    return profile


def thread_stacks() -> str:
    """Return the current stack of each thread."""
    parts = []
    for name, frame in _frames(-1):
        parts.append(f"{name}:\n" + "".join(f"    {line}\n" for line in _stack(frame)))
    return "\n".join(parts)


def _frames(without: int) -> Iterator[tuple[str, FrameType]]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != without:
            yield names.get(ident, str(ident)), frame


def _stack(frame: FrameType | None) -> tuple[str, ...]:
    stack: list[str] = []
    while frame is not None and len(stack) < _MAX_DEPTH:
        code = frame.f_code
        stack.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        frame = frame.f_back
    return tuple(reversed(stack))
