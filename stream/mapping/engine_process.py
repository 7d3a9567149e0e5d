"""The process in which templates run; `stream.templates.process` starts it and talks to it.

Processor time is limited with a timer of the kernel that counts what the process uses, not the time
of day: nothing else on the host, nor a stop of the process, makes a template look slow. The timer's
signal isn't handled and ends the process, whatever the template is doing; so does memory beyond the
limit. What it was working on then is in a page that the node can read.
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
from stream.mapping.evaluator import GROUP_RECORDS, MAX_LOOPS, Evaluator, Group
from stream.mapping.plan import Evaluated, TemplatePlan
from stream.mapping.snippet import check_template

__all__ = ["NICENESS", "PAGE", "PAGE_BYTES", "PROGRESS", "Setting"]

INPUT, OUTPUT, PAGE = 0, 1, 3
"""Descriptors: frames from the node, frames to it, the page that shows what is done."""

PROGRESS = Struct("<QIi")
"""Number of the batch, index of the record (of a template, if they are only read), its column."""

PAGE_BYTES = 4096
SLACK_SECONDS = 0.05
"""The timer is set again only after so much of it has run: setting costs as much as reading."""

FLUSH_SECONDS = 0.002
"""How long results are kept to be sent with others."""

FLUSH_BYTES = 64 * 1024
STACK_BYTES = 16 * 1024 * 1024
NICENESS = 10
"""The node's own work goes first."""

MEMORY_EXIT = 70
"""Exit code: no memory for Python, rather than for the engine, which aborts."""

_KEPT_SHARE = 4
"""A process that keeps more than this part of its memory is replaced."""

_PR_SET_PDEATHSIG = 1
_READ_BYTES = 256 * 1024


class Output:
    """Frames to the node.

    :ivar serial: of the batch that is worked on.
    """

    def __init__(self) -> None:
        self.serial = 0
        self._results: list[bytes] = []
        self._size = 0
        self._since = 0.0

    def result(self, index: int, result: Evaluated) -> None:
        """Add the result of one record; send the results when there are enough of them."""
        data = encode_result(index, result)
        self._results.append(data)
        self._size += len(data)
        if self._size > FLUSH_BYTES or time.monotonic() - self._since > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the results that wait."""
        if self._results:
            self.send(b"R", encode_results(self.serial, self._results))
            self._results.clear()
            self._size = 0
        self._since = time.monotonic()

    def send(self, letter: bytes, data: bytes = b"") -> None:
        """When the node has ended, so does the process."""
        view = memoryview(frame(letter, data))
        try:
            while view:
                view = view[os.write(OUTPUT, view) :]
        except OSError:
            os._exit(0)


class KernelWatch:
    """Notes what is done in the page, and has the kernel count the time for it.

    :param seconds: of processor time for one record.
    """

    def __init__(self, page: mmap.mmap, seconds: float) -> None:
        self._page = page
        self._seconds = seconds
        self._fires = 0.0
        self._serial = 0
        self._ends = 0.0
        self._is_first = True

    def start(self, serial: int, seconds: float) -> None:
        """A batch begins; what is left after *seconds* is left for later."""
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

    :ivar seconds: of processor time for one record.
    :ivar memory: bytes for templates.
    """

    def __init__(self, text: str) -> None:
        plain = json.loads(text)
        self.seconds = float(plain["seconds"])
        self.memory = int(plain["memory"])
        self.parent = int(plain["parent"])


class Engine:
    """Does what the node asks for."""

    def __init__(self, setting: Setting, page: mmap.mmap) -> None:
        self._output = Output()
        self._watch = KernelWatch(page, setting.seconds)
        self._evaluator = Evaluator()
        self._plans: dict[int, TemplatePlan] = {}
        self._kept_limit = _address_space() + setting.memory // _KEPT_SHARE

    def serve(self) -> None:
        """Until the node ends the connection."""
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
        self._output.serial = batch.serial
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
        self._output.flush()
        is_full = _address_space() > self._kept_limit + MAX_LOOPS * STACK_BYTES
        self._output.send(b"E", json.dumps([batch.serial, is_full]).encode())

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
    """Bytes of addresses that the process has."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0  # another kernel than Linux: it has no such limit either
    return pages * mmap.PAGESIZE


def _die_with_parent(parent: int) -> None:
    """Also if this process is stopped and doesn't see that its input ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _limit(setting: Setting) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    limit = _address_space() + MAX_LOOPS * STACK_BYTES + setting.memory
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Serve the node; the setting is the first argument."""
    setting = Setting(sys.argv[1])
    _die_with_parent(setting.parent)
    os.chdir("/")
    page = mmap.mmap(PAGE, PAGE_BYTES)
    os.close(PAGE)
    _limit(setting)
    engine = Engine(setting, page)
    worker: Any = threading.Thread(target=_guarded, args=(engine,), daemon=True)
    worker.start()  # with a stack of a known size
    worker.join()
    os._exit(0)


def _guarded(engine: Engine) -> None:
    try:
        engine.serve()
    except MemoryError:
        os._exit(MEMORY_EXIT)
    except BaseException:
        os._exit(1)
