"""Sandboxes that are killed. Each runs in a separate process and kills itself with SIGKILL."""

from __future__ import annotations

import random
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from tests.sandbox.api import BUCKET, TABLE, Api, csv_rows, sleep
from tests.sandbox.conftest import make_service

ROOT = Path(__file__).parents[2]
ROWS = 20_000


class Child(ProcessProtocol):
    """The process of a sandbox: its URL when it is ready, and its end."""

    def __init__(self, path: Path, point: str) -> None:
        self.ready: Deferred[str] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self._output = b""
        self._errors = b""
        args = [sys.executable, "-m", "tests.sandbox.child", str(path), point]
        self._process = reactor.spawnProcess(self, sys.executable, args, env=None, path=str(ROOT))

    def outReceived(self, data: bytes) -> None:
        self._output += data
        if b"\n" in self._output and not self.ready.called:
            self.ready.callback(self._output.decode().strip())

    def errReceived(self, data: bytes) -> None:
        self._errors += data

    def processEnded(self, reason: Failure) -> None:
        if not self.ready.called:
            self.ready.errback(RuntimeError(self._errors.decode("utf-8", "replace")))
        self.ended.callback(None)

    async def death(self) -> None:
        """Fires when the process has killed itself; fails if it continues."""
        await self.ended.addTimeout(60, reactor)

    async def kill(self) -> None:
        try:
            self._process.signalProcess("KILL")
        except ProcessExitedAlready:
            return
        await self.ended


@asynccontextmanager
async def running(path: Path, point: str = "nowhere") -> AsyncIterator[tuple[Api, Child]]:
    child = Child(path, point)
    try:
        yield Api(await child.ready), child
    finally:
        await child.kill()


@asynccontextmanager
async def restarted(path: Path) -> AsyncIterator[Api]:
    service = make_service(path)
    await service.startService()
    try:
        yield Api(service.url)
    finally:
        await service.stopService()


def ids(path: Path) -> list[str]:
    data = sqlite3.connect(path / "project-123" / "data.sqlite")
    try:
        return [row[0] for row in data.execute(f'SELECT id FROM "{TABLE}"')]
    finally:
        data.close()


def tables(path: Path) -> set[str]:
    data = sqlite3.connect(path / "project-123" / "data.sqlite")
    try:
        names = {row[0] for row in data.execute("SELECT name FROM sqlite_schema")}
    finally:
        data.close()
    return {name for name in names if name.count(".") == 2}


def slices(first: int) -> dict[str, bytes]:
    half = ROWS // 2
    numbers = [range(first, first + half), range(first + half, first + ROWS)]
    return {
        f"{n}.gz": csv_rows(*([str(id), "x" * 100] for id in part))
        for n, part in enumerate(numbers)
    }


@pytest.mark.parametrize(
    "point",
    [
        "before the load",
        "between batches",
        "before the mark",
        "before the rows are committed",
        "after the rows are committed",
        "before the end is committed",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_load_happens_once(tmp_path: Path, point: str) -> None:
    """After a kill at any point of a load and a restart, the table has each row once."""
    async with restarted(tmp_path) as api:
        await api.bucket()
        await api.table()
        await api.done(await api.load(await api.stage({"a": csv_rows(["before", ""])})))
    async with running(tmp_path, point) as (api, child):
        answer = await api.load(await api.stage(slices(0)))
        await child.death()
    async with restarted(tmp_path) as api:
        job = await api.done(answer)
        assert job["status"] == "success", job
        assert job["results"]["totalRowsCount"] == ROWS
        assert await api.rows_count() == ROWS + 1
    assert sorted(ids(tmp_path)) == sorted(["before", *map(str, range(ROWS))])


@pytest_twisted.ensureDeferred
async def test_loads_killed_at_any_moment(tmp_path: Path) -> None:
    """Random kills lose and duplicate nothing."""
    async with restarted(tmp_path) as api:
        await api.bucket()
        await api.table()
    answers = []
    for round in range(6):
        async with running(tmp_path) as (api, _):
            files = [await api.stage(slices((round * 2 + n) * ROWS)) for n in range(2)]
            answers += [await api.load(file_id) for file_id in files]
            await sleep(random.uniform(0.0, 0.4))
    async with restarted(tmp_path) as api:
        for answer in answers:
            assert (await api.done(answer))["status"] == "success"
        assert await api.rows_count() == len(answers) * ROWS
    assert sorted(ids(tmp_path)) == sorted(map(str, range(len(answers) * ROWS)))


@pytest_twisted.ensureDeferred
async def test_a_table_that_is_being_created(tmp_path: Path) -> None:
    """After a kill during the creation, the restart creates the table."""
    async with running(tmp_path, "before a table is known") as (api, child):
        await api.bucket()
        definition = {"name": "clicks", "columns": [{"name": "id"}, {"name": "body"}]}
        answer = await api.branch("POST", f"buckets/{BUCKET}/tables-definition", definition)
        await child.death()
    async with restarted(tmp_path) as api:
        assert (await api.done(answer))["status"] == "success"
        await api.done(await api.load(await api.stage({"a": csv_rows(["1", ""])})))
    assert ids(tmp_path) == ["1"]


@pytest_twisted.ensureDeferred
async def test_a_bucket_that_is_being_deleted(tmp_path: Path) -> None:
    """Tables of a deleted bucket are dropped after the restart, and all others are kept."""
    async with restarted(tmp_path) as api:
        await api.bucket()
        await api.table()
        await api.branch("POST", "buckets", {"stage": "in", "name": "other"})
        definition = {"name": "kept", "columns": [{"name": "id"}]}
        path = "buckets/in.c-other/tables-definition"
        await api.done(await api.branch("POST", path, definition))
    data = sqlite3.connect(tmp_path / "project-123" / "data.sqlite")
    data.execute("CREATE TABLE notes (text TEXT)")
    data.close()
    async with running(tmp_path, "before a table is dropped") as (api, child):
        await api.branch("DELETE", f"buckets/{BUCKET}?async=1&force=true")
        await child.death()
    assert tables(tmp_path) == {TABLE, "in.c-other.kept"}
    async with restarted(tmp_path) as api:
        assert (await api.branch("GET", f"buckets/{BUCKET}")).status == 404
        assert tables(tmp_path) == {"in.c-other.kept"}
    data = sqlite3.connect(tmp_path / "project-123" / "data.sqlite")
    assert data.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    data.close()
