from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import LogLevel, capturedLogs

from stream import node as node_module
from stream.errors import UserError
from stream.keboola.client import StorageApi
from stream.node import PoolService, StorageApiService

reactor: Any = _reactor


@pytest_twisted.ensureDeferred
async def test_a_thread_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop waits for it a short time, and the end of the process not at all."""
    monkeypatch.setattr(node_module, "LEAVE_SECONDS", 0.1)
    service = PoolService(reactor, "work", 2)
    service.startService()
    let_go = threading.Event()
    stuck = deferToThreadPool(reactor, service.pool, let_go.wait)
    began = reactor.seconds()
    await service.stopService()
    assert reactor.seconds() - began < 2
    assert not stuck.called
    assert all(thread.daemon for thread in service.pool.threads)
    let_go.set()
    await stuck


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_threads_that_end() -> None:
    """What was begun is finished."""
    service = PoolService(reactor, "work", 2)
    service.startService()
    let_go = threading.Event()
    working = deferToThreadPool(reactor, service.pool, let_go.wait)
    reactor.callLater(0.05, let_go.set)
    await service.stopService()
    assert await working


class _Api:
    """An API whose index comes when `answer` fires."""

    def __init__(self) -> None:
        self.answer: Deferred[None] = Deferred()
        self.closed = False

    async def index(self) -> None:
        await self.answer

    async def close(self) -> None:
        self.closed = True


def _api_service(api: _Api) -> StorageApiService:
    return StorageApiService(cast(StorageApi, api))


@pytest_twisted.ensureDeferred
async def test_the_start_does_not_wait_for_the_storage_api() -> None:
    """Its index is asked for; an API that is away costs a warning."""
    api = _Api()
    service = _api_service(api)
    with capturedLogs() as events:
        service.startService()
        api.answer.errback(UserError("nobody there", status=502))
    assert [(event["log_level"], event["log_format"]) for event in events] == [
        (LogLevel.info, "loading Storage API index without components"),
        (LogLevel.warn, "cannot load the Storage API index yet: {error}"),
    ]
    await service.stopService()
    assert api.closed


@pytest_twisted.ensureDeferred
async def test_a_stop_does_not_wait_for_the_index() -> None:
    """What hasn't come by then is given up, without a word."""
    api = _Api()
    service = _api_service(api)
    with capturedLogs() as events:
        service.startService()
        await service.stopService()
    assert api.closed
    assert len(events) == 1
