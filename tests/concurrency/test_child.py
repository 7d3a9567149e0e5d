"""A child process: signals, its end, and waiting for the end."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from random import Random
from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.error import ConnectionDone, ConnectionLost, ProcessTerminated
from twisted.internet.process import ProcessReader
from twisted.python.failure import Failure

from stream.concurrency.child import PIPE_BYTES, Child, PipeWriter, widen
from tests.waiting import until

reactor: Any = _reactor

_STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(1, flush=True)
time.sleep(60)
"""
_POLITE = "import time; print(1, flush=True); time.sleep(60)"


class _Known(Child):
    """Records the child's output and end."""

    def __init__(self) -> None:
        super().__init__()
        self.said = b""
        self.how: list[Failure] = []

    def outReceived(self, data: bytes) -> None:
        self.said += data

    def end(self, reason: Failure) -> None:
        assert not self.is_running
        self.how.append(reason)


async def _spawned(code: str) -> _Known:
    child = _Known()
    reactor.spawnProcess(child, sys.executable, [sys.executable, "-c", code], env={})
    assert child.is_running
    await until(lambda: child.said)
    return child


@pytest_twisted.ensureDeferred
async def test_stop() -> None:
    """SIGTERM stops most children; all waiters are fired after `end`."""
    child = await _spawned(_POLITE)
    ended = [child.ended(), child.ended()]
    seen: list[int] = []
    ended[0].addCallback(lambda _: seen.append(len(child.how)))
    assert await child.stop(reactor, 60.0)
    assert seen == [1]
    assert all(each.called for each in ended)
    assert child.how[0].check(ProcessTerminated)


@pytest_twisted.ensureDeferred
async def test_child_that_ignores_the_stop_is_killed() -> None:
    """A child that ignores SIGTERM is killed after the given time."""
    child = await _spawned(_STUBBORN)
    assert not await child.stop(reactor, 0.1)
    assert getattr(child.how[0].value, "signal", None) == signal.SIGKILL


@pytest_twisted.ensureDeferred
async def test_signals_after_the_end() -> None:
    """Signals after the end are ignored, and waiting ends at once."""
    child = await _spawned("print(1)")
    await child.ended()
    child.signal("TERM")
    assert child.ended().called
    assert await child.stop(reactor, 60.0)


def test_a_child_that_was_not_spawned() -> None:
    """The child isn't running, and waiting ends at once."""
    child = Child()
    child.signal("TERM")
    assert not child.is_running
    assert child.ended().called


class _Process:
    """A process protocol that collects the content of a child's pipe."""

    def __init__(self) -> None:
        self.received: list[tuple[int, int]] = []

    def childDataReceived(self, name: int, data: bytes) -> None:
        self.received.append((name, len(data)))


def test_a_wide_pipe_is_read_at_once() -> None:
    """After a full read, all content of a wide pipe is read at once; its end is noticed."""
    process = _Process()
    read, write = os.pipe()
    pipe = ProcessReader(reactor, process, 1, read)
    widen(pipe)
    try:
        assert pipe.doRead() is None  # the pipe is still empty
        os.write(write, bytes(60_000))
        assert pipe.doRead() is None
        assert process.received == [(1, 60_000)]
        os.set_blocking(write, False)
        assert os.write(write, bytes(900_000)) == 900_000  # the system takes as much at once
        for _ in range(2):
            assert pipe.doRead() is None
        assert process.received[1:] == [(1, 65_536), (1, 900_000 - 65_536)]
        os.close(write)
        assert isinstance(pipe.doRead(), ConnectionDone)
    finally:
        pipe.stopReading()
        os.close(read)
    assert isinstance(pipe.doRead(), ConnectionLost)


_DIGEST = """
import hashlib, sys
print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), flush=True)
"""


@pytest_twisted.ensureDeferred
async def test_large_data_is_written_in_pieces() -> None:
    """All bytes arrive in order, and at most a piece waits in the pipe's own buffer."""
    child = _Known()
    transport = reactor.spawnProcess(child, sys.executable, [sys.executable, "-c", _DIGEST])
    pipe = transport.pipes[0]
    widen(pipe)
    writer = PipeWriter(pipe)
    waiting: list[int] = []
    write_some = pipe.writeSomeData

    def observe(data: Any) -> Any:
        waiting.append(len(data))
        return write_some(data)

    pipe.writeSomeData = observe
    random, digest = Random(1), hashlib.sha256()
    for sizes in ((5,), (0, 3 * PIPE_BYTES + 7, 10, PIPE_BYTES), (), (1, 2, 3), (PIPE_BYTES,)):
        parts = [random.randbytes(size) for size in sizes]
        writer.write(parts)
        digest.update(b"".join(parts))
    await until(lambda: not writer.is_writing)
    transport.closeStdin()
    await child.ended()
    assert child.said.decode().strip() == digest.hexdigest()
    assert max(waiting) <= PIPE_BYTES


@pytest_twisted.ensureDeferred
async def test_data_for_a_child_that_has_ended_is_dropped() -> None:
    """Nothing is kept for it, and later data isn't, either."""
    child = _Known()
    transport = reactor.spawnProcess(
        child, sys.executable, [sys.executable, "-c", "import os; os.close(0); print(1)"]
    )
    writer = PipeWriter(transport.pipes[0])
    writer.write([bytes(8 * PIPE_BYTES)])
    await child.ended()
    writer.write([bytes(8 * PIPE_BYTES)])
    assert not writer.is_writing
