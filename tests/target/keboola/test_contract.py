"""The contract that the client relies on, for the sandbox and optionally for a real project."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import maybeDeferred
from twisted.python.threadpool import ThreadPool

from stream.sandbox import SandboxService
from stream.target.keboola import StorageApi
from tests.target.keboola.contract import ALL, Target
from tests.target.keboola.shapes import DOCUMENTED, Recorder, problems_of

reactor: Any = _reactor
TOKEN = "contract-master-token"
HOST = "STREAM_TEST_STORAGE_API_HOST"
PROJECT_TOKEN = "STREAM_TEST_STORAGE_API_TOKEN"
SHAPES = "STREAM_TEST_SHAPES"
IS_GIVEN = bool(os.environ.get(HOST) and os.environ.get(PROJECT_TOKEN))
NOT_GIVEN = f"{HOST} and {PROJECT_TOKEN} are not set"


@pytest_twisted.async_yield_fixture()
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    """A new sandbox, a client of it, and a pool for staging."""
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
async def test_the_sandbox_meets_the_contract(
    target: Target, check: Callable[[Target], Awaitable[None]]
) -> None:
    """Each part of the contract holds."""
    await check(target)


@pytest_twisted.async_yield_fixture()
async def project() -> AsyncIterator[Target]:
    """A real project, if the environment names one by host or URL and a master token."""
    host, token = os.environ[HOST], os.environ[PROJECT_TOKEN]
    api, pool = StorageApi(reactor, host), ThreadPool(0, 2)
    pool.start()
    try:
        info = await api.verify_token(token)
        (branch,) = [each for each in await api.branches(token) if each.is_default]
        yield Target(api, token, info.project_id, branch.id, reactor, pool)
    finally:
        await api.close()
        pool.stop()


@pytest.mark.skipif(not IS_GIVEN, reason=NOT_GIVEN)
@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
@pytest_twisted.ensureDeferred
async def test_real_project(project: Target, check: Callable[[Target], Awaitable[None]]) -> None:
    """Each part of the contract holds for the real API."""
    await check(project)


async def _check_shapes(target: Target) -> None:
    """Run the whole contract and compare each request and answer with the documentation.

    ``STREAM_TEST_SHAPES`` names a file for the shapes: names and types, without values.
    """
    recorder = Recorder()
    recorder.watch(target.api)
    for check in ALL:
        await check(target)
    if os.environ.get(SHAPES):
        recorder.write(Path(os.environ[SHAPES]))
    assert recorder.seen.keys() == DOCUMENTED.keys()
    found = {call: problems_of(DOCUMENTED[call], seen) for call, seen in recorder.seen.items()}
    assert not {call: problems for call, problems in found.items() if problems}


@pytest_twisted.ensureDeferred
async def test_shapes_of_the_sandbox(target: Target) -> None:
    """Each call of the contract is sent and answered with the documented members and types."""
    await _check_shapes(target)


@pytest.mark.skipif(not IS_GIVEN, reason=NOT_GIVEN)
@pytest_twisted.ensureDeferred
async def test_shapes_of_a_real_project(project: Target) -> None:
    """Each call of a real project has the documented members and types."""
    await _check_shapes(project)
