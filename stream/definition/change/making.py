"""The steps of a change of definitions: check, prepare, transaction, follow-up.

Every change of a source or a sink is a `DefinitionChange`, which `DefinitionChanges.make` makes
step by step. `stream.definition.repository` decides what a change writes.

Note [Remote calls]: a file needs remote resources (token, table, staging file), and a transaction
may run several times. So the transaction makes no remote calls. If sinks need files that aren't
prepared, it ends with `_FilesNotPrepared`. Then these files are prepared, several at a time, and
the transaction runs again. Prepared files that remain unused are discarded.

Note [One at a time]: every change of a project changes the size of its definitions, so concurrent
changes of one project would be conflicts. The transactions of one project are therefore made one
after another on each node; see Note [Counted bytes] in `stream.definition.size`. The preparation of
files, which takes longer, is concurrent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
from twisted.internet.defer import DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.slots import Slots
from stream.concurrency.together import together
from stream.definition.change.files import (
    FileRecords,
    Prepared,
    RemoteFiles,
    SinkFiles,
)
from stream.definition.entity import By, Sink, Source
from stream.definition.key import SinkKey, SourceKey
from stream.definition.repository import Definitions
from stream.definition.size import (
    NO_LIMIT,
    AtLimit,
    NoRoom,
    NotCounted,
    SizeLimit,
    WriteFirst,
    count_change,
    count_project,
    make_room,
    stored_size,
)
from stream.definition.transaction import Change
from stream.etcd import AtomicTxn, EtcdClient, EtcdError, Lock, atomic

__all__ = ["Author", "DefinitionChange", "DefinitionChanges", "NoReaders"]

_log = Logger()

T = TypeVar("T")
P = TypeVar("P", bound=Prepared)

TURN_SECONDS = 300.0
"""How long a change that creates or deletes tables waits for other changes of the same source."""


MAX_ROUNDS = 10
"""How many times a change may find more sinks whose files aren't prepared."""

PREPARED_AT_ONCE = 8
"""Maximum number of files of one change that are prepared concurrently."""


async def _nothing(result: object) -> None:
    return


@attrs.frozen(kw_only=True)
class DefinitionChange(Generic[T]):
    """One requested change of a source or a sink.

    :ivar key: key of the changed source or sink.
    :ivar write: reads, checks, decides and writes in a transaction; may run several times.
    :ivar makes_tables: whether the change creates or deletes tables. Such changes of one source are
        made one after another.
    :ivar at_limit: what happens at the limit of the size of the project's definitions.
    :ivar after: runs when everything is written; gets the result of `write`.
    """

    key: SourceKey | SinkKey
    write: Callable[[Change, Definitions], Awaitable[T]]
    at_limit: AtLimit = AtLimit.REFUSE
    makes_tables: bool = False
    after: Callable[[T], Awaitable[None]] = _nothing

    @property
    def source_key(self) -> SourceKey:
        """The source that is changed, or whose sink is changed."""
        return self.key.source_key if isinstance(self.key, SinkKey) else self.key


@attrs.frozen
class Author:
    """The author of a change.

    :ivar token: token used to create the remote resources of the change.
    """

    by: By
    token: str | None = attrs.field(default=None, repr=False)


class Locks(Protocol):
    """Provides locks; implemented by `stream.etcd.Session`."""

    async def lock(self, name: str, *, timeout: float) -> Lock:
        """Return the lock *name* within *timeout* seconds."""


class Readers(Protocol):
    """The readers of definitions on this node.

    Implemented by `stream.definition.live.LiveDefinitions`.
    """

    async def follow(self, source: SourceKey, txn: AtomicTxn) -> None:
        """Wait until the readers see what *txn*, which changed *source*, has written."""


class NoReaders:
    """The `Readers` of a node without readers of definitions."""

    async def follow(self, source: SourceKey, txn: AtomicTxn) -> None: ...


@attrs.define
class _FilesNotPrepared(Exception):
    """Sinks need files that must be prepared first."""

    missing: tuple[tuple[Source, Sink], ...]


class _PreparedFiles(Generic[P]):
    """The files prepared for one change, each of which is used or discarded.

    :param now: returns the current time in UTC.
    :param token: token of the user who makes the change.
    :ivar by_sink: prepared files that no file record uses yet.
    :ivar tried: the last attempt, which found sinks without prepared files.
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
        """Prepare all *missing* files. When all have ended, raise the first failure, if any.

        Raises RuntimeError: repeated calls have made no progress.
        """
        self._rounds += 1
        if self._rounds >= MAX_ROUNDS:
            raise RuntimeError("the sinks of a change keep changing")
        slots = Slots(PREPARED_AT_ONCE)
        results = await DeferredList(
            [slots.run(partial(self._prepare, source, sink)) for source, sink in missing],
            consumeErrors=True,
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
        """Mark the files of these sinks as used, because their transaction is written."""
        self._rounds = 0
        self.tried = None  # its reads are older than the written transaction
        for key in used:
            await self._remote.committed(self.by_sink.pop(key))

    async def discard(self) -> None:
        """Undo the preparation of the unused files."""
        for prepared in self.by_sink.values():
            await self._remote.discard(prepared)


@attrs.frozen
class _Attempt(Generic[T]):
    """The writes of one transaction of a change.

    :ivar txn: the transaction.
    :ivar used: sinks whose prepared file was opened.
    :ivar is_last: whether the transaction completes the change; see Note [Pieces] in
        `stream.definition.repository`.
    :ivar later: old versions that are deleted in the next transaction.
    """

    txn: AtomicTxn
    result: T
    used: set[SinkKey]
    is_last: bool
    later: Sequence[str]


class _Turns:
    """Runs the transactions of each project one after another; see Note [One at a time]."""

    def __init__(self) -> None:
        self._of_project: dict[int, Slots] = {}
        self._users: Counter[int] = Counter()

    async def run(self, project_id: int, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of *call*, which starts when all earlier calls have ended."""
        slots = self._of_project.setdefault(project_id, Slots(1))
        self._users[project_id] += 1
        try:
            return await slots.run(call)
        finally:
            self._users[project_id] -= 1
            if not self._users[project_id]:
                del self._users[project_id], self._of_project[project_id]


class DefinitionChanges(Generic[P]):
    """Makes changes of definitions, with all their effects on files.

    :param records: the file records in etcd.
    :param remote: creates and removes the remote parts of files.
    :param now: returns the current time in UTC.
    :param limit: the limit of the size of a project's definitions.
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
        limit: SizeLimit = NO_LIMIT,
    ) -> None:
        self._limit = limit
        self._turns = _Turns()
        self._client = client
        self._records = records
        self._remote = remote
        self._now = now
        self._locks = locks
        self._readers = readers

    async def make(
        self, change: DefinitionChange[T], author: Author, written: Callable[[], None] | None = None
    ) -> T:
        """Make *change*, in one transaction, or in several of which each leaves a valid state.

        1. Check: the change is tried without writing. This refuses an invalid change, and finds the
           sinks without a prepared file.
        2. Prepare: the remote resources of these files are created; see Note [Remote calls].
        3. Transaction: the change is tried again, and written. If the size of the project's
           definitions reaches its limit, versions of deleted objects are removed first.
        4. Follow-up: when the readers on this node see the change, its follow-up steps run.

        :param written: called when everything is written and can be read.
        """
        async with AsyncExitStack() as stack:
            turn = await self._turn(change.source_key) if change.makes_tables else None
            if turn is not None:
                await stack.enter_async_context(turn)
            prepared = _PreparedFiles(self._remote, self._now, author.token)
            stack.push_async_callback(prepared.discard)
            while True:
                try:
                    made = await self._write(change, author, prepared)
                except _FilesNotPrepared as needed:
                    await prepared.prepare(needed.missing)
                    continue
                if made.is_last:
                    break
                await prepared.committed(made.used)
                await self._readers.follow(change.source_key, made.txn)
            await together(
                prepared.committed(made.used),
                self._readers.follow(change.source_key, made.txn),
                *([] if turn is None or change.after is not _nothing else [turn.release()]),
            )
            if written is not None:
                written()
            await change.after(made.result)
            return made.result

    async def _write(
        self, change: DefinitionChange[T], author: Author, prepared: _PreparedFiles[P]
    ) -> _Attempt[T]:
        """Make a transaction of *change*. Raises `_FilesNotPrepared`."""
        project_id = change.key.project_id
        at_limit = AtLimit.REFUSE
        while True:
            attempt = partial(self._attempt, change, author, prepared, self._now(), at_limit)
            try:
                made = await self._turns.run(project_id, partial(atomic, self._client, attempt))
                if made.later:
                    await self._delete(project_id, made.later)
                return made
            except NotCounted:
                await count_project(self._client, project_id, self._now())
            except WriteFirst as needed:
                await atomic(
                    self._client, partial(_store, project_id, needed.mappings, self._now())
                )
            except NoRoom as full:
                removed = await make_room(
                    self._client, project_id, full.missing, self._records.mappings_in_use
                )
                if not removed:
                    if at_limit is change.at_limit:
                        raise full.refusal(self._limit) from None
                    at_limit = change.at_limit
            prepared.tried = None

    async def _delete(self, project_id: int, versions: Sequence[str]) -> None:
        """Delete old versions after the change that replaces them; they may also remain."""
        try:
            await atomic(self._client, partial(_delete, project_id, versions, self._now()))
        except EtcdError as error:
            _log.warn("cannot delete old versions: {error}", error=error)

    async def _attempt(
        self,
        change: DefinitionChange[T],
        author: Author,
        prepared: _PreparedFiles[P],
        now: datetime,
        at_limit: AtLimit,
        txn: AtomicTxn,
    ) -> _Attempt[T]:
        """Run *change* in *txn*. Raises `_FilesNotPrepared`, so that nothing is written."""
        if prepared.tried is not None:
            await txn.read_as(prepared.tried)
        files = SinkFiles(self._records, self._remote, prepared.by_sink, token=author.token)
        definitions = Definitions(files)
        result = await change.write(Change(txn, now, author.by), definitions)
        later = await count_change(txn, change.key.project_id, now, self._limit, at_limit)
        await self._check_written(txn, change, now)
        if files.missing:
            prepared.tried = txn
            raise _FilesNotPrepared(tuple(files.missing))
        return _Attempt(txn, result, files.used, not definitions.unfinished, later)

    async def _check_written(
        self, txn: AtomicTxn, change: DefinitionChange[T], now: datetime
    ) -> None:
        """Check what the project has written, with *txn*. Raises `TooManyChanges`."""
        size = await stored_size(txn, change.key.project_id)
        if size is not None:
            self._limit.check_written(size, change.at_limit, now)

    async def _turn(self, source: SourceKey) -> Lock:
        return await self._locks.lock(f"api.source.sinks.{source}", timeout=TURN_SECONDS)


async def _store(
    project_id: int, mappings: Mapping[str, bytes], now: datetime, txn: AtomicTxn
) -> None:
    for key, value in mappings.items():
        txn.put(key, value)
    await count_change(txn, project_id, now)


async def _delete(project_id: int, versions: Sequence[str], now: datetime, txn: AtomicTxn) -> None:
    for key in versions:
        txn.delete(key)
    await count_change(txn, project_id, now)
