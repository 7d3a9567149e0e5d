from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.target.keboola import StorageApi
from tests.target.keboola.scripted import Say, ScriptedServer

Serve = Callable[..., tuple[StorageApi, ScriptedServer]]


@pytest_twisted.async_yield_fixture()
async def serve() -> AsyncIterator[Serve]:
    """A function that starts a scripted server and a client of it."""
    reactor: Any = _reactor
    started: list[tuple[StorageApi, ScriptedServer]] = []

    def start(*script: Say, budget: float = 30.0, **options: Any) -> tuple[Any, Any]:
        server = ScriptedServer(list(script))
        started.append((StorageApi(reactor, server.url, budget=budget, **options), server))
        return started[-1]

    yield start
    for api, server in started:
        await api.close()
        await server.stop()
