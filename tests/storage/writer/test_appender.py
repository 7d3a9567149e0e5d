"""Rounds of appends: grouping, refusals, and a disk that hangs."""

from __future__ import annotations

import errno
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool

from stream import native
from stream.ops.process.thread_pool import AbandonableThreadPool
from stream.storage.network.interface import (
    SyncLevel,
    WriterError,
    WriterUnavailable,
    WrongOffset,
)
from stream.storage.writer import appender as appender_module
from stream.storage.writer.appender import THREADS, VolumeAppender
from stream.storage.writer.disk_thread import disk_threads


@attrs.define(eq=False)
class FakeFile:
    """A file in memory that may hang or fail.

    :ivar gate: writing waits until it is set.
    :ivar writes: number of appends in each write.
    """

    gate: threading.Event = attrs.Factory(threading.Event)
    data: bytes = b""
    writes: list[int] = attrs.Factory(list)
    syncs: int = 0
    promises: int = 0
    closed: bool = False
    sync_error: Exception | None = None
    together: threading.Barrier | None = None

    def __attrs_post_init__(self) -> None:
        self.gate.set()

    def append_many(self, appends: Any) -> list[int | WriterError]:
        self.gate.wait(10)
        self.writes.append(len(appends))
        results: list[int | WriterError] = []
        for offset, data in appends:
            if offset == len(self.data):
                self.data += data
                results.append(len(self.data))
            else:
                results.append(WrongOffset(len(self.data)))
        return results

    def sync(self) -> None:
        if self.together is not None:
            self.together.wait(10)
        self.syncs += 1
        if self.sync_error is not None:
            raise self.sync_error

    def check_linked(self) -> None:
        pass

    def promise(self) -> None:
        self.promises += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(0, THREADS)
    pool.start()
    yield pool
    pool.stop()


@pytest.fixture
def appender(pool: ThreadPool) -> VolumeAppender:
    return VolumeAppender(reactor, pool)


def _append(
    appender: VolumeAppender,
    file: FakeFile,
    offset: int,
    data: bytes = b"x",
    level: SyncLevel = SyncLevel.SYNCED,
    crc: int | None = None,
) -> Deferred[int]:
    return appender.append(file, offset, data, level, crc)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_a_round_serves_all_waiting_appends(appender: VolumeAppender) -> None:
    """Appends that arrive during a write are written and synced together."""
    first, second = FakeFile(), FakeFile()
    first.gate.clear()
    answers = [_append(appender, first, 0)]
    answers += [_append(appender, first, index) for index in range(1, 6)]
    answers += [_append(appender, second, index) for index in range(4)]
    first.gate.set()
    assert [await answer for answer in answers] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    assert (first.writes, first.syncs) == ([1, 5], 2)
    assert (second.writes, second.syncs) == ([4], 1)


@pytest_twisted.ensureDeferred
async def test_nothing_is_synced_in_cache_mode(appender: VolumeAppender) -> None:
    """The cache mode doesn't access the disk."""
    file = FakeFile()
    assert await _append(appender, file, 0, level=SyncLevel.WRITTEN) == 1
    assert (file.syncs, file.promises) == (0, 1)


@pytest_twisted.ensureDeferred
async def test_files_are_synced_in_parallel(appender: VolumeAppender) -> None:
    """The disk can serve several syncs at once."""
    blocked = FakeFile()
    blocked.gate.clear()
    held = _append(appender, blocked, 0, level=SyncLevel.WRITTEN)
    together = threading.Barrier(2)
    files = [FakeFile(together=together), FakeFile(together=together)]
    answers = [_append(appender, file, 0) for file in files]
    blocked.gate.set()
    assert [await answer for answer in [held, *answers]] == [1, 1, 1]


@pytest_twisted.ensureDeferred
async def test_a_failed_sync_fails_only_its_file(appender: VolumeAppender) -> None:
    """Appends with a lower level fail too, because the file has changed."""
    blocked, bad, good = FakeFile(), FakeFile(), FakeFile()
    blocked.gate.clear()
    held = _append(appender, blocked, 0)
    bad.sync_error = WriterUnavailable("the disk failed")
    failing = [
        _append(appender, bad, 0),
        _append(appender, bad, 1, level=SyncLevel.WRITTEN),
        _append(appender, bad, 7),
    ]
    fine = _append(appender, good, 0)
    blocked.gate.set()
    assert [await held, await fine] == [1, 1]
    for answer, kind in zip(failing, [WriterUnavailable] * 2 + [WrongOffset], strict=True):
        with pytest.raises(kind):
            await answer
    assert bad.promises == 0


@pytest_twisted.ensureDeferred
async def test_an_unexpected_failure_is_answered(appender: VolumeAppender) -> None:
    """All appends are answered, and the next round runs."""
    file = FakeFile()
    file.sync_error = RuntimeError("a fault of ours")
    with pytest.raises(WriterUnavailable):
        await _append(appender, file, 0)
    file.sync_error = None
    assert await _append(appender, file, 1) == 2


@pytest_twisted.ensureDeferred
async def test_a_round_without_a_thread_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is closed, and the disk used again, as soon as the host starts threads again."""
    monkeypatch.setattr(appender_module, "CLOSE_AGAIN_SECONDS", 0.01)
    pool, start = AbandonableThreadPool(0, THREADS), threading.Thread.start
    failed: list[threading.Thread] = []

    def fail(thread: threading.Thread) -> None:
        failed.append(thread)
        if len(failed) == 3:
            monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    pool.start()
    appender, file = VolumeAppender(reactor, pool), FakeFile()
    monkeypatch.setattr(threading.Thread, "start", fail)
    with capturedLogs() as entries:
        with pytest.raises(WriterUnavailable, match="no thread can be started"):
            await _append(appender, file, 0)
        assert not appender.held_bytes
        await appender.close(file)  # type: ignore[arg-type]
    assert file.closed
    assert [entry["log_format"][:12] for entry in entries] == ["cannot write"] + [
        "cannot close"
    ] * 2
    again = FakeFile()
    assert await _append(appender, again, 0) == 1
    await appender.close(again)  # type: ignore[arg-type]
    pool.stop()


@pytest_twisted.ensureDeferred
async def test_damaged_data_is_refused(appender: VolumeAppender) -> None:
    """No data is written, and the next append has an invalid offset."""
    file = FakeFile()
    good = _append(appender, file, 0, b"good", crc=zlib.crc32(b"good"))
    damaged = _append(appender, file, 4, b"bad!", crc=1)
    behind = _append(appender, file, 8, b"more", crc=zlib.crc32(b"more"))
    assert await good == 4
    with pytest.raises(WriterUnavailable, match="damaged"):
        await damaged
    with pytest.raises(WrongOffset):
        await behind
    assert file.data == b"good"


@pytest_twisted.ensureDeferred
async def test_a_file_is_closed_after_its_appends(appender: VolumeAppender) -> None:
    """Queued appends are written first, and other files aren't waited for."""
    file, other = FakeFile(), FakeFile()
    file.gate.clear()
    answer = _append(appender, file, 0)
    closed = appender.close(file)  # type: ignore[arg-type]
    await appender.close(other)  # type: ignore[arg-type]
    assert not closed.called
    file.gate.set()
    await closed
    assert (answer.called, await answer, file.closed) == (True, 1, True)


@pytest_twisted.ensureDeferred
async def test_opening_does_not_wait_for_appends(appender: VolumeAppender) -> None:
    """A volume with continuous writes still opens files."""
    file = FakeFile()
    file.gate.clear()
    answer = _append(appender, file, 0)
    assert await appender.run(lambda: "opened") == "opened"
    file.gate.set()
    await answer


@pytest_twisted.ensureDeferred
async def test_queued_bytes_are_limited(
    appender: VolumeAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders are first paused, and finally refused."""
    monkeypatch.setattr(appender_module, "QUEUE_LIMIT_BYTES", 100)
    monkeypatch.setattr(appender_module, "HIGH_WATERMARK_BYTES", 50)
    monkeypatch.setattr(appender_module, "LOW_WATERMARK_BYTES", 20)
    file = FakeFile()
    file.gate.clear()
    answers = [_append(appender, file, 0, bytes(40))]
    assert not appender.is_above_high_watermark
    answers.append(_append(appender, file, 40, bytes(40)))
    assert appender.is_above_high_watermark
    with pytest.raises(WriterUnavailable, match="too many bytes"):
        await _append(appender, file, 80, bytes(40))
    relaxed = appender.below_low_watermark()
    file.gate.set()
    await answers[0]
    await relaxed
    assert await answers[1] == 80
    assert not appender.is_above_high_watermark


@pytest_twisted.ensureDeferred
async def test_a_hanging_disk_is_detected(
    appender: VolumeAppender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other callers don't wait for it, and everything continues when it responds again."""
    monkeypatch.setattr(appender_module, "STUCK_SECONDS", 0.05)
    file = FakeFile()
    file.gate.clear()
    running = _append(appender, file, 0)
    queued = _append(appender, file, 1)
    with pytest.raises(WriterUnavailable, match="does not answer"):
        await queued
    assert appender.is_stuck
    with pytest.raises(WriterUnavailable, match="does not answer"):
        await _append(appender, file, 1)
    assert not running.called
    file.gate.set()
    assert await running == 1
    await deferLater(reactor, 0)
    assert not appender.is_stuck
    assert await _append(appender, file, 1) == 2


def test_without_a_compiled_thread_those_of_the_interpreter_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host starts no further thread, or the code isn't built."""

    def refuse(_: int) -> None:
        raise OSError(errno.EAGAIN, "no thread")

    monkeypatch.setattr(native, "is_built", True)
    monkeypatch.setattr(native, "DiskThread", refuse, raising=False)
    assert disk_threads(reactor) == []
    monkeypatch.setattr(native, "is_built", False)
    assert disk_threads(reactor) == []
