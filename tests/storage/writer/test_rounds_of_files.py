"""Random appends to a few files, whose rounds end late, fail or get no thread.

The answers and the files are compared with a model.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from stream.ops.process.thread_pool import NoThread
from stream.storage.network.interface import SyncLevel, WrongOffset
from stream.storage.writer import disk
from stream.storage.writer.appender import STUCK_SECONDS, VolumeAppender
from stream.storage.writer.disk import DiskFile, open_disk_file
from stream.storage.writer.disk_thread import FileAppends, Outcome
from tests.storage.writer.test_disk import FaultyDisk

FILES = 3
_ERRORS = (errno.EIO, errno.ENOSPC, errno.ENOMEM)
UNKNOWN = 5
"""The fault after which a compiled thread does not know whether a file was removed."""


@attrs.define(eq=False)
class _Client:
    """One source of appends: it sends ahead, and after a failure begins behind what is stored.

    :ivar stored: the acknowledged data.
    :ivar offset: where the next append belongs.
    :ivar pending: number of appends without an answer.
    :ivar has_failed: whether an append has failed since the last time that none was pending.
    :ivar may_fail: whether something has happened because of which appends may fail.
    """

    file: DiskFile
    path: Path
    stored: bytes = b""
    offset: int = 0
    pending: int = 0
    has_failed: bool = False
    may_fail: bool = False

    def answered(self) -> None:
        self.pending -= 1
        if not self.pending:
            self.may_fail = self.may_fail and self.has_failed
            self.has_failed = False
            self.offset = len(self.stored)


class _Thread:
    """A compiled thread whose rounds end when the model says so."""

    def __init__(self, world: _World) -> None:
        self._world = world
        self._files: list[FileAppends] = []
        self._ended: Callable[[list[Outcome]], None] | None = None

    @property
    def is_idle(self) -> bool:
        return self._ended is None

    def start(self, files: Sequence[FileAppends], ended: Callable[[list[Outcome]], None]) -> None:
        assert self.is_idle
        for descriptor, *_ in files:
            self._world.use(descriptor)
        self._files, self._ended = list(files), ended

    async def leave(self, seconds: float) -> bool:
        return True

    def end(self, fault: int) -> None:
        """End the round; the first file has a *fault*, 0 for none."""
        ended, self._ended = self._ended, None
        assert ended is not None
        outcomes = []
        for descriptor, offset, data, is_synced in self._files:
            outcomes.append(self._run(descriptor, offset, b"".join(data), is_synced, fault))
            self._world.leave(descriptor)
            fault = 0
        ended(outcomes)

    def _run(
        self, descriptor: int, offset: int, data: bytes, is_synced: bool, fault: int
    ) -> Outcome:
        if fault:
            self._world.note(descriptor, fault)
        if 0 < fault <= len(_ERRORS):
            os.pwrite(descriptor, data[: len(data) // 2], offset)
            return Outcome(_ERRORS[fault - 1], 0, 0, 0.0)
        os.pwrite(descriptor, data, offset)
        if fault == len(_ERRORS) + 1 and is_synced:
            return Outcome(0, errno.EIO, 0, 0.0)
        if is_synced:
            self._world.synced(descriptor)
        return Outcome(0, 0, -1 if fault else 1, 0.0)


class _Pool:
    """A pool whose jobs are run when the model says so."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Any, Any]] = deque()

    def callInThread(self, function: Any, *arguments: Any) -> None:
        """Do nothing: the round does without the help of other threads."""

    def callInThreadWithCallback(self, told: Any, function: Any, *arguments: Any) -> None:
        self.jobs.append((told, partial(function, *arguments)))

    def run(self) -> None:
        told, job = self.jobs.popleft()
        told(True, job())

    def refuse(self) -> None:
        told, _ = self.jobs.popleft()
        told(False, Failure(NoThread("no thread can be started")))


class _World:
    """A volume, its files, and the operations of the model."""

    def __init__(self, root: Path, threads: int) -> None:
        clock: Any = Clock()
        clock.callFromThread = lambda function, *arguments: function(*arguments)
        self.clock = clock
        self.pool = _Pool()
        self.threads = [_Thread(self) for _ in range(threads)]
        self.appender = VolumeAppender(self.clock, self.pool, threads=self.threads)  # type: ignore[arg-type]
        self.durable: dict[int, bytes] = {}
        self.errors: dict[str, int] = {}
        self.answers: list[tuple[Deferred[None], list[Failure]]] = []
        self._used: set[int] = set()
        self.clients = []
        for number in range(FILES):
            path = root / str(number)
            file = open_disk_file(path, root, life=1, resume=-1, compression="none", reserve=0)
            self.clients.append(_Client(file, path))

    # What is observed.

    def use(self, descriptor: int) -> None:
        assert descriptor not in self._used, "two threads append to one file"
        self._used.add(descriptor)

    def leave(self, descriptor: int) -> None:
        self._used.remove(descriptor)

    def synced(self, descriptor: int) -> None:
        self.durable[descriptor] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def note(self, descriptor: int, fault: int) -> None:
        """Note a *fault* of a compiled round: its appends may fail if the system had an error."""
        if fault <= len(_ERRORS) + 1:
            [client] = [each for each in self.clients if each.file._descriptor == descriptor]
            client.may_fail = True

    def _all_may_fail(self) -> None:
        for client in self.clients:
            client.may_fail = client.may_fail or client.pending > 0

    def system_call(self, name: str, descriptor: int, *arguments: Any) -> Any:
        """Make a system call of a Python thread, which may fail once."""
        assert descriptor not in self._used, "two threads append to one file"
        error = self.errors.pop(name, 0)
        if error:
            if name == "pwritev":
                data = b"".join(arguments[0])
                os.pwrite(descriptor, data[: len(data) // 2], arguments[1])
            raise OSError(error, os.strerror(error))
        result = getattr(os, name)(descriptor, *arguments)
        if name == "fdatasync":
            self.synced(descriptor)
        return result

    # Operations.

    def append(self, number: int, size: int, level: SyncLevel) -> None:
        client = self.clients[number]
        if client.file.broken or client.has_failed or client.pending > 6:
            return
        data = (b"%d" % (client.offset % 7)) * size
        offset, end = client.offset, client.offset + size
        client.offset, client.pending = end, client.pending + 1
        if self.appender.is_stuck:
            client.may_fail = True

        def stored(length: int) -> None:
            assert length == end
            assert len(client.stored) == offset, "answered out of order"
            client.stored += data
            assert client.path.read_bytes()[:length] == client.stored
            if level is SyncLevel.SYNCED:
                synced = self.durable[client.file._descriptor]
                assert synced[:length] == client.stored, "answered before the sync"
            client.answered()

        def failed(failure: Failure) -> None:
            assert client.may_fail, failure
            assert client.has_failed or failure.check(WrongOffset) is None, failure
            client.has_failed = True
            client.answered()

        problems: list[Failure] = []
        appended = self.appender.append(client.file, offset, data, level)
        done = appended.addCallbacks(stored, failed).addErrback(problems.append)
        self.answers.append((done, problems))

    def end_round(self, number: int, fault: int) -> None:
        running = [each for each in self.threads if not each.is_idle]
        if running:
            running[number % len(running)].end(fault)

    def run_job(self, call: str, error: int) -> None:
        if not self.pool.jobs:
            return
        if error:
            self._all_may_fail()
            self.errors = {call: error}
        self.pool.run()
        self.errors = {}

    def refuse_job(self) -> None:
        if self.pool.jobs:
            self._all_may_fail()
            self.pool.refuse()

    def advance(self, seconds: float) -> None:
        running = any(not each.is_idle for each in self.threads) or self.pool.jobs
        if running:
            self._all_may_fail()
        self.clock.advance(seconds)

    def leave_threads(self) -> None:
        ensureDeferred(self.appender.leave(1.0))

    def finish(self) -> None:
        """End everything, close the files, and compare them with what was acknowledged."""
        self._end_all()
        assert not self.appender.held_bytes
        assert not self.appender.is_stuck
        self.clock.advance(2 * STUCK_SECONDS)
        assert not self.appender.is_stuck
        for number in range(FILES):
            self.append(number, 3, SyncLevel.SYNCED)
            closed = self.appender.close(self.clients[number].file)
            self._end_all()
            assert closed.called
        for done, problems in self.answers:
            assert done.called
            for problem in problems:
                problem.raiseException()
        for client in self.clients:
            assert not client.pending
            assert client.path.read_bytes() == client.stored

    def _end_all(self) -> None:
        while self.pool.jobs or not all(each.is_idle for each in self.threads):
            self.end_round(0, 0)
            self.run_job("", 0)


_SMALL = st.integers(0, FILES - 1)
_OPERATIONS = st.one_of(
    st.tuples(st.just("append"), _SMALL, st.integers(1, 9), st.sampled_from(list(SyncLevel))),
    st.tuples(st.just("append"), _SMALL, st.just(4), st.just(SyncLevel.SYNCED)),
    st.tuples(st.just("end_round"), _SMALL, st.sampled_from([0, 0, 0, 0, 1, 2, 3, 4])),
    st.tuples(st.just("end_round"), _SMALL, st.just(UNKNOWN)),
    st.tuples(
        st.just("run_job"),
        st.sampled_from(["pwritev", "fdatasync", "ftruncate"]),
        st.sampled_from([0, 0, 0, *_ERRORS]),
    ),
    st.tuples(st.just("refuse_job")),
    st.tuples(st.just("leave_threads")),
    st.tuples(st.just("advance"), st.sampled_from([1.0, STUCK_SECONDS])),
)


def _append(number: int) -> tuple[Any, ...]:
    return "append", number, 4, SyncLevel.SYNCED


# A round fails while another Python thread is busy: what was behind it comes before what is new.
@example(
    2,
    [
        *map(_append, (0, 1, 1)),
        *[("end_round", 0, UNKNOWN)] * 2,
        _append(1),
    ],
)
# The threads are left while files wait for them.
@example(1, [*map(_append, (0, 0, 1, 2)), ("leave_threads",)])
@given(st.integers(0, 3), st.lists(_OPERATIONS, max_size=60))
def test_what_is_acknowledged_is_stored_in_order(
    threads: int, operations: Sequence[tuple[Any, ...]]
) -> None:
    """Every append is answered; it fails only after an error; files have what was acknowledged."""
    with tempfile.TemporaryDirectory() as directory:
        world = _World(Path(directory), threads)
        calls = {
            name: partial(world.system_call, name) for name in ("pwritev", "fdatasync", "ftruncate")
        }
        with mock.patch.object(disk, "os", FaultyDisk(**calls)):
            for name, *arguments in operations:
                getattr(world, name)(*arguments)
            world.finish()
