"""The Storage API client as a service: start and stop don't wait for the API."""

from __future__ import annotations

from typing import cast

import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from stream.errors import UserError
from stream.target.keboola.client import StorageApi
from stream.target.keboola.service import StorageApiService


class _Api:
    """An API whose index is answered when `answer` fires."""

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
    """The index is requested, and an unavailable API results in a warning."""
    api = _Api()
    service = _api_service(api)
    with capturedLogs() as events:
        service.startService()
        api.answer.errback(UserError("nobody there", status=502))
    assert [(event["log_level"], event["log_format"]) for event in events] == [
        (LogLevel.info, "loading Storage API index without components"),
        (LogLevel.warn, "cannot load the Storage API index, later calls will load it: {error}"),
    ]
    await service.stopService()
    assert api.closed


@pytest_twisted.ensureDeferred
async def test_a_stop_does_not_wait_for_the_index() -> None:
    """A pending request of the index is cancelled without a log event."""
    api = _Api()
    service = _api_service(api)
    with capturedLogs() as events:
        service.startService()
        await service.stopService()
    assert api.closed
    assert len(events) == 1
