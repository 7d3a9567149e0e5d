"""An engine that is a child process."""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.child import Child, PipeWriter, widen
from stream.mapping import engine_process
from stream.mapping.engine_protocol import (
    BatchItem,
    FrameBuffer,
    ProtocolError,
    decode_results,
    encode_batch,
    encode_plan,
    frame,
)
from stream.mapping.plan import TemplatePlan
from stream.templates.interface import Cause, End, EngineListener, Job

__all__ = ["ProcessEngine", "ProcessEngines"]

_log = Logger(namespace="templates")

MAX_PLANS = 64
"""Maximum number of plans in an engine; the least recently used one is evicted."""

_ENVIRONMENT = {
    # A heap for each thread would use up the memory limit.
    "MALLOC_ARENA_MAX": "1",
    # A panicking template must not spend time on a backtrace.
    "RUST_BACKTRACE": "0",
}
"""The engine's environment. It doesn't inherit this process's environment, which may contain
secrets.
"""

_MAIN = (
    f"import os; os.nice({engine_process.NICENESS}); "  # before anything that takes time
    f"from {engine_process.__name__} import main; main()"
)
_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class ProcessEngines:
    """Starts engines.

    :param seconds: CPU time limit of all templates of one record together.
    :param memory: memory limit of one engine's templates in bytes.
    """

    def __init__(self, reactor: Any, *, seconds: float, memory: int) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._memory = memory

    def __call__(self, listener: EngineListener, /) -> ProcessEngine:
        setting = {"seconds": self._seconds, "memory": self._memory, "parent": os.getpid()}
        return ProcessEngine(self._reactor, listener, json.dumps(setting))


class ProcessEngine(Child):
    """A `stream.templates.interface.TemplateEngine` in a child process.

    :ivar pid: ID of the process.
    """

    def __init__(self, reactor: Any, listener: EngineListener, setting: str) -> None:
        super().__init__()
        self._listener = listener
        self._frames = FrameBuffer()
        self._plans: OrderedDict[TemplatePlan, int] = OrderedDict()
        self._last_plan = 0
        self._is_ready = False
        self._is_lost = False
        self._is_killed = False
        self._is_broken = False
        with tempfile.TemporaryFile() as file, Path(os.devnull).open("wb") as nowhere:
            file.truncate(engine_process.PAGE_BYTES)
            self._page = mmap.mmap(file.fileno(), engine_process.PAGE_BYTES)
            transport = reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-P", "-s", "-c", _MAIN, setting],
                env={**_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                childFDs={
                    engine_process.INPUT: "w",
                    engine_process.OUTPUT: "r",
                    2: nowhere.fileno(),
                    engine_process.PAGE: file.fileno(),
                },
            )
        for pipe in transport.pipes.values():
            widen(pipe)
        self._input = PipeWriter(transport.pipes[engine_process.INPUT])
        self.pid: int = transport.pid

    # Work.

    def evaluate(self, serial: int, seconds: float, jobs: Sequence[Job], /) -> None:
        items = []
        for job in jobs:
            plan = job.plan
            number = self._plans.get(plan) or self._send_plan(plan)
            items.append(BatchItem(number, plan.needs_body, plan.needs_headers, job.record))
        for plan in {job.plan for job in jobs}:
            self._plans.move_to_end(plan)
        self._write(*encode_batch(serial, seconds, items))
        while len(self._plans) > MAX_PLANS:
            _, number = self._plans.popitem(last=False)
            self._write(frame(b"D", json.dumps(number).encode()))

    def _send_plan(self, plan: TemplatePlan) -> int:
        self._last_plan += 1
        number = self._plans[plan] = self._last_plan
        self._write(encode_plan(number, plan))
        return number

    def check(self, serial: int, templates: Sequence[str], /) -> None:
        self._write(frame(b"C", json.dumps([serial, list(templates)]).encode()))

    def _write(self, *parts: bytes) -> None:
        if not self._is_lost:
            self._input.write(parts)

    def kill(self) -> None:
        self._is_killed = True
        self.signal("KILL")

    def progress(self) -> object:
        return bytes(self._page[: engine_process.PROGRESS.size]), _processor_seconds(self.pid)

    # Results.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if self._is_lost:
            return
        try:
            for letter, rest in self._frames.feed(data):
                self._take(letter, rest)
        except ProtocolError as error:
            _log.error("killing a template engine: {reason}", reason=str(error))
            self._is_lost = self._is_broken = True
            self.signal("KILL")

    def _take(self, letter: bytes, data: bytes) -> None:
        listener = self._listener
        if letter == b"R":
            serial, results = decode_results(data)
            for index, result in results:
                listener.answered(self, serial, index, result)
        elif letter == b"E":
            serial, is_full = _two(data)
            listener.finished(self, serial, is_full=bool(is_full))
        elif letter == b"K":
            serial, faults = _two(data)
            listener.checked(self, serial, faults)
        elif letter == b"H":
            self._is_ready = True
            listener.ready(self)
        else:
            raise ProtocolError("an unknown kind of frame")

    def _progress(self) -> tuple[int, int, int]:
        serial, index, column = engine_process.PROGRESS.unpack_from(self._page, 0)
        return serial, index, column

    def end(self, reason: Failure) -> None:
        self._is_lost = True
        end = End(self._cause(reason.value), *self._progress())
        self._page.close()
        self._listener.ended(self, end)

    def _cause(self, status: Any) -> Cause:
        number = getattr(status, "signal", None)
        if not self._is_ready:
            return Cause.START
        if self._is_broken:
            return Cause.CRASH
        if self._is_killed or number in _OUTSIDE:
            return Cause.OUTSIDE
        return Cause.PROCESSOR if number == signal.SIGPROF else Cause.CRASH


def _two(data: bytes) -> tuple[Any, Any]:
    try:
        first, second = json.loads(data)
    except (ValueError, TypeError) as error:
        raise ProtocolError("a frame can't be read") from error
    return first, second


def _processor_seconds(pid: int) -> float:
    """Return the CPU time of a process; 0 if it can't be read."""
    try:
        return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
    except OSError:
        return 0.0
