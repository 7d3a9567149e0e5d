"""Changes of definitions together with the files that they open and close.

Note [Remote calls]: a file needs remote things (token, table, staging file), and a transaction may
run several times. So the transaction never calls out. When it meets a sink that needs a file which
isn't prepared, it ends with `FileNotPrepared`; the file is prepared, and the whole runs again. What
was prepared and isn't used in the end is discarded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TypeVar

import attrs
from twisted.logger import Logger

from stream.definition.change import Change
from stream.definition.entity import By, Sink, Source
from stream.definition.key import SinkKey
from stream.definition.repository import Definitions
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.storage.prepared import FileProvider, PreparedFile
from stream.storage.repository import StorageRepository

__all__ = ["DefinitionChanges", "FileNotPrepared", "SinkFiles"]

_log = Logger()
T = TypeVar("T")

MAX_PREPARATIONS = 1000
"""Files that one change may open: more sinks than a source can have."""


@attrs.define
class FileNotPrepared(Exception):
    """A sink needs a file that must be prepared first."""

    source: Source
    sink: Sink


class SinkFiles:
    """Opens, closes and rotates files as sinks change; see `stream.definition.change.SinkHooks`.

    :ivar used: sinks whose prepared file was opened in this attempt.
    """

    def __init__(
        self,
        repository: StorageRepository,
        provider: FileProvider,
        prepared: Mapping[SinkKey, PreparedFile],
    ) -> None:
        self._repository = repository
        self._provider = provider
        self._prepared = prepared
        self.used: set[SinkKey] = set()

    async def sink_activated(self, change: Change, source: Source, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_modified(self, change: Change, source: Source, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._open(change, source, sink)

    async def sink_deactivated(self, change: Change, sink: Sink) -> None:
        await self._repository.close_files(change.txn, sink.key, change.now)
        await self._provider.deactivated(change, sink)

    async def sink_deleted(self, change: Change, sink: Sink) -> None:
        await self._provider.deleted(change, sink)

    async def _open(self, change: Change, source: Source, sink: Sink) -> None:
        prepared = self._prepared.get(sink.key)
        if prepared is None or prepared.table != sink.table:
            raise FileNotPrepared(source, sink)
        await self._repository.open_file(change.txn, source, sink, prepared)
        self.used.add(sink.key)


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
        """Make a change, with everything that it means for files, in one transaction.

        :param by: who makes it.
        :param body: may run several times.
        :param token: of the user, for what has to be made remotely.
        """
        prepared: dict[SinkKey, PreparedFile] = {}
        used: set[SinkKey] = set()
        try:
            result, used = await self._run(by, body, prepared, token)
        finally:
            for key, file in prepared.items():
                if key not in used:
                    await self._provider.discard(file)
        for key in used:
            await self._provider.committed(prepared[key])
        return result

    async def _run(
        self,
        by: By,
        body: Callable[[Change, Definitions], Awaitable[T]],
        prepared: dict[SinkKey, PreparedFile],
        token: str | None,
    ) -> tuple[T, set[SinkKey]]:
        preparations = 0
        while True:
            now = self._now()

            async def attempt(txn: AtomicTxn, now: datetime = now) -> tuple[T, set[SinkKey]]:
                files = SinkFiles(self._repository, self._provider, prepared)
                result = await body(Change(txn, now, by), Definitions(files))
                return result, files.used

            try:
                return await atomic(self._client, attempt)
            except FileNotPrepared as missing:
                preparations += 1
                if preparations > MAX_PREPARATIONS:
                    raise RuntimeError("a change opens too many files") from missing
                outdated = prepared.pop(missing.sink.key, None)
                if outdated is not None:
                    await self._provider.discard(outdated)
                prepared[missing.sink.key] = await self._provider.prepare(
                    missing.source, missing.sink, self._now(), token=token
                )
