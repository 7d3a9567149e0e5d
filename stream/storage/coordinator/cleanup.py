"""Periodic cleanup: old files, finished import jobs, unused mappings, stranded sinks, sizes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from operator import add
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    ensureDeferred,
)
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.concurrency.slots import Slots
from stream.definition.key import SinkKey
from stream.definition.prefix import SINK_ACTIVE, SINK_DELETED
from stream.definition.size import count_again, projects_to_count
from stream.ops.tracing.spans import span
from stream.settings.storage import JobCleanupSettings, MetadataCleanupSettings
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.stranded_sinks import StrandedSinks
from stream.storage.model.entity import File
from stream.storage.model.key import FileKey, JobKey
from stream.storage.model.prefix import FILE_ALL
from stream.storage.model.state import FileState
from stream.storage.store import records
from stream.storage.store.mapping_cleanup import delete_unused_mappings, sinks_with_mappings
from stream.target.protocol import Target, TargetUnavailable
from stream.target.registry import Targets
from stream.values.utctime import age

__all__ = ["JobCleanup", "MetadataCleanup", "expired_files"]

_log = Logger()
T = TypeVar("T")

RUN_SECONDS = 300.0
_BEHIND_ALL_TIMES = "\x7f"


class _Periodic(Service):
    """Runs at startup and then at an interval.

    Runs never overlap, and each has a time limit.
    """

    span_name = ""

    def __init__(self, reactor: Any, interval: float, concurrency: int, tolerance: int) -> None:
        self._reactor = reactor
        self._interval = interval
        self._tolerance = tolerance
        self._slots = Slots(concurrency)
        self._loop = LoopingCall(self._run_once)
        self._loop.clock = reactor
        self._running: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval, now=True).addErrback(
            lambda failure: _log.failure("cleanup stopped", failure)
        )

    async def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()
            await self._running

    def _run_once(self) -> Deferred[None]:
        self._running = ensureDeferred(self._traced())
        self._running.addTimeout(RUN_SECONDS, self._reactor)
        self._running.addErrback(self._failed)
        return self._running

    async def _traced(self) -> None:
        with span(f"keboola.go.stream.model.{self.span_name}", is_root=True):
            await self.run()

    def _failed(self, failure: Failure) -> None:
        if self.running or failure.check(CancelledError) is None:  # A stop cancels a run.
            _log.failure("cleanup failed", failure)

    async def run(self) -> None:
        """Run the cleanup once."""
        raise NotImplementedError

    async def each(self, items: Sequence[T], clean_up: Callable[[T], Awaitable[bool]]) -> list[int]:
        """Clean up all items; return how many were deleted, retained and failed."""
        counts = [0, 0, 0]
        unavailable: set[str] = set()

        async def one(item: T) -> None:
            if counts[2] > self._tolerance:
                return
            try:
                counts[0 if await clean_up(item) else 1] += 1
            except TargetUnavailable as error:
                # This doesn't count as a failure, since it may affect many items at the same place
                # but says nothing about items elsewhere.
                counts[1] += 1
                if error.place not in unavailable:
                    unavailable.add(error.place)
                    _log.warn("cannot clean up {item}: {error}", item=item, error=error)
            except Exception:
                counts[2] += 1
                _log.failure("cannot clean up {item}", item=item)

        await DeferredList([self._slots.run(partial(one, item)) for item in items])
        return counts


class MetadataCleanup(_Periodic):
    """The periodic deletion of old files and slices from etcd.

    :param is_owner: whether this node is responsible for a project, given the project's ID.
    """

    span_name = "metacleanup.cleanMetadataFiles"

    def __init__(
        self,
        context: CoordinatorContext,
        settings: MetadataCleanupSettings,
        is_owner: Callable[[str], bool],
        targets: Targets,
    ) -> None:
        super().__init__(
            context.reactor,
            settings.interval.seconds,
            settings.concurrency,
            settings.error_tolerance,
        )
        self._context = context
        self._settings = settings
        self._is_owner = is_owner
        self._targets = targets
        self._stranded = StrandedSinks(context, targets)

    async def run(self) -> None:
        expired: list[File] = []
        retained = 0
        for sink in await self._sinks():
            files = await records.read_files(self._context.client, sink)
            is_purged = await self._is_purged(sink)
            due = expired_files(files, self._settings, self._context.now(), is_purged=is_purged)
            retained += len(files) - len(due)
            expired += due
        deleted, kept, errors = await self.each(expired, self._delete_measured)
        _log.info(
            "cleanup deleted {deleted} files, retained {retained} files, {errors} errors",
            deleted=deleted,
            retained=retained + kept,
            errors=errors,
        )
        await self._delete_stranded_sinks()
        await self._clean_mappings()
        await self._count_definitions()

    async def _delete_stranded_sinks(self) -> None:
        owned = [key for key in self._stranded.sources() if self._is_owner(str(key.project_id))]
        await self.each(owned, self._stranded.delete)

    async def _clean_mappings(self) -> None:
        """Delete the mappings of permanently deleted sinks that have no more files."""
        unknown = [
            sink
            for sink in await sinks_with_mappings(self._context.client)
            if self._is_owner(str(sink.project_id)) and self._context.sink(sink) is None
        ]
        deleted, _, errors = await self.each(
            unknown,
            lambda sink: delete_unused_mappings(self._context.client, sink, self._context.now()),
        )
        if deleted or errors:
            _log.info(
                "cleanup deleted the mappings of {deleted} sinks, {errors} errors",
                deleted=deleted,
                errors=errors,
            )

    async def _count_definitions(self) -> None:
        """Count the definitions of projects again; see Note [Drift] of `stream.definition.size`."""
        now = self._context.now()
        owned = [
            project_id
            for project_id in await projects_to_count(self._context.client, now)
            if self._is_owner(str(project_id))
        ]
        await self.each(owned, partial(count_again, self._context.client, now=now))

    async def _sinks(self) -> list[SinkKey]:
        """Return the sinks that have files, in the projects that this node is responsible for.

        They are found by their files, because a permanently deleted sink has no other records.
        """
        sinks: list[SinkKey] = []
        behind = ""
        while True:
            found = await self._context.client.range(
                FILE_ALL, limit=1, start_after=behind, keys_only=True
            )
            if not found.kvs:
                return sinks
            sink = FileKey.parse(found.kvs[0].key.removeprefix(FILE_ALL)).sink_key
            if self._is_owner(str(sink.project_id)):
                sinks.append(sink)
            behind = f"{sink}/{_BEHIND_ALL_TIMES}"

    async def _is_purged(self, sink: SinkKey) -> bool:
        """Return whether the sink was deleted for good."""
        if self._context.sink(sink) is not None:
            return False
        keys = [f"{SINK_ACTIVE}{sink}", f"{SINK_DELETED}{sink}"]
        found, _ = await self._context.client.get_many(keys, keys_only=True)
        return all(stored is None for stored in found.values())

    async def _delete_measured(self, file: File) -> bool:
        with self._context.meter.measured(
            file.key.sink_key,
            "filecleanup",
            target=file.target.provider,
            item=file.key,
            step="deleteFile",
        ):
            return await self._delete(file)

    async def _delete(self, file: File) -> bool:
        """Delete a file under the operators' lock; return False if another node works on it.

        The staged objects are deleted before the records. After a crash between the two steps, the
        next run finds the records that remain; objects without records would never be found.
        """
        lock = await self._context.session.try_lock(f"operator.file.{file.key}")
        if lock is None:
            return False
        async with lock:
            current = await records.read_file(self._context.client, file.key)
            if current is None or current.state is not file.state:
                return False
            await self._targets.delete_staged(file)
            statistics = await self._context.repository.delete_file(
                self._context.client, file.key, lock, self._targets.file_records(file)
            )
        if file.state is FileState.IMPORTED:
            _log.info("deleted expired file {file_id}", file_id=str(file.key))
        else:
            _log.warn(
                "deleted the file {file_id}, which was never imported, with {count} records",
                file_id=str(file.key),
                state=file.state.value,
                count=statistics.records_count,
            )
        return True


def expired_files(
    files: Sequence[File],
    settings: MetadataCleanupSettings,
    now: datetime,
    *,
    is_purged: bool = False,
) -> list[File]:
    """Return the files of a sink that are due for deletion. Pure.

    Imported files are deleted when they are old enough, except the newest ones. Other files are
    deleted only when they have been stuck for so long that their data is considered lost.

    :param is_purged: whether the sink was deleted for good; then no imported file is retained.
    """
    retained = -1 if is_purged else settings.archived_file_retention_per_sink
    newest_first = sorted(files, key=lambda file: file.key, reverse=True)
    expired = []
    for index, file in enumerate(newest_first):
        if file.state is FileState.IMPORTED:
            seconds = age(file.last_change_at, now).total_seconds()
            old = seconds >= settings.archived_file_expiration.seconds
            if old and index > retained:
                expired.append(file)
        # If the clock was set back, the data isn't considered lost.
        elif (now - file.last_change_at).total_seconds() >= settings.active_file_expiration.seconds:
            expired.append(file)
    return expired


class JobCleanup(_Periodic):
    """The periodic deletion of finished jobs from etcd.

    :param is_owner: whether this node is responsible for a project, given the project's ID.
    """

    span_name = "jobcleanup.cleanJobs"

    def __init__(
        self,
        context: CoordinatorContext,
        settings: JobCleanupSettings,
        is_owner: Callable[[str], bool],
        targets: Targets,
    ) -> None:
        super().__init__(
            context.reactor,
            settings.interval.seconds,
            settings.concurrency,
            settings.error_tolerance,
        )
        self._context = context
        self._is_owner = is_owner
        self._targets = targets

    async def run(self) -> None:
        deleted = retained = errors = 0
        for target in self._targets:
            owned = [job for job in target.running_jobs() if self._is_owner(str(job.project_id))]
            counts = await self.each(owned, partial(self._forget_finished, target))
            deleted, retained, errors = map(add, (deleted, retained, errors), counts)
        if deleted or errors:
            _log.info(
                "cleanup deleted {deleted} jobs, retained {retained} jobs, {errors} errors",
                deleted=deleted,
                retained=retained,
                errors=errors,
            )

    async def _forget_finished(self, target: Target, job: JobKey) -> bool:
        with self._context.meter.measured(
            job.sink_key, "jobcleanup", target=target.name, item=job, step="deleteJob"
        ):
            return await target.forget_finished(job)
