"""A sink with any target, and the steps of its files."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.threadpool import ThreadPool

from stream.definition import lifecycle
from stream.definition.entity import TableSink
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.encryption import encryptor_from
from stream.etcd import EtcdClient, Session
from stream.ops.metrics.registry import Metrics
from stream.settings import Settings
from stream.staging import bytes_chunks
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState
from stream.target.protocol import Target, TargetContext
from stream.target.registry import Targets
from stream.target.staged import StagingArea, staging_address
from tests.definition.changes import Changes
from tests.storage.histories.world import BY, SINK_KEY, SOURCE_KEY, Storage

__all__ = [
    "TOKEN",
    "Fault",
    "World",
    "changes_with",
    "context_of",
    "killed_at_every_await",
    "paused_at_every_await",
    "started",
]

reactor: Any = _reactor

Fault = Callable[[], AbstractAsyncContextManager[None]]
"""Causes a fault, and repairs it at the end of the context."""

TOKEN = "1-1-master-token-for-tests"


def changes_with(storage: Storage, target: Target) -> Changes:
    """Return changes of definitions whose files use *target*."""
    return Changes.of(
        storage.client,
        storage.repository,
        Targets([target]),
        storage.tick,
        source=SOURCE_KEY,
        by=BY,
        token=TOKEN,
    )


@asynccontextmanager
async def started(target: Target) -> AsyncIterator[None]:
    """Run the services of *target*, including those for imports."""
    services = (*target.services, *target.import_services)
    for service in services:
        await maybeDeferred(service.startService)
    try:
        yield
    finally:
        for service in reversed(services):
            await maybeDeferred(service.stopService)


@attrs.define(kw_only=True)
class World:
    """A source, and a sink once it is created, with the tables of *target*.

    :ivar table: the sink's table; its mapping has one column.
    :ivar read: returns the cells of the table's column, in any order; raises an error without a
        table.
    :ivar faults: faults that prevent an import, by the names in `tests.target.test_contract`: a
        context at whose end the fault is repaired.
    """

    storage: Storage
    target: Target
    changes: Changes
    table: TableSink
    read: Callable[[], Awaitable[list[str]]]
    faults: Mapping[str, Fault] = attrs.field(factory=dict)

    async def do(self, method: str, *arguments: Any) -> Any:
        """Call a method of the definitions in a separate change, as the user."""

        async def body(change: Change, definitions: Definitions) -> Any:
            return await getattr(definitions, method)(change, *arguments)

        return await self.changes.run(body)

    async def create_source(self) -> None:
        at = self.storage.tick()
        source = lifecycle.new_source(
            SOURCE_KEY, type="http", name="S", secret="s" * 48, at=at, by=BY
        )
        await self.do("create_source", source)

    async def create_sink(self) -> File:
        """Create the sink, and return its open file."""
        at = self.storage.tick()
        await self.do(
            "create_sink", lifecycle.new_sink(SINK_KEY, name="S", table=self.table, at=at, by=BY)
        )
        return await self.open_file()

    async def open_file(self) -> File:
        """Return the open file."""
        (file,) = [f for f in await self.storage.files() if f.state is FileState.WRITING]
        return file

    async def rename(self) -> None:
        """Update the sink, which rotates its file."""
        self.storage.tick()
        await self.do("update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, name="new"))

    async def reopen(self) -> File:
        """Disable and enable the sink, and return the open file."""
        self.storage.tick()
        await self.do("disable_sink", SINK_KEY)
        self.storage.tick()
        await self.do("enable_sink", SINK_KEY)
        return await self.open_file()

    async def upload(self, slice_: Slice, rows: bytes) -> None:
        """Advance a closed slice to ``uploaded``."""
        await self.storage.count(slice_.key, rows.count(b"\n"))
        await self.storage.to_uploading(slice_.key)
        async with self.target.upload(slice_, bytes_chunks(gzip.compress(rows))):
            await self.storage.to_uploaded(slice_.key)

    async def importing_file(self, *rows: bytes) -> File:
        """Return a file of a new sink with a slice for each of *rows*, all uploaded."""
        await self.create_sink()
        return await self.staged_file(*rows)

    async def staged_file(self, *rows: bytes) -> File:
        """Return the open file with a slice for each of *rows*, all uploaded."""
        file = await self.open_file()
        slices = await self.storage.slices(file.key)
        while len(slices) < len(rows):
            opened = await self.storage.rotate_slice(slices[-1].key)
            assert opened is not None
            slices.append(opened)
        await self.storage.close_files()
        for slice_, part in zip(slices, rows, strict=True):
            await self.upload(slice_, part)
        return await self.storage.to_importing(file.key)


@asynccontextmanager
async def context_of(
    etcd: EtcdClient, settings: Settings
) -> AsyncIterator[tuple[Storage, TargetContext]]:
    """A storage model, and the dependencies of a target with running threads."""
    storage, pool = Storage(etcd), ThreadPool(0, 2)
    session = Session(etcd, ttl=30, reactor=reactor)
    await session.startService()
    pool.start()
    try:
        yield (
            storage,
            TargetContext(
                settings=settings,
                reactor=reactor,
                client=etcd,
                session=session,
                encryptor=encryptor_from("none", b""),
                pool=pool,
                metrics=Metrics(),
                now=lambda: storage.now,
                staging=_staging(settings, pool),
            ),
        )
    finally:
        pool.stop()
        await session.stopService()


def _staging(settings: Settings, pool: ThreadPool) -> StagingArea | None:
    staging = settings.target.staging
    if not staging.url:
        return None
    return StagingArea(staging_address(staging, (), ""), reactor, pool)


async def killed_at_every_await(
    make: Callable[[], Awaitable[Callable[[], Coroutine[Any, Any, object]]]],
) -> int:
    """Start work repeatedly, and end each attempt one await later than the previous.

    :param make: prepares the next attempt; its result starts it.
    :returns: number of awaits at which the work was ended.
    """
    for awaits in itertools.count(1):
        work = await make()
        if not await _killed(work(), awaits):
            return awaits - 1
    raise AssertionError("there is no last await")


async def paused_at_every_await(
    make: Callable[[], Awaitable[Callable[[], Coroutine[Any, Any, object]]]],
) -> int:
    """Start work repeatedly, and pause each attempt one await later than the previous.

    During the pause another attempt does the same work; then the first one continues to its end.

    :param make: prepares the next attempt; its result starts it.
    :returns: number of awaits at which work was paused.
    """
    for awaits in itertools.count(1):
        begin = await make()
        paused = begin()
        if not await _advanced(paused, awaits):
            return awaits - 1
        await begin()
        while await _advanced(paused, 1):
            pass
    raise AssertionError("there is no last await")


async def _killed(work: Coroutine[Any, Any, object], awaits: int) -> bool:
    """End *work* at this number of *awaits*; return false if it ended before."""
    if not await _advanced(work, awaits):
        return False
    work.close()
    return True


async def _advanced(work: Coroutine[Any, Any, object], awaits: int) -> bool:
    """Advance *work* by this number of *awaits*; return false if it ended before."""
    for _ in range(awaits):
        try:
            waiting = work.send(None)
        except StopIteration:
            return False
        if isinstance(waiting, Deferred):
            ready: Deferred[None] = Deferred()
            waiting.addBoth(_noticed, ready)
            await ready
    return True


def _noticed(result: Any, ready: Deferred[None]) -> Any:
    """Return *result*, and fire *ready* in the next turn, when the waiter has the result."""
    """Fire *ready* with the result of *work* for its waiter, before a failure counts as
    unhandled.
    """
    reactor.callLater(0, ready.callback, None)
    return result
