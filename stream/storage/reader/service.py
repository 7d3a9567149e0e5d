"""The storage-reader component: ``uploading`` → ``uploaded`` for slices on this node's volumes.

Note [Stopping]: when the service stops, it waits briefly for running uploads and then cancels them,
since an upload may take a quarter of an hour. No data is lost: the slice files remain, an
incomplete object isn't visible, and the next reader of the volume uploads the whole slice again. A
cancelled upload doesn't count as a failed attempt, so the next reader doesn't wait. A thread may
still work on a cancelled upload, at worst on the manifest of a file. So the volumes remain locked
until the process has ended, which keeps other readers from uploading at the same time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from stream.concurrency.deadline import within
from stream.definition import prefix as definition_prefix
from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, Mirror, atomic, json_values
from stream.ops.metrics.families import Gauge
from stream.ops.metrics.registry import Metrics
from stream.settings.level import StagingOperatorSettings
from stream.staging import CredentialsExpired, StagingError
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.state import InvalidSliceState, Level, SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.reader.slice_files import CheckedFiles, FileInUse, check_files
from stream.storage.reconcile.operation_meter import OperationMeter, measure_operator, sink_labels
from stream.storage.reconcile.operator import TRANSIENT_ERRORS, Item, Operator, Requeue
from stream.storage.store.records import forget_failures, load_file
from stream.storage.store.repository import StorageRepository
from stream.storage.store.statistics_reads import slice_statistics
from stream.storage.volumes.local_volume import (
    FoundVolume,
    VolumeLock,
    find_volumes,
    read_volume_id,
)
from stream.target.protocol import Staged, StagingReplaced
from stream.target.registry import Targets
from stream.values.bytesize import ByteSize
from stream.values.codec import decode
from stream.values.duration import Duration

__all__ = ["StorageReaderService"]

_log = Logger()

CONCURRENCY = 8
STOP_SECONDS = 10.0
"""How long a stopping service waits for running uploads; see Note [Stopping]."""

_WAIT_FOR_ID_SECONDS = 30.0
_LOOK_FOR_ID_SECONDS = 0.5
_NON_RETRYABLE_DELAY = timedelta(hours=2)
_NON_RETRYABLE_ATTEMPTS = 50
_NEVER = timedelta(days=3650)


class StorageReaderService(Service):
    """The reader's service: it uploads closed slices of its volumes to staging.

    :param pool: a started thread pool for reading and uploading.
    :param now: returns the current time in UTC.
    :param damaged: called with each slice in which a damaged file was found.
    :param metrics: metrics of uploads.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        repository: StorageRepository,
        targets: Targets,
        *,
        node_id: str,
        volumes_path: str,
        settings: StagingOperatorSettings,
        pool: ThreadPool,
        now: Callable[[], datetime],
        damaged: Callable[[SliceKey], None] = lambda _: None,
        metrics: Metrics | None = None,
    ) -> None:
        self._meter = OperationMeter(metrics or Metrics(), reactor.seconds)
        self._damaged = damaged
        self._reactor = reactor
        self._client = client
        self._repository = repository
        self._targets = targets
        self._node_id = node_id
        self._volumes_path = volumes_path
        self._settings = settings
        self._pool = pool
        self._now = now
        self._volumes: dict[str, FoundVolume] = {}
        self._locks: list[VolumeLock] = []
        self._operator: Operator[Slice] = Operator(
            "storage.node.operator.slice.upload",
            prefix=prefix.slice_level(Level.LOCAL),
            wait=self._wait,
            reconcile=self._reconcile,
            interval=settings.slice_upload_check_interval.seconds,
            concurrency=CONCURRENCY,
            reactor=reactor,
        )
        self._sinks: Mirror[bool] = Mirror(
            client,
            definition_prefix.SINK_ACTIVE,
            lambda kv: decode(Sink, kv.value).is_enabled,
            on_change=lambda _: self._operator.wake_all(),
        )
        self._slices: Mirror[Slice] = Mirror(
            client,
            prefix.slice_level(Level.LOCAL),
            json_values(Slice),
            on_change=self._operator.changed,
        )

    async def startService(self) -> None:
        """Lock the volumes and load all slices. The Deferred fires when this is done."""
        super().startService()
        _log.info("starting storage reader node")
        try:
            for found in find_volumes(self._volumes_path):
                volume_id = await self._wait_for_id(found)
                self._locks.append(VolumeLock(found, "reader", self._node_id))
                self._volumes[volume_id] = found
        except BaseException:
            self._release()
            raise
        await self._sinks.startService()
        await self._slices.startService()
        self._operator.startService()
        self._meter.metrics.on_collect(self._collect)

    async def stopService(self) -> None:
        """Stop the uploads.

        The Deferred fires when they have ended or are cancelled; see Note [Stopping].
        """
        super().stopService()
        await self._operator.stopService(STOP_SECONDS)
        await self._slices.stopService()
        await self._sinks.stopService()
        if not self._operator.was_cut_off:
            self._release()

    def _release(self) -> None:
        for lock in self._locks:
            lock.release()
        self._locks = []

    async def _wait_for_id(self, found: FoundVolume) -> str:
        """Wait for the volume's ID, which the writer creates; the writer may start later."""
        deadline = self._reactor.seconds() + _WAIT_FOR_ID_SECONDS
        while True:
            volume_id = read_volume_id(found)
            if volume_id is not None:
                return volume_id
            if self._reactor.seconds() >= deadline:
                raise UserError(f'volume "{found.path}" has no id: no writer has opened it')
            await deferLater(self._reactor, _LOOK_FOR_ID_SECONDS)

    def _failing(self) -> Iterator[Slice]:
        """Return the slices on this node whose upload has failed since they were closed."""
        for item in self._operator.items.values():
            slice_ = item.value
            if (
                slice_.state is SliceState.UPLOADING
                and slice_.retry.retry_attempt
                and slice_.key.volume_id in self._volumes
            ):
                yield slice_

    def _collect(self) -> None:
        metrics = self._meter.metrics
        measure_operator(metrics, self._operator)
        counts = Counter(
            (*attrs.astuple(sink_labels(slice_.key.sink_key)), slice_.staging.provider)
            for slice_ in self._failing()
            if self._is_active(slice_.key.sink_key)
        )
        metrics.own("stream_sink_failing_uploads").replace(
            {labels: Gauge(count) for labels, count in counts.items()}
        )
        self._meter.retire(self._is_active)

    def _is_active(self, sink: SinkKey) -> bool:
        """Return whether the sink exists, enabled or not."""
        return f"{definition_prefix.SINK_ACTIVE}{sink}" in self._sinks.items

    async def retry(self, sink: SinkKey) -> Sequence[SliceKey]:
        """Retry the failed uploads of *sink* now, regardless of their retry delay.

        :returns: the retried slices on this node's volumes.
        """
        failing = [slice_.key for slice_ in self._failing() if slice_.key.sink_key == sink]
        for key in failing:
            await atomic(self._client, partial(forget_failures, key=key))
            _log.info("retrying the upload of slice {slice_id} now", slice_id=str(key))
        return failing

    def _wait(self, item: Item[Slice]) -> float | None:
        slice_ = item.value
        if (
            slice_.state is SliceState.UPLOADING
            and slice_.key.volume_id in self._volumes
            and self._sinks.items.get(f"{definition_prefix.SINK_ACTIVE}{slice_.key.sink_key}")
        ):
            return slice_.retry.wait(self._now())
        return None

    async def _reconcile(self, item: Item[Slice]) -> None:
        slice_ = item.value
        try:
            with self._meter.measured(
                slice_.key.sink_key,
                "sliceupload",
                slice_.retry.retry_attempt + 1,
                target=slice_.staging.provider,
                item=slice_.key,
                step="uploadSlice",
            ) as outcome:
                acting = ensureDeferred(self._upload(slice_))
                timeout = self._settings.slice_upload_timeout.seconds
                within(acting, timeout, self._reactor, "the upload of a slice")
                try:
                    outcome.statistics = await acting
                except CancelledError:
                    raise Requeue(
                        "the reader is stopping; the slice will be uploaded after its restart"
                    ) from None
                except StagingReplaced as reason:
                    raise Requeue(str(reason)) from None
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            await self._failed(item.value, error)

    async def _upload(self, slice_: Slice) -> Statistics:
        """Upload a slice; return what was uploaded."""
        statistics = (await slice_statistics(self._client, slice_.key)).local
        try:
            files: CheckedFiles = await deferToThreadPool(
                self._reactor,
                self._pool,
                check_files,
                self._volumes[slice_.key.volume_id].path,
                slice_.local,
                slice_.encoding.compression.type,
            )
        except FileInUse as reason:
            raise Requeue(str(reason)) from None
        if files.cut:
            _log.error(
                "truncated the unreadable ends of {names}",
                names=files.cut,
                slice_id=str(slice_.key),
            )
        if files.finished:
            _log.info(
                "repaired unfinished gzip streams in {names}, written by the original service",
                names=files.finished,
                slice_id=str(slice_.key),
            )
        if files.damaged:
            _log.error(
                "files of a slice are damaged, uploading their readable parts: see {names}",
                names=files.damaged,
                slice_id=str(slice_.key),
            )
            self._damaged(slice_.key)
        if statistics.records_count > files.rows and not statistics.is_estimate:
            _log.error(
                "the slice {slice_id} has {found} rows on disk, but {counted} were counted",
                slice_id=str(slice_.key),
                found=files.rows,
                counted=statistics.records_count,
            )
        if not files.rows:
            _log.info("slice {slice_id} has no rows to upload", slice_id=str(slice_.key))
            return await self._uploaded(slice_, files)
        target = self._targets.named(slice_.staging.provider)
        started = self._reactor.seconds()
        problem: Exception | None = None
        try:
            async with target.upload(slice_, files.chunks()) as staged:
                counted = await self._uploaded(slice_, files, staged)
        except Exception as error:
            problem = error
            raise
        finally:
            # An upload that is cancelled because the service stops hasn't failed.
            if self.running or not isinstance(problem, CancelledError):
                await target.report_upload(
                    slice_, self._reactor.seconds() - started, problem, statistics
                )
        _log.info(
            "uploaded slice {slice_id}",
            slice_id=str(slice_.key),
            rows=files.rows,
            bytes=files.size,
            duration=str(Duration.of_seconds(self._reactor.seconds() - started)),
        )
        return counted

    async def _uploaded(
        self, slice_: Slice, files: CheckedFiles, staged: Staged | None = None
    ) -> Statistics:
        counted = Statistics(
            records_count=files.rows,
            uncompressed_size=ByteSize(files.uncompressed),
            compressed_size=ByteSize(files.size),
        )

        async def body(txn: AtomicTxn) -> None:
            if staged is not None:
                await staged.check(txn)
            await self._repository.slice_to_uploaded(
                txn, slice_.key, self._now(), is_empty=not files.rows, counted=counted
            )

        try:
            await atomic(self._client, body, lock=staged.lock if staged else None)
        except InvalidSliceState as error:
            _log.warn("slice is already uploaded: {error}", error=error)
        else:
            self._meter.moved(
                "stream_sink_uploaded_records",
                slice_.key.sink_key,
                files.rows,
                target=slice_.staging.provider,
            )
        return counted

    async def _failed(self, slice_: Slice, error: Exception) -> None:
        reason = f"slice upload failed: {error}"
        attempt = slice_.retry.retry_attempt + 1
        delay = None
        if isinstance(error, StagingError) and not error.retryable:
            delay = _NON_RETRYABLE_DELAY if attempt < _NON_RETRYABLE_ATTEMPTS else _NEVER
        if delay == _NEVER:
            _log.error(
                "slice upload permanently failed after {attempt} attempts: {error}",
                attempt=attempt,
                error=error,
                slice_id=str(slice_.key),
            )
        else:
            _log.error("{reason}", reason=reason, slice_id=str(slice_.key), attempt=attempt)

        async def body(txn: AtomicTxn) -> None:
            rest = delay
            if isinstance(error, CredentialsExpired):
                expiration = (await load_file(txn, slice_.key.file_key)).staging.expiration
                if expiration is None or expiration > self._now():
                    rest = None  # the file has been given other credentials
            await self._repository.slice_failed(txn, slice_.key, reason, self._now(), rest)

        await atomic(self._client, body)
