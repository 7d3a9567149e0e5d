"""Slices: ``writing`` → a new slice and ``closing`` → ``uploading``.

Note [Closing a slice]: a slice becomes ``uploading`` only after every source node has reported that
it no longer writes to it, however long that takes. A dead node is no longer waited for when its
lease ends. Only then are the statistics final. To decide whether the slice is empty, they are read
from etcd, not from the cache.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger

from stream.concurrency.deadline import within
from stream.etcd import AtomicTxn, atomic
from stream.settings.level import StagingOperatorSettings
from stream.storage.coordinator.closesync import CloseSync
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.statistics_cache import StatisticsCache
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.state import InvalidSliceState, Level, SliceState
from stream.storage.model.triggers import Decision, slice_rotation
from stream.storage.reconcile.operator import TRANSIENT_ERRORS, Item, Operator, Requeue
from stream.storage.store.statistics_reads import slice_statistics

__all__ = ["SliceRotation"]

_log = Logger()

CONCURRENCY = 20


class SliceRotation:
    """The operator that rotates slices, and releases closed slices for upload.

    :param is_owner: whether this node is responsible for a source, given the source's key.
    """

    def __init__(
        self,
        context: CoordinatorContext,
        statistics: StatisticsCache,
        close_sync: CloseSync,
        settings: StagingOperatorSettings,
        is_owner: Callable[[str], bool],
    ) -> None:
        self._context = context
        self._statistics = statistics
        self._close_sync = close_sync
        self._settings = settings
        self._is_owner = is_owner
        self.operator: Operator[Slice] = Operator(
            "storage.node.operator.slice.rotation",
            prefix=prefix.slice_level(Level.LOCAL),
            wait=self._wait,
            reconcile=self._reconcile,
            interval=settings.slice_rotation_check_interval.seconds,
            concurrency=CONCURRENCY,
            reactor=context.reactor,
        )

    def close_sync_changed(self) -> None:
        """Wake the closing slices, because a source node has reported a new revision."""
        for item in self.operator.items.values():
            if item.value.state is SliceState.CLOSING:
                self.operator.wake(item.key)

    def _wait(self, item: Item[Slice]) -> float | None:
        slice_ = item.value
        if not self._is_owner(str(slice_.key.source_key)):
            return None
        retry = slice_.retry.wait(self._context.now())
        if retry:
            return retry
        if slice_.state is SliceState.WRITING:
            decision = self._decide(slice_)
            return 0 if decision.rotate else decision.wait
        if slice_.state is SliceState.CLOSING and self._close_sync.reached(item.mod_revision):
            return 0
        return None

    def _decide(self, slice_: Slice) -> Decision:
        return slice_rotation(
            slice_.staging.upload,
            slice_.key.slice_opened_at,
            self._statistics.slice(slice_.key).local,
            self._context.now(),
        )

    async def _reconcile(self, item: Item[Slice]) -> None:
        slice_ = item.value
        try:
            with self._context.meter.measured(
                slice_.key.sink_key,
                "slicerotation",
                slice_.retry.retry_attempt + 1,
                target=slice_.staging.provider,
                item=slice_.key,
                step="rotateSlice" if slice_.state is SliceState.WRITING else "closeSlice",
            ) as outcome:
                outcome.statistics = self._statistics.slice(slice_.key).total
                if slice_.state is SliceState.WRITING:
                    outcome.condition = self._decide(slice_).condition
                    acting = ensureDeferred(self._rotate(slice_))
                    timeout = self._settings.slice_rotation_timeout
                    what = "the rotation of a slice"
                else:
                    acting = ensureDeferred(self._close(item))
                    timeout = self._settings.slice_close_timeout
                    what = "the closing of a slice"
                await within(acting, timeout.seconds, self._context.reactor, what)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            await self._failed(item.value.key, error)

    async def _rotate(self, slice_: Slice) -> None:
        decision = self._decide(slice_)
        timeout = self._settings.slice_rotation_timeout.seconds
        async with self._context.file_lock(slice_.key.file_key, timeout) as lock:

            async def body(txn: AtomicTxn) -> Slice | None:
                return await self._context.repository.rotate_slice(
                    txn, slice_.key, self._context.now()
                )

            opened = await atomic(self._context.client, body, lock=lock)
        if opened is None:
            _log.info("skipped slice rotation, slice {slice_id} is closed", slice_id=slice_.key)
        else:
            _log.info(
                "rotated slice {slice_id}: {cause}",
                slice_id=slice_.key,
                cause=decision.cause,
                opened=opened.key,
            )

    async def _close(self, item: Item[Slice]) -> None:
        key = item.value.key
        if not await self._close_sync.confirm(item.mod_revision):
            raise Requeue(f"a source node still writes to the slice {key}")
        statistics = await slice_statistics(self._context.client, key)
        is_empty = statistics.total.records_count == 0

        async def body(txn: AtomicTxn) -> None:
            await self._context.repository.slice_to_uploading(
                txn, key, is_empty, self._context.now()
            )

        try:
            await atomic(self._context.client, body)
        except InvalidSliceState as error:
            _log.info("slice {slice_id} is already closed: {error}", slice_id=key, error=error)
            return
        _log.info("closed slice {slice_id}", slice_id=key, is_empty=is_empty)

    async def _failed(self, key: SliceKey, error: Exception) -> None:
        _log.error("slice rotation failed: {error}", error=error, slice_id=str(key))

        reason = str(error)

        async def body(txn: AtomicTxn) -> None:
            await self._context.repository.slice_failed(txn, key, reason, self._context.now())

        await atomic(self._context.client, body)
