"""The steps of a change of definitions: check, prepare, transaction, after.

Every change of a source or a sink is a `DefinitionChange`, and `DefinitionChanges.make` makes it,
step by step. What a change writes is decided by `stream.definition.repository`.

Note [Remote calls]: a file needs remote things (token, table, staging file), and a transaction may
run several times. So the transaction never calls out. When it has met sinks that need a file which
isn't prepared, it ends with `_FilesNotPrepared`; these files are prepared, several at a time, and
the whole runs again. What was prepared and isn't used in the end is discarded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
from twisted.internet.defer import DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from stream.definition.change.files import (
    FileRecords,
    Prepared,
    RemoteFiles,
    SinkFiles,
)
from stream.definition.entity import By, Sink, Source
from stream.definition.key import SinkKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, Lock, atomic

__all__ = ["Author", "DefinitionChange", "DefinitionChanges", "NoReaders"]

T = TypeVar("T")
P = TypeVar("P", bound=Prepared)

TURN_SECONDS = 300.0
"""How long a change that makes or deletes tables waits for others of the same source."""


MAX_ROUNDS = 10
"""How often a change may meet sinks that nobody knew of before."""

PREPARED_AT_ONCE = 8
"""Files of one change that are prepared at the same time."""


async def _nothing(result: object) -> None:
    return


@attrs.frozen(kw_only=True)
class DefinitionChange(Generic[T]):
    """One change of a source or a sink that somebody asks for.

    :ivar key: of what is changed.
    :ivar write: reads, checks, decides and writes in a transaction; may run several times.
    :ivar makes_tables: whether it makes or deletes tables: such changes of one source are made one
        after the other.
    :ivar after: what follows when everything is written, given the result of `write`.
    """

    key: SourceKey | SinkKey
    write: Callable[[Change, Definitions], Awaitable[T]]
    makes_tables: bool = False
    after: Callable[[T], Awaitable[None]] = _nothing

    @property
    def source_key(self) -> SourceKey:
        """The source that is changed, alone or with one of its sinks."""
        return self.key.source_key if isinstance(self.key, SinkKey) else self.key


@attrs.frozen
class Author:
    """The author of a change.

    :ivar token: with which the things that a change needs are made remotely.
    """

    by: By
    token: str | None = attrs.field(default=None, repr=False)


class Locks(Protocol):
    """Hands out locks; a `stream.etcd.Session`."""

    async def lock(self, name: str, *, timeout: float) -> Lock:
        """The lock *name*, within *timeout* seconds."""


class Readers(Protocol):
    """Those who read definitions on this node; `stream.definition.live.LiveDefinitions`."""

    async def settle(self, source: SourceKey) -> None:
        """Wait until they find what is stored of *source*."""


class NoReaders:
    """The `Readers` of a node that shows definitions to nobody."""

    async def settle(self, source: SourceKey) -> None: ...


@attrs.define
class _FilesNotPrepared(Exception):
    """Sinks need files that must be prepared first."""

    missing: tuple[tuple[Source, Sink], ...]


class _PreparedFiles(Generic[P]):
    """The files that are prepared for one change; each of them is used or discarded.

    :param now: the time in UTC.
    :param token: of the user who makes the change.
    :ivar by_sink: those that no file uses yet.
    :ivar tried: the last attempt, which has met sinks whose files weren't prepared.
    """

    def __init__(
        self, remote: RemoteFiles[P], now: Callable[[], datetime], token: str | None
    ) -> None:
        self._remote = remote
        self._now = now
        self._token = token
        self._rounds = 0
        self.by_sink: dict[SinkKey, P] = {}
        self.tried: AtomicTxn | None = None

    async def prepare(self, missing: Sequence[tuple[Source, Sink]]) -> None:
        """Prepare all *missing* files; the first failure is raised when every one has ended.

        Raises RuntimeError if it is called again and again without anything being used.
        """
        self._rounds += 1
        if self._rounds >= MAX_ROUNDS:
            raise RuntimeError("the sinks of a change don't come to rest")
        slots = DeferredSemaphore(PREPARED_AT_ONCE)
        results = await DeferredList(
            [slots.run(self._prepare, source, sink) for source, sink in missing], consumeErrors=True
        )
        for success, result in results:
            if not success:
                cast(Any, cast(Failure, result)).raiseException()

    async def _prepare(self, source: Source, sink: Sink) -> None:
        outdated = self.by_sink.pop(sink.key, None)
        if outdated is not None:
            await self._remote.discard(outdated)
        self.by_sink[sink.key] = await self._remote.prepare(
            source, sink, self._now(), token=self._token
        )

    async def committed(self, used: Iterable[SinkKey]) -> None:
        """The transaction that opened the files of these sinks is written."""
        self._rounds = 0
        for key in used:
            await self._remote.committed(self.by_sink.pop(key))

    async def discard(self) -> None:
        """Undo what nothing uses."""
        for prepared in self.by_sink.values():
            await self._remote.discard(prepared)


@attrs.frozen
class _Attempt(Generic[T]):
    """The writes of one transaction of a change.

    :ivar used: sinks whose prepared file was opened.
    :ivar is_last: whether the change is complete with it, see Note [Pieces] of
        `stream.definition.repository`.
    """

    result: T
    used: set[SinkKey]
    is_last: bool


class DefinitionChanges(Generic[P]):
    """Makes changes of definitions, with everything that they mean for files.

    :param records: of files.
    :param remote: the remote parts of files.
    :param now: the time in UTC.
    """

    def __init__(
        self,
        client: EtcdClient,
        records: FileRecords[P],
        remote: RemoteFiles[P],
        now: Callable[[], datetime],
        *,
        locks: Locks,
        readers: Readers,
    ) -> None:
        self._client = client
        self._records = records
        self._remote = remote
        self._now = now
        self._locks = locks
        self._readers = readers

    async def make(
        self, change: DefinitionChange[T], author: Author, written: Callable[[], None] | None = None
    ) -> T:
        """Make *change*, in one transaction or in several that are each safe on their own.

        1. Check: the change is tried. What can't be done is refused by an error, and sinks whose
           file isn't prepared are found. Nothing is written then.
        2. Prepare: what these files need is made remotely; see Note [Remote calls].
        3. Transaction: the change is tried again, and written.
        4. After: readers on this node find it; then comes what else follows from it.

        :param written: called when everything is written and can be read.
        """
        async with AsyncExitStack() as stack:
            if change.makes_tables:
                await stack.enter_async_context(await self._turn(change.source_key))
            prepared = _PreparedFiles(self._remote, self._now, author.token)
            stack.push_async_callback(prepared.discard)
            while True:
                attempt = partial(self._attempt, change, author, prepared, self._now())
                try:
                    made = await atomic(self._client, attempt)
                except _FilesNotPrepared as needed:
                    await prepared.prepare(needed.missing)
                    continue
                await prepared.committed(made.used)
                if made.is_last:
                    break
            await self._readers.settle(change.source_key)
            if written is not None:
                written()
            await change.after(made.result)
            return made.result

    async def _attempt(
        self,
        change: DefinitionChange[T],
        author: Author,
        prepared: _PreparedFiles[P],
        now: datetime,
        txn: AtomicTxn,
    ) -> _Attempt[T]:
        """Run *change* in *txn*. Raises `_FilesNotPrepared`, so that nothing is written."""
        if prepared.tried is not None:
            await txn.read_as(prepared.tried)
        files = SinkFiles(self._records, self._remote, prepared.by_sink, token=author.token)
        definitions = Definitions(files)
        result = await change.write(Change(txn, now, author.by), definitions)
        if files.missing:
            prepared.tried = txn
            raise _FilesNotPrepared(tuple(files.missing))
        return _Attempt(result, files.used, not definitions.unfinished)

    async def _turn(self, source: SourceKey) -> Lock:
        return await self._locks.lock(f"api.source.sinks.{source}", timeout=TURN_SECONDS)
