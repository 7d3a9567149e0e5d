"""Threads that are left behind when they do not end."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThreadPool

from stream.ops.process import thread_pool as pool
from stream.ops.process.thread_pool import ThreadPoolService

reactor: Any = _reactor


@pytest_twisted.ensureDeferred
async def test_a_thread_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for it a short time, and the end of the process not at all."""
    monkeypatch.setattr(pool, "LEAVE_SECONDS", 0.1)
    service = ThreadPoolService(reactor, "work", 2)
    service.startService()
    without_frames = threading.Event()
    stuck = deferToThreadPool(reactor, service.pool, without_frames.wait)
    began = reactor.seconds()
    await service.stopService()
    assert reactor.seconds() - began < 2
    assert not stuck.called
    assert all(thread.daemon for thread in service.pool.threads)
    without_frames.set()
    await stuck


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_threads_that_end() -> None:
    """What was begun is finished."""
    service = ThreadPoolService(reactor, "work", 2)
    service.startService()
    without_frames = threading.Event()
    working = deferToThreadPool(reactor, service.pool, without_frames.wait)
    reactor.callLater(0.05, without_frames.set)
    await service.stopService()
    assert await working
