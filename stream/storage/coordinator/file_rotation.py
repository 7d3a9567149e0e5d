"""Files: ``writing`` → a new file and ``closing`` → ``importing``.

The staging file of the new file is prepared before the transaction. A closing file becomes
``importing`` when none of its slices is at level local. A slow upload doesn't count as a failed
attempt: the file waits until a change of its slices wakes it.

Note [Expired credentials]: if staging storage, the Storage API or a reader is unavailable for
hours, the upload credentials of a closing file may expire before all its slices are uploaded. Such
a file gets a new staging file; see Note [Restaging] in `stream.storage.store.restaging`.

A file also becomes ``closing`` if a new one would have better volumes; see Note [Better volumes] in
`stream.storage.model.assignment`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime

from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel

from stream.concurrency.deadline import within
from stream.concurrency.paced import begin_in_turns
from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import AtomicTxn, Batch, Lock, atomic
from stream.ops.logging.throttle import LogThrottle
from stream.settings.level import TargetOperatorSettings
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.statistics_cache import StatisticsCache
from stream.storage.model import prefix
from stream.storage.model.assignment import has_better_volumes, has_other_volumes
from stream.storage.model.entity import Assignment, File, Slice
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import (
    FileState,
    InvalidCombination,
    InvalidFileState,
    InvalidSliceState,
    Level,
)
from stream.storage.model.triggers import Decision, file_rotation
from stream.storage.model.volume import Volume
from stream.storage.reconcile.operator import TRANSIENT_ERRORS, Item, Operator, Requeue
from stream.storage.store.prepared import FileProvider, PreparedFile
from stream.storage.store.records import read_file
from stream.storage.store.restaging import replace_staging
from stream.storage.store.statistics_reads import one_file_statistics

__all__ = ["FileRotation"]

_log = Logger()

CONCURRENCY = 20

SPREAD_SECONDS = 0.3
"""Time after which a volume that has appeared gets slices of files with too few volumes.

It is short, because the next writer may be restarted as soon as this one is ready. Volumes of one
writer appear together.
"""

MOVE_SECONDS = 3.0
"""Time for which all volumes of a file are unavailable before it is replaced.

After an outage of etcd, the volumes appear one after another.
"""

THROTTLED_LOG_SECONDS = 60.0
"""Minimum interval between log messages about a sink that waits for its import jobs."""
_REQUESTED = Decision(True, "unknown", "an operator requested it")
_OTHER_VOLUMES = Decision(True, "volumes", "other volumes are available")
_GOES_ON_WHEN_THROTTLED = {
    "expiration": "file rotation: sink is throttled but file is near expiration",
    "maxSlices": "file rotation: sink is throttled but file has too many slices",
    "volumes": "file rotation: sink is throttled but too few volumes of the file are available",
}


class FileRotation:
    """The operator that rotates files when a limit is reached.

    :param is_owner: whether this node is responsible for a source, given the source's key.
    :param can_import: whether the target of a file accepts another file of the same sink.
    """

    def __init__(
        self,
        context: CoordinatorContext,
        statistics: StatisticsCache,
        provider: FileProvider,
        settings: TargetOperatorSettings,
        is_owner: Callable[[str], bool],
        can_import: Callable[[File], bool],
    ) -> None:
        self._context = context
        self._statistics = statistics
        self._provider = provider
        self._settings = settings
        self._is_owner = is_owner
        self._can_import = can_import
        self._local_slices: dict[str, set[str]] = {}
        self._forced: dict[str, Decision] = {}
        self._available: frozenset[str] = frozenset()
        self._spread_over: frozenset[str] | None = None
        self._spreading: IDelayedCall | None = None
        self._moving: IDelayedCall | None = None
        self._throttled = LogThrottle(THROTTLED_LOG_SECONDS, context.reactor.seconds)
        self.operator: Operator[File] = Operator(
            "storage.node.operator.file.rotation",
            prefix=prefix.file_level(Level.LOCAL),
            wait=self._wait,
            reconcile=self._reconcile,
            interval=settings.file_rotation_check_interval.seconds,
            concurrency=CONCURRENCY,
            reactor=context.reactor,
        )

    def slices_changed(self, batch: Batch[Slice]) -> None:
        """Track each file's slices at level local; wake the file when the last one leaves it."""
        if batch.reset:
            self._local_slices.clear()
        for change in batch.changes:
            key = change.key.removeprefix(prefix.slice_level(Level.LOCAL))
            file = str(SliceKey.parse(key).file_key)
            if change.value is not None:
                self._local_slices.setdefault(file, set()).add(key)
                continue
            slices = self._local_slices.get(file, set())
            slices.discard(key)
            if not slices:
                self._local_slices.pop(file, None)
                self.operator.wake(file)

    def volumes_changed(self, volumes: Iterable[Volume]) -> None:
        """Replace the files for which there are better volumes now, soon.

        :param volumes: all registered volumes.
        """
        available = frozenset(volume.volume_id for volume in volumes if not volume.drained)
        if available == self._available:
            return
        self._available = available
        reactor = self._context.reactor
        if self._spreading is None or not self._spreading.active():
            self._spreading = reactor.callLater(SPREAD_SECONDS, self._spread)
        if self._moving is not None and self._moving.active():
            self._moving.reset(MOVE_SECONDS)
        else:
            self._moving = reactor.callLater(MOVE_SECONDS, self._move)

    def _spread(self) -> None:
        """Replace files that have too few volumes, because others have become available."""
        available, before = self._available, self._spread_over
        self._spread_over = available
        appeared = available - before if before is not None else frozenset()
        if appeared:
            self._replace(lambda assigned: has_better_volumes(assigned, available, appeared))

    def _move(self) -> None:
        """Replace files whose volumes are all unavailable."""
        available = self._available
        self._replace(lambda assigned: has_other_volumes(assigned, available))

    def _replace(self, is_misplaced: Callable[[Assignment], bool]) -> None:
        # A file that is closed otherwise, or by another coordinator, leaves its decision here.
        self._forced = {key: why for key, why in self._forced.items() if key in self.operator.items}

        def check(item: Item[File]) -> None:
            if item.value.state is FileState.WRITING and is_misplaced(item.value.local.assignment):
                self._forced.setdefault(item.key, _OTHER_VOLUMES)
                self.operator.wake(item.key)

        items = list(self.operator.items.values())
        begin_in_turns(items, check, self._context.reactor, "cannot check the volumes of a file")

    def stop(self) -> None:
        """Stop the timers."""
        for call in (self._spreading, self._moving):
            if call is not None and call.active():
                call.cancel()

    def force(self, sink: SinkKey) -> Sequence[FileKey]:
        """Rotate the open files of *sink* now.

        Raises UserError: another node is responsible for it.
        """
        if not self._is_owner(str(sink.source_key)):
            raise UserError("another coordinator is responsible for the source: use its console")
        forced = []
        for item in self.operator.items.values():
            if item.value.key.sink_key == sink and item.value.state is FileState.WRITING:
                self._forced[item.key] = _REQUESTED
                self.operator.wake(item.key)
                forced.append(item.value.key)
        return forced

    def slices_of(self, file: str) -> Sequence[str]:
        """Return the keys of the file's slices that are at level local."""
        return tuple(self._local_slices.get(file, ()))

    def _wait(self, item: Item[File]) -> float | None:
        file = item.value
        if not self._is_owner(str(file.key.source_key)):
            return None
        retry = file.retry.wait(self._context.now())
        if retry:
            return retry
        if file.state is FileState.CLOSING:
            return self._wait_for_expiration(file) if item.key in self._local_slices else 0
        if file.state is FileState.WRITING and self._context.sink_enabled(file.key.sink_key):
            return self._wait_for_rotation(file)
        return None

    def _wait_for_expiration(self, file: File) -> float | None:
        """Return the time until the credentials expire; see Note [Expired credentials]."""
        if file.staging.expiration is None or not self._context.sink_enabled(file.key.sink_key):
            return None
        return max(0.0, (file.staging.expiration - self._context.now()).total_seconds())

    def _decide(self, file: File) -> Decision:
        return self._forced.get(str(file.key)) or file_rotation(
            file.target.import_,
            file.key.file_opened_at,
            file.staging.expiration,
            self._statistics.file(file.key).total,
            self._context.now(),
        )

    def _wait_for_rotation(self, file: File) -> float | None:
        """Return the time until the file may be rotated.

        A trigger must have fired, and the target must accept the file unless the file can't wait.
        """
        decision = self._decide(file)
        if not decision.rotate:
            return decision.wait
        if self._can_import(file):
            return 0
        message = _GOES_ON_WHEN_THROTTLED.get(decision.condition)
        suppressed = self._throttled.due(f"{file.key.sink_key}/{message or ''}")
        if suppressed is not None:
            _log.emit(
                LogLevel.warn if message is None else LogLevel.error,
                message or "skipping file rotation: sink is throttled",
                file_id=str(file.key),
                cause=decision.cause,
                suppressed=suppressed,
            )
        return self._settings.file_rotation_check_interval.seconds if message is None else 0

    async def _reconcile(self, item: Item[File]) -> None:
        file = item.value
        try:
            with self._context.meter.measured(
                file.key.sink_key,
                "filerotation",
                file.retry.retry_attempt + 1,
                target=file.target.provider,
                item=file.key,
                step="rotateFile" if file.state is FileState.WRITING else "closeFile",
            ) as outcome:
                outcome.statistics = self._statistics.file(file.key).total
                if file.state is FileState.WRITING:
                    outcome.condition = self._decide(file).condition
                    acting = ensureDeferred(self._rotate(file))
                    timeout, what = self._settings.file_rotation_timeout, "the rotation of a file"
                elif item.key in self._local_slices:
                    acting = ensureDeferred(self._renew_staging(file))
                    timeout, what = self._settings.file_rotation_timeout, "new staging of a file"
                else:
                    acting = ensureDeferred(self._close(file.key))
                    timeout, what = self._settings.file_close_timeout, "the closing of a file"
                within(acting, timeout.seconds, self._context.reactor, what)
                await _unless_no_volume(acting)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            _log.error("file rotation failed: {error}", error=error, file_id=str(file.key))
            await self._context.file_failed(file.key, error)

    async def _rotate(self, file: File) -> None:
        decision = self._decide(file)
        self._forced.pop(str(file.key), None)
        source = self._context.source(file.key.source_key)
        sink = self._context.sink(file.key.sink_key)
        if source is None or sink is None:
            raise Requeue(f"the sink of the file {file.key} no longer exists")
        timeout = self._settings.file_rotation_timeout.seconds
        async with self._context.file_lock(file.key, timeout) as lock:
            now = self._context.now()
            if self._is_left_behind(file) and await self._close_left_behind(file.key, now, lock):
                return
            prepared = await self._provider.prepare(source, sink, now, token=None)

            async def body(txn: AtomicTxn) -> File | None:
                return await self._context.repository.rotate_file(
                    txn, file.key, prepared, source, sink
                )

            opened = await self._commit_or_discard(
                atomic(self._context.client, body, lock=lock), prepared
            )
        if opened is None:
            # The mirror delivers a closed file with its new state, and a changed sink with its new
            # definition.
            raise Requeue(
                f"skipped rotation, the file {file.key} is closed or its sink has changed"
            )
        _log.info(
            "rotated file {file_id}: {cause}",
            file_id=file.key,
            cause=decision.cause,
            opened=opened.key,
        )

    def _is_left_behind(self, file: File) -> bool:
        """Return whether a newer file of the sink is known to be open."""
        return any(
            item.value.state is FileState.WRITING
            and item.value.key.sink_key == file.key.sink_key
            and item.value.key > file.key
            for item in self.operator.items.values()
        )

    async def _close_left_behind(self, key: FileKey, now: datetime, lock: Lock) -> bool:
        closed = await atomic(
            self._context.client,
            lambda txn: self._context.repository.close_left_behind(txn, key, now),
            lock=lock,
        )
        if closed:
            _log.warn(
                "closed file {file_id}: a rotation was interrupted, and a newer file is open",
                file_id=key,
            )
        return closed

    async def _commit_or_discard(
        self, committing: Awaitable[File | None], prepared: PreparedFile
    ) -> File | None:
        opened = None
        try:
            opened = await committing
        finally:
            if opened is None:
                await self._provider.discard(prepared)
        if opened is not None:
            await self._provider.committed(prepared)
        return opened

    async def _renew_staging(self, file: File) -> None:
        """Replace expired upload credentials; see Note [Expired credentials]."""
        key, now = file.key, self._context.now()
        sink = self._context.sink(key.sink_key)
        if sink is None:
            raise Requeue(f"the sink of the file {key} no longer exists")
        async with self._context.file_lock(
            key, self._settings.file_rotation_timeout.seconds
        ) as lock:
            current = await read_file(self._context.client, key)
            if current is None or current.staging.expiration != file.staging.expiration:
                raise Requeue(f"the file {key} was deleted, or has other credentials")
            prepared = await self._provider.renew(sink, key)
            committed = False
            try:
                if prepared.expiration is not None and prepared.expiration <= now:
                    raise UserError(
                        f"the new upload credentials of the file {key} have already expired"
                    )
                again = await replace_staging(self._context.client, key, prepared, now, lock)
                committed = True
            except (InvalidFileState, InvalidSliceState) as error:
                raise Requeue(f"cannot replace the staging of the file {key}: {error}") from error
            finally:
                if not committed:
                    await self._provider.discard(prepared)
            await self._provider.committed(prepared)
        _log.warn(
            "the upload credentials of file {file_id} have expired and were replaced; "
            "{again} slices are uploaded again",
            file_id=key,
            again=again,
            expired=file.staging.expiration,
        )

    async def _close(self, key: FileKey) -> None:
        statistics = await one_file_statistics(self._context.client, key)
        is_empty = statistics.total.records_count == 0
        timeout = self._settings.file_close_timeout.seconds
        async with self._context.file_lock(key, timeout) as lock:

            async def body(txn: AtomicTxn) -> None:
                await self._context.repository.file_to_importing(
                    txn, key, is_empty, self._context.now()
                )

            try:
                await atomic(self._context.client, body, lock=lock)
            except InvalidFileState as error:
                _log.warn("file {file_id} is already closed: {error}", file_id=key, error=error)
                return
            except InvalidCombination as error:
                # After the connection to etcd was lost, the file may be loaded before its slices.
                raise Requeue(f"a slice of the file {key} is not uploaded: {error}") from error
        _log.info("closed file {file_id}", file_id=key, is_empty=is_empty)


async def _unless_no_volume(acting: Awaitable[None]) -> None:
    """Treat a missing volume as temporary: a writer that restarts is available again in seconds."""
    try:
        await acting
    except UserError as error:
        if error.name == "noVolumeAvailable":
            raise Requeue(str(error)) from error
        raise
