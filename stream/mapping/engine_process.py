"""The process that runs templates, which `stream.templates.process` starts.

A kernel timer limits the CPU time of the process. It doesn't count wall-clock time, so neither load
on the host nor a pause of the process makes a template look slow. The timer's signal isn't handled,
so it ends the process in any state. Exceeding the memory limit ends the process as well. The node
finds the number of the current record in a shared page.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from struct import Struct
from typing import Any

from stream.errors import UserError
from stream.mapping.engine_protocol import (
    BatchReader,
    FrameBuffer,
    decode_plan,
    encode_result,
    encode_results,
    frame,
)
from stream.mapping.evaluator import GROUP_RECORDS, Evaluator, Group
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.snippet import check_template

__all__ = ["NICENESS", "PAGE", "PAGE_BYTES", "PROGRESS", "Setting"]

INPUT, OUTPUT, PAGE = 0, 1, 3
"""File descriptors: frames from the node, frames to the node, the page with the progress."""

PROGRESS = Struct("<QIi")
"""Number of the batch, index of the record (or of the template that is parsed), its column."""

PAGE_BYTES = 4096
SLACK_SECONDS = 0.05
"""Time after which the timer is reset; not sooner, because a reset costs as much as a read."""

FLUSH_SECONDS = 0.002
"""How long results wait to be sent together with others."""

FLUSH_BYTES = 64 * 1024
STACK_BYTES = 16 * 1024 * 1024
NICENESS = 10
"""Gives the process a lower priority than the node."""

MEMORY_EXIT = 70
"""Exit code if Python, rather than the engine (which aborts), runs out of memory."""

_KEPT_SHARE = 4
"""A process that keeps more than this share of its memory limit is replaced."""

_LOOK_SECONDS = 0.02
"""Seconds between two checks of its memory; a check takes as long as a few records."""

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 256 * 1024


class Output:
    """Sends frames to the node.

    Note [One wake-up]: each write wakes the node, which has priority if both share a core. The node
    then appends the rows that it gets, and writes a group to the disk for them. So the results of a
    short batch are sent in one write, together with the end of the batch.
    """

    def __init__(self) -> None:
        self._serial = 0
        self._results: list[bytes] = []
        self._size = 0
        self._since = 0.0

    def begin(self, serial: int) -> None:
        """Begin the batch with the number *serial*."""
        self._serial = serial
        self._since = time.monotonic()

    def result(self, index: int, result: Evaluated) -> None:
        """Add the result of one record; send the results if there are many or they have waited."""
        data = encode_result(index, result)
        self._results.append(data)
        self._size += len(data)
        if self._size > FLUSH_BYTES or time.monotonic() - self._since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the pending results."""
        self._write(self._frame_of_results())
        self._since = time.monotonic()

    def end(self, *, is_full: bool) -> None:
        """Send the pending results and the end of the batch; see Note [One wake-up]."""
        end = frame(b"E", json.dumps([self._serial, is_full]).encode())
        self._write(self._frame_of_results() + end)

    def _frame_of_results(self) -> bytes:
        """Remove the pending results; return their frame, or empty bytes if there are none."""
        if not self._results:
            return b""
        results = frame(b"R", encode_results(self._serial, self._results))
        self._results.clear()
        self._size = 0
        return results

    def send(self, letter: bytes, data: bytes = b"") -> None:
        """Send a frame."""
        self._write(frame(letter, data))

    def _write(self, data: bytes) -> None:
        """Write to the node; if the node has ended, end this process as well."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(OUTPUT, view) :]
        except OSError:
            os._exit(0)


class KernelWatch:
    """Writes the progress to the page, and limits the CPU time with a kernel timer.

    :param seconds: limit of the CPU time of one record.
    """

    def __init__(self, page: mmap.mmap, seconds: float) -> None:
        self._page = page
        self._seconds = seconds
        self._fires = 0.0
        self._serial = 0
        self._ends = 0.0
        self._is_first = True

    def start(self, serial: int, seconds: float) -> None:
        """Start a batch; the records that remain after *seconds* are postponed."""
        self._serial = serial
        self._ends = time.process_time() + seconds
        self._is_first = True

    def begin(self, record: int, column: int, spent: float) -> bool:
        now = time.process_time()
        if now > self._ends and not self._is_first and (record or not column):
            return False
        self._is_first = False
        PROGRESS.pack_into(self._page, 0, self._serial, record, column)
        end = now + self._seconds - spent
        if not end <= self._fires <= end + SLACK_SECONDS:
            self._fires = end + SLACK_SECONDS
            signal.setitimer(signal.ITIMER_PROF, max(self._fires - now, SLACK_SECONDS))
        return True


class Setting:
    """The settings that an engine process gets when it starts.

    :ivar seconds: limit of the CPU time of one record.
    :ivar memory: memory limit of templates in bytes.
    """

    def __init__(self, text: str) -> None:
        plain = json.loads(text)
        self.seconds = float(plain["seconds"])
        self.memory = int(plain["memory"])
        self.parent = int(plain["parent"])


class Engine:
    """Executes the requests of the node."""

    def __init__(self, setting: Setting, page: mmap.mmap, memory: MemoryLimit) -> None:
        self._output = Output()
        self._watch = KernelWatch(page, setting.seconds)
        self._memory = memory
        self._evaluator = Evaluator(memory.threads_start)
        self._plans: dict[int, TemplatePlan] = {}
        self._looked = 0.0
        self._is_full = False

    def serve(self) -> None:
        """Serve until the node closes the connection."""
        self._output.send(b"H")
        buffer = FrameBuffer()
        while data := os.read(INPUT, _READ_BYTES):
            for letter, rest in buffer.feed(data):
                self._take(letter, rest)

    def _take(self, letter: bytes, data: bytes) -> None:
        if letter == b"P":
            number, plan = decode_plan(data)
            self._plans[number] = plan
        elif letter == b"D":
            del self._plans[json.loads(data)]
        elif letter == b"B":
            self._evaluate(BatchReader(data))
        elif letter == b"C":
            self._check(*json.loads(data))

    def _evaluate(self, batch: BatchReader) -> None:
        self._output.begin(batch.serial)
        self._watch.start(batch.serial, batch.seconds)
        records = batch.records
        start = 0
        while start < len(records):
            number = records[start][0]
            end = start + 1
            while end < len(records) and end - start < GROUP_RECORDS and records[end][0] == number:
                end += 1
            group = Group(
                self._plans[number],
                [record for _, record in records[start:end]],
                self._watch,
                start,
                self._output.result,
            )
            self._evaluator.evaluate(self._plans[number], group)
            if None in group.results:
                break
            start = end
        self._output.end(is_full=self._keeps_much())

    def _keeps_much(self) -> bool:
        """Return whether the process keeps so much memory that it should be replaced."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._is_full = self._memory.keeps_much()
        return self._is_full

    def _check(self, serial: int, templates: list[str]) -> None:
        faults: list[str | None] = []
        self._watch.start(serial, math.inf)
        began = time.process_time()
        for index, content in enumerate(templates):
            self._watch.begin(index, 0, time.process_time() - began)
            try:
                check_template(content)
            except UserError as error:
                faults.append(str(error))
            else:
                faults.append(None)
        self._output.send(b"K", json.dumps([serial, faults]).encode())


def _address_space() -> int:
    """Return the size of the process's address space in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0  # not on Linux; the limit isn't set there either
    return pages * mmap.PAGESIZE


def _die_with_parent(parent: int) -> None:
    """End the process when its parent ends, even if it doesn't see the end of its input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


class MemoryLimit:
    """The limit of this process's address space, which is the limit of its templates' memory.

    The size of a stack is added to the limit when its thread starts. If it were added earlier,
    templates could use the space of all stacks, half a gigabyte, as memory.

    :param memory: limit in bytes, in addition to the stacks and the current size of the process.
    """

    def __init__(self, memory: int) -> None:
        self._base = _address_space()
        self._memory = memory
        self._stacks = 1  # for the thread that serves the node
        self._set()

    def threads_start(self, count: int) -> None:
        """Raise the limit for the stacks of *count* threads.

        The limit is never lowered, because the stack of a thread stays mapped after its end.
        """
        if count + 1 > self._stacks:
            self._stacks = count + 1
            self._set()

    def keeps_much(self) -> bool:
        """Return whether the process keeps so much memory that it should be replaced."""
        return _address_space() > self._limit(self._memory // _KEPT_SHARE)

    def _limit(self, memory: int) -> int:
        return self._base + self._stacks * STACK_BYTES + memory

    def _set(self) -> None:
        if sys.platform == "linux":
            _, highest = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (self._limit(self._memory), highest))


def main() -> None:
    """Serve the node; the first argument contains the settings."""
    setting = Setting(sys.argv[1])
    _die_with_parent(setting.parent)
    os.chdir("/")
    page = mmap.mmap(PAGE, PAGE_BYTES)
    os.close(PAGE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    engine = Engine(setting, page, MemoryLimit(setting.memory))
    worker: Any = threading.Thread(target=_guarded, args=(engine,), daemon=True)
    worker.start()  # in a thread, whose stack has a known size
    worker.join()
    os._exit(0)


def _guarded(engine: Engine) -> None:
    try:
        engine.serve()
    except MemoryError:
        os._exit(MEMORY_EXIT)
    except BaseException:
        os._exit(1)
