"""The local stand-in keeps the contract the client relies on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.python.threadpool import ThreadPool

from stream.keboola import StorageApi
from stream.sandbox import SandboxService
from tests.keboola.contract import ALL, Target

reactor: Any = _reactor
TOKEN = "contract-master-token"


@pytest_twisted.async_yield_fixture()
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    """A fresh stand-in, a client of it, and a pool for staging."""
    service = SandboxService(
        reactor,
        listen="127.0.0.1:0",
        path=str(tmp_path / "sandbox"),
        token=TOKEN,
        project_id=123,
        branch_id=456,
    )
    pool = ThreadPool(0, 2)
    pool.start()
    await maybeDeferred(service.startService)
    api = StorageApi(reactor, service.url)
    try:
        yield Target(api, TOKEN, 123, 456, reactor, pool)
        await api.close()
        await maybeDeferred(service.stopService)
    finally:
        pool.stop()


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
@pytest_twisted.ensureDeferred
async def test_sandbox(target: Target, check: Callable[[Target], Awaitable[None]]) -> None:
    """Each part of the contract holds."""
    await check(target)
