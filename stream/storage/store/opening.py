"""Changes of definitions together with the files that they open and close.

Note [Remote calls]: a file needs remote things (token, table, staging file), and a transaction may
run several times. So the transaction never calls out. When it has met sinks that need a file which
isn't prepared, it ends with `FilesNotPrepared`; these files are prepared, several at a time, and
the whole runs again. What was prepared and isn't used in the end is discarded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

import attrs
from twisted.internet.defer import DeferredList, DeferredSemaphore
from twisted.python.failure import Failure

from stream.definition.change import Change
from stream.definition.entity import By, Sink, Source
from stream.definition.key import SinkKey
from stream.definition.repository import Definitions
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.storage.store.prepared import FileProvider, PreparedFile
from stream.storage.store.repository import StorageRepository

__all__ = ["DefinitionChanges", "FilesNotPrepared", "SinkFiles"]

T = TypeVar("T")

MAX_ROUNDS = 10
"""How often a change may meet sinks that nobody knew of before."""

PREPARED_AT_ONCE = 8
"""Files of one change that are prepared at the same time."""


@attrs.define
class FilesNotPrepared(Exception):
    """Sinks need files that must be prepared first."""

    missing: tuple[tuple[Source, Sink], ...]


class SinkFiles:
    """Opens, closes and rotates files as sinks change; see `stream.definition.change.SinkHooks`.

    Made anew for each attempt.

    :param prepared: what there is so far.
    :param token: of the user who makes the change.
    :ivar used: sinks whose prepared file was opened in this attempt.
    :ivar missing: sinks whose file isn't prepared; with any, the attempt must not be written.
    """

    def __init__(
        self,
        repository: StorageRepository,
        provider: FileProvider,
        prepared: Mapping[SinkKey, PreparedFile],
        *,
        token: str | None = None,
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._prepared = prepared
        self._token = token
        self.used: set[SinkKey] = set()
        self.missing: list[tuple[Source, Sink]] = []

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_deactivated(self, change: Change, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._provider.deactivated(change, sink, token=self._token)

    async def sink_deleted(self, change: Change, sink: Sink) -> None:
        await self._provider.deleted(change, sink)

    async def _open(self, change: Change, source: Source, sink: Sink) -> None:
        prepared = self._prepared.get(sink.key)
        if prepared is None or prepared.table != sink.table:
            self.missing.append((source, sink))
            return
        await self._repository.open_file(change.txn, source, sink, prepared)
        self.used.add(sink.key)


@attrs.frozen
class _Made(Generic[T]):
    """What one transaction of a change has done.

    :ivar used: sinks whose prepared file was opened.
    :ivar unfinished: whether the change goes on in a further transaction.
    """

    result: T
    used: set[SinkKey]
    unfinished: bool


class DefinitionChanges:
    """:param now: the time in UTC."""

    def __init__(
        self,
        client: EtcdClient,
        repository: StorageRepository,
        provider: FileProvider,
        now: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._repository = repository
        self._provider = provider
        self._now = now

    async def run(
        self,
        by: By,
        body: Callable[[Change, Definitions], Awaitable[T]],
        *,
        token: str | None = None,
    ) -> T:
        """Make a change, with everything that it means for files, in one transaction; or in
        several, each of them safe on its own, see Note [Pieces] of `stream.definition.repository`.

        :param by: who makes it.
        :param body: may run several times.
        :param token: of the user, for what has to be made remotely.
        """
        prepared: dict[SinkKey, PreparedFile] = {}
        try:
            while True:
                made = await self._run(by, body, prepared, token)
                for key in made.used:
                    await self._provider.committed(prepared.pop(key))
                if not made.unfinished:
                    return made.result
        finally:
            for file in prepared.values():
                await self._provider.discard(file)

    async def _run(
        self,
        by: By,
        body: Callable[[Change, Definitions], Awaitable[T]],
        prepared: dict[SinkKey, PreparedFile],
        token: str | None,
    ) -> _Made[T]:
        for _ in range(MAX_ROUNDS):
            now = self._now()

            async def attempt(txn: AtomicTxn, now: datetime = now) -> _Made[T]:
                files = SinkFiles(self._repository, self._provider, prepared, token=token)
                definitions = Definitions(files)
                result = await body(Change(txn, now, by), definitions)
                if files.missing:
                    raise FilesNotPrepared(tuple(files.missing))
                return _Made(result, files.used, definitions.unfinished)

            try:
                return await atomic(self._client, attempt)
            except FilesNotPrepared as needed:
                await self._prepare(needed.missing, prepared, token)
        raise RuntimeError("the sinks of a change don't come to rest")

    async def _prepare(
        self,
        missing: Sequence[tuple[Source, Sink]],
        prepared: dict[SinkKey, PreparedFile],
        token: str | None,
    ) -> None:
        """Prepare all *missing* files; the first failure is raised when every one has ended."""

        async def one(source: Source, sink: Sink) -> None:
            outdated = prepared.pop(sink.key, None)
            if outdated is not None:
                await self._provider.discard(outdated)
            prepared[sink.key] = await self._provider.prepare(
                source, sink, self._now(), token=token
            )

        slots = DeferredSemaphore(PREPARED_AT_ONCE)
        results = await DeferredList(
            [slots.run(one, source, sink) for source, sink in missing], consumeErrors=True
        )
        for success, result in results:
            if not success:
                cast(Any, cast(Failure, result)).raiseException()
