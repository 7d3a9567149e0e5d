"""Attempts to import a file that end at any point around the start of its job."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from stream.etcd import EtcdClient
from stream.target.keboola.provider import load_file_record
from tests.storage.histories.world import SINK_KEY
from tests.target.keboola.bridge import TABLE_ID, Bridge, running_bridge

ROUNDS = int(os.environ.get("STREAM_CRASHES", "10"))
POINTS = (
    "before the call is recorded",
    "before the call",
    "after the call",
    "before its id is stored",
    "after its id is stored",
    "while waiting",
)


class Crash(BaseException):
    """Simulated end of the process; handlers of exceptions must not continue."""


@pytest_twisted.async_yield_fixture()
async def bridge(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[Bridge]:
    async with running_bridge(etcd, tmp_path) as running:
        yield running


async def crash(*_: Any, **__: Any) -> Any:
    raise Crash


def arm(bridge: Bridge, patch: pytest.MonkeyPatch, point: str) -> None:
    """Let the next attempt end at *point*."""
    importer, api = bridge.importer, bridge.api
    call, store = api.import_async, importer._store_job

    async def after_call(*arguments: Any, **options: Any) -> Any:
        await call(*arguments, **options)
        raise Crash

    async def after_store(*arguments: Any) -> Any:
        await store(*arguments)
        raise Crash

    where, name, what = {
        POINTS[0]: (importer, "_asking", crash),
        POINTS[1]: (api, "import_async", crash),
        POINTS[2]: (api, "import_async", after_call),
        POINTS[3]: (importer, "_store_job", crash),
        POINTS[4]: (importer, "_store_job", after_store),
        POINTS[5]: (api, "wait_job", crash),
    }[point]
    patch.setattr(where, name, what)


@pytest_twisted.ensureDeferred
async def test_no_row_is_duplicated(bridge: Bridge) -> None:
    """Each file's rows are imported once, wherever and however often attempts end."""
    chance, seen, rows = random.Random(), Counter[str](), 0
    for number in range(ROUNDS):
        if number:
            bridge.storage.tick()
            await bridge.do("disable_sink", SINK_KEY)
            bridge.storage.tick()
            await bridge.do("enable_sink", SINK_KEY)
            file = await bridge.staged_file(b'"a"\n"b"\n')
        else:
            file = await bridge.importing_file(b'"a"\n"b"\n')
        rows += 2
        for _ in range(chance.randint(1, 3)):
            point = chance.choice(POINTS)
            with pytest.MonkeyPatch.context() as patch:
                arm(bridge, patch, point)
                try:
                    await bridge.importer.import_file(file)
                except Crash:
                    seen[point] += 1
        await bridge.importer.import_file(file)
        record = await load_file_record(bridge.storage.client, file.key)
        assert record.storage_job_id is not None
        assert await bridge.sandbox.rows_count(TABLE_ID) == rows, dict(seen)
        await bridge.storage.to_imported(file.key)
    print(f"{ROUNDS} files, {rows} rows, crashes: {dict(seen)}")
