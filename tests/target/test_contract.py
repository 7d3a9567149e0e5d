"""Behavior common to all targets, each tested against its real server."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.definition.entity import Sink
from stream.definition.mappings import with_mappings
from stream.definition.reads import DefinitionReads
from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.settings import Settings
from stream.staging import bytes_chunks
from stream.storage.reconcile.operator import Requeue
from stream.target.protocol import Previewing
from stream.target.registry import Targets
from tests.storage.histories.world import SINK_KEY, TABLE
from tests.target.iceberg.world import iceberg_world, rest_world, s3_warehouse_world
from tests.target.keboola.bridge import running_bridge
from tests.target.memory import MemoryTarget
from tests.target.parquet.world import azure_world, gcs_world, parquet_world, s3_world
from tests.target.postgres.world import postgres_world
from tests.target.world import (
    TOKEN,
    World,
    changes_with,
    context_of,
    killed_at_every_await,
    paused_at_every_await,
)

reactor: Any = _reactor

_CELLS = ("", "a,b", 'say "hello"', "two\nlines", "ünïcode 🙂", " spaces ", "0", "NULL", "\\N")


@asynccontextmanager
async def _memory(etcd: EtcdClient, path: Path) -> AsyncIterator[World]:
    async with context_of(etcd, Settings()) as (storage, context):
        target = MemoryTarget(context)

        async def read() -> list[str]:
            return [row[0] for rows in target.tables[SINK_KEY].values() for row in rows]

        world = World(
            storage=storage,
            target=target,
            changes=changes_with(storage, target),
            table=attrs.evolve(TABLE, type="memory"),
            read=read,
        )
        await world.create_source()
        yield world


FAULTS = {
    "keboola": ("table dropped", "rights revoked", "server unavailable"),
    "postgres": (
        "table dropped",
        "column missing",
        "rights revoked",
        "server unavailable",
        "server stopped",
        "disk full",
    ),
    "parquet": ("table dropped", "rights revoked", "server unavailable", "disk full"),
    "parquet-s3": ("table dropped", "server unavailable"),
    "parquet-azure": ("table dropped", "rights revoked", "server unavailable"),
    "parquet-gcs": ("table dropped", "server unavailable"),
    "iceberg": (
        "table dropped",
        "column missing",
        "rights revoked",
        "server unavailable",
        "disk full",
    ),
    "iceberg-s3": ("table dropped", "column missing", "server unavailable"),
    "iceberg-rest": ("table dropped", "column missing", "server unavailable"),
}
"""Faults between the opening of a file and its import, by target."""

SHOWN: dict[object, str] = {
    "disk full": "has no space left",
    "column missing": "column",
    "server unavailable": "does not answer",
    ("keboola", "server unavailable"): "",
    ("parquet", "server unavailable"): "the store does not answer, or rejects the credentials",
    ("parquet", "rights revoked"): "rejects the credentials, or they lack a permission",
    ("parquet-azure", "rights revoked"): "rejects the credentials, or they lack a permission",
    ("iceberg", "rights revoked"): "rejects the credentials, or they lack a permission",
    ("postgres", "rights revoked"): "grant the user of the connection",
}
"""The text in the error of an import, by fault, or by target and fault."""

NOT_SHOWN = ("127.0.0.1", "localhost", "nobody_at_all", "secret", "devstoreaccount")

PAUSABLE = ("memory", "postgres", "parquet", "iceberg")
"""Targets that two coordinators may use for the same file at the same time. The Storage API has no
key that prevents a second job, so the lock of the file is also needed there.
"""

Kind = Callable[[EtcdClient, Path], AbstractAsyncContextManager[World]]
_KINDS: dict[str, Kind] = {
    "memory": _memory,
    "keboola": running_bridge,
    "postgres": postgres_world,
    "parquet": parquet_world,
    "iceberg": iceberg_world,
}
_OTHER_KINDS: dict[str, Kind] = {
    "parquet-s3": s3_world,
    "parquet-azure": azure_world,
    "parquet-gcs": gcs_world,
    "iceberg-s3": s3_warehouse_world,
    "iceberg-rest": rest_world,
}
"""Other stores and catalogs of the same targets, for ``make lake``."""

if os.environ.get("STREAM_TARGETS") == "all":
    _KINDS |= _OTHER_KINDS


@pytest_twisted.async_yield_fixture(params=_KINDS)
async def world(etcd: EtcdClient, tmp_path: Path, request: Any) -> AsyncIterator[World]:
    async with _KINDS[request.param](etcd, tmp_path) as running:
        yield running


def rows(*cells: str) -> bytes:
    """Return *cells* as rows of a slice, one cell per row."""
    return "".join(f'"{cell.replace(chr(34), chr(34) * 2)}"\n' for cell in cells).encode()


@pytest_twisted.ensureDeferred
async def test_rows_of_all_slices_are_imported(world: World) -> None:
    """The table contains the cells of the rows unchanged."""
    file = await world.importing_file(rows(*_CELLS), rows("other slice"))
    assert await world.read() == []
    assert await world.target.import_file(file) == 0
    assert sorted(await world.read()) == sorted([*_CELLS, "other slice"])


@pytest_twisted.ensureDeferred
async def test_a_long_value_is_imported(world: World) -> None:
    """A cell of 1 MB is imported completely."""
    cell = "0123456789abcdef" * 65536
    assert await world.target.import_file(await world.importing_file(rows(cell))) == 0
    assert (await world.read()) == [cell]


@pytest_twisted.ensureDeferred
async def test_a_file_imported_again_adds_nothing(world: World) -> None:
    file = await world.importing_file(rows("a", "b"))
    for _ in range(3):
        assert await world.target.import_file(file) == 0
        assert sorted(await world.read()) == ["a", "b"]
    await world.storage.to_imported(file.key)


@pytest_twisted.ensureDeferred
async def test_files_are_imported_in_sequence(world: World) -> None:
    """Each file adds its rows to the existing ones."""
    await world.create_sink()
    for number in range(3):
        if number:
            await world.reopen()
        file = await world.staged_file(rows(f"a{number}"), rows(f"b{number}"))
        await world.target.import_file(file)
        await world.storage.to_imported(file.key)
    assert sorted(await world.read()) == ["a0", "a1", "a2", "b0", "b1", "b2"]


@pytest_twisted.ensureDeferred
async def test_an_empty_file_adds_nothing(world: World) -> None:
    file = await world.create_sink()
    await world.storage.close_files()
    await world.storage.finish_slices(file.key, is_empty=True)
    file = await world.storage.to_importing(file.key, is_empty=True)
    assert await world.target.import_file(file) == 0
    assert await world.read() == []


@pytest_twisted.ensureDeferred
async def test_a_slice_uploaded_again_is_imported_once(world: World) -> None:
    """The process may end between the upload and the change of the state."""
    file = await world.create_sink()
    (slice_,) = await world.storage.slices(file.key)
    await world.storage.close_files()
    await world.storage.to_uploading(slice_.key)
    with pytest.raises(ZeroDivisionError):
        async with world.target.upload(slice_, bytes_chunks(gzip.compress(rows("a")))):
            raise ZeroDivisionError
    async with world.target.upload(slice_, bytes_chunks(gzip.compress(rows("a")))):
        await world.storage.to_uploaded(slice_.key)
    await world.target.import_file(await world.storage.to_importing(file.key))
    assert sorted(await world.read()) == ["a"]


@pytest_twisted.ensureDeferred
async def test_an_import_killed_at_every_await(world: World) -> None:
    """The repeated import finds the results of the killed one, and adds each row once."""
    expected: list[str] = []
    await world.create_sink()

    async def make() -> Callable[[], Coroutine[Any, Any, object]]:
        if expected:
            await world.target.import_file(files[-1])
            assert sorted(await world.read()) == sorted(expected)
            await world.storage.to_imported(files[-1].key)
            await world.reopen()
        number = len(files)
        cells = f"a{number}", f"b{number}"
        files.append(await world.staged_file(rows(cells[0]), rows(cells[1])))
        expected.extend(cells)
        return lambda: _work(world, files[-1])

    files: list[Any] = []
    kills = await killed_at_every_await(make)
    assert sorted(await world.read()) == sorted(expected)
    print(f"killed at {kills} awaits, {len(expected)} rows")
    assert kills


async def _work(world: World, file: Any) -> object:
    return await world.target.import_file(file)


@pytest.mark.parametrize("kind", PAUSABLE)
@pytest_twisted.ensureDeferred
async def test_a_coordinator_paused_at_any_await(
    etcd: EtcdClient, tmp_path: Path, kind: str
) -> None:
    """Another coordinator imports the file; the first one continues or waits, and adds no row
    again.
    """
    async with _KINDS[kind](etcd, tmp_path) as world:
        await world.create_sink()
        files: list[Any] = []

        async def make() -> Callable[[], Coroutine[Any, Any, object]]:
            if files:
                await world.storage.to_imported(files[-1].key)
                await world.reopen()
            files.append(await world.staged_file(rows(f"a{len(files)}"), rows("b")))
            return lambda: work(files[-1])

        async def work(file: Any) -> None:
            with suppress(Requeue):
                await world.target.import_file(file)

        assert await paused_at_every_await(make)
        expected = [f"a{number}" for number in range(len(files))] + ["b"] * len(files)
        assert sorted(await world.read()) == sorted(expected)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind, faults in FAULTS.items() if kind in _KINDS for fault in faults],
)
@pytest_twisted.ensureDeferred
async def test_a_file_waits_for_the_repair_of_its_table(
    etcd: EtcdClient, tmp_path: Path, kind: str, fault: str
) -> None:
    """The file is then imported as a whole, and no row is quarantined.

    Users see the error, which names neither a host nor a user of the target.
    """
    async with _KINDS[kind](etcd, tmp_path) as world:
        file = await world.importing_file(rows("a", "b"), rows("c"))
        async with world.faults[fault]():
            try:
                await world.target.import_file(file)
            except UserError as error:
                shown = f"{error} {error.detail}"
                assert SHOWN.get((kind, fault), SHOWN.get(fault, "")) in shown
                if kind != "keboola":
                    assert not [each for each in (*NOT_SHOWN, str(tmp_path)) if each in shown]
            else:
                assert fault == "table dropped"
        for _ in range(2):
            assert await world.target.import_file(file) == 0
            assert sorted(await world.read()) == ["a", "b", "c"]
        assert await world.target.quarantines(SINK_KEY) == {}


@pytest_twisted.ensureDeferred
async def test_staged_objects_are_deleted_before_the_records(world: World) -> None:
    """A discarded file is no longer imported, and a repetition does nothing."""
    file = await world.importing_file(rows("a"))
    for _ in range(2):
        await world.target.delete_staged(file.key)


@pytest_twisted.ensureDeferred
async def test_nothing_remains_of_a_deleted_file(world: World) -> None:
    """The records of the target are deleted with those of the file."""
    file = await world.importing_file(rows("a"))
    await world.target.import_file(file)
    await world.storage.to_imported(file.key)
    await world.do("delete_sink", SINK_KEY)
    session = Session(world.storage.client, ttl=30, reactor=reactor)
    await session.startService()
    async with await session.lock("test", timeout=5) as lock:
        await world.storage.repository.delete_file(
            world.storage.client, file.key, lock, world.target.file_records(file.key)
        )
    await session.stopService()
    left = [key for key in await world.storage.left() if "/stats/" not in key]
    assert left == []


@pytest_twisted.ensureDeferred
async def test_the_table_of_a_sink_is_deleted(world: World) -> None:
    """The table is deleted only on request, and a repetition does nothing."""
    file = await world.importing_file(rows("a"))
    await world.target.import_file(file)
    sink = await world.do("delete_sink", SINK_KEY)
    assert await world.read() == ["a"]
    for _ in range(2):
        await world.target.delete_tables([sink], token=TOKEN)
    with pytest.raises(LookupError):
        await world.read()
    if isinstance(world.target, Previewing):
        with pytest.raises(UserError) as raised:
            await _preview(world, sink, 10)
        assert (raised.value.status, raised.value.name) == (404, "tableNotFound")


async def _preview(world: World, sink: Sink, limit: int) -> list[str | None]:
    """Return the cells of the table's column, as shown to users."""
    assert isinstance(world.target, Previewing)
    (sink,) = await with_mappings(world.storage.client, [sink])
    found = await world.target.preview(sink, limit, token=TOKEN)
    assert list(found.columns) == [world.table.mapping.mapping.columns[0].name]
    return [cell for (cell,) in found.rows]


@pytest_twisted.ensureDeferred
async def test_the_first_rows_of_a_table(world: World) -> None:
    """At most the requested number is shown, with long values truncated; a target that can't read
    says so.
    """
    await world.target.import_file(await world.importing_file(rows(*_CELLS), rows("x" * 2000)))
    sink = await DefinitionReads(world.storage.client).sink(SINK_KEY)
    if not isinstance(world.target, Previewing):
        with pytest.raises(UserError, match="can't be read here"):
            await Targets([world.target]).preview(sink, 1, token=TOKEN)
        return
    shown = await _preview(world, sink, 100)
    assert sorted(map(str, shown)) == sorted([*_CELLS, "x" * 1000 + "…"])
    assert len(await _preview(world, sink, 2)) == 2


@pytest_twisted.ensureDeferred
async def test_quarantine_is_empty(world: World) -> None:
    await world.target.import_file(await world.importing_file(rows("a")))
    assert await world.target.quarantines(SINK_KEY) == {}
