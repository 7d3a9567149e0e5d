"""The compiled thread of a volume: its end, and data that it must not write."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.threadpool import ThreadPool

from stream.storage.network.interface import SyncLevel, WriterUnavailable
from stream.storage.writer.appender import THREADS, VolumeAppender
from stream.storage.writer.disk import open_disk_file
from stream.storage.writer.disk_thread import Outcome, disk_thread
from tests.storage.writer.rounds import choose_rounds

pytestmark = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="no eventfd here")


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_a_round_that_was_started_just_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The end of a round may start the next one, and then stop the thread."""
    choose_rounds(monkeypatch, "compiled")
    thread = disk_thread(reactor)
    assert thread is not None
    outcomes: list[Outcome] = []
    leaving: list[Deferred[bool]] = []
    has_begun: Deferred[None] = Deferred()
    descriptor = os.open(tmp_path / "slice", os.O_RDWR | os.O_CREAT)

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        thread.start((descriptor, 1), [b"b"], sync=True, ended=outcomes.append)
        leaving.append(ensureDeferred(thread.leave(20)))
        has_begun.callback(None)

    try:
        thread.start((descriptor, 0), [b"a"], sync=True, ended=ended)
        await has_begun
        assert await leaving[0]
    finally:
        os.close(descriptor)
    assert [outcome.is_success for outcome in outcomes] == [True, True]
    assert (tmp_path / "slice").read_bytes() == b"ab"
    assert not thread.is_idle


@pytest_twisted.ensureDeferred
async def test_damaged_data_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksum is compared before a compiled round writes anything."""
    choose_rounds(monkeypatch, "compiled")
    pool = ThreadPool(0, THREADS)
    pool.start()
    appender = VolumeAppender(reactor, pool, thread=disk_thread(reactor))
    path = tmp_path / "project" / "slice"
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="none", reserve=0)
    try:
        with pytest.raises(WriterUnavailable, match="damaged"):
            await appender.append(file, 0, b"bad!", SyncLevel.SYNCED, crc=1)
        assert path.read_bytes() == b""
        assert await appender.append(file, 0, b"good", SyncLevel.SYNCED, zlib.crc32(b"good")) == 4
        await appender.close(file)
        assert await appender.leave(20)
    finally:
        pool.stop()
    assert path.read_bytes() == b"good"
