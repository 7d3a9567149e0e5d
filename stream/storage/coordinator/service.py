"""The storage-coordinator component: all operators, their groups and mirrors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.logger import Logger

from stream.definition.entity import Sink
from stream.definition.key import SinkKey
from stream.definition.prefix import SINK_ACTIVE
from stream.etcd import Batch, EtcdClient, Group, Mirror, Session, json_values
from stream.ops.metrics.families import Gauge
from stream.ops.process.ordered_services import OrderedServices
from stream.settings import Settings
from stream.storage.coordinator.cleanup import JobCleanup, MetadataCleanup
from stream.storage.coordinator.closesync import CloseSync
from stream.storage.coordinator.context import CoordinatorContext
from stream.storage.coordinator.file_import import FileImport
from stream.storage.coordinator.file_rotation import FileRotation
from stream.storage.coordinator.slice_rotation import SliceRotation
from stream.storage.coordinator.statistics_cache import StatisticsCache
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.pending import pending_by_sink
from stream.storage.model.state import Level
from stream.storage.model.volume import Volume
from stream.storage.reconcile.operation_meter import measure_operator, sink_labels
from stream.storage.reconcile.operator import Operator
from stream.target.registry import Targets

__all__ = ["StorageCoordinatorService"]

_log = Logger()


class StorageCoordinatorService(Service):
    """The coordinator's service: operators that rotate, close, import and clean up.

    :param group: returns this node's membership in a group, given the group's name.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        session: Session,
        context: CoordinatorContext,
        settings: Settings,
        targets: Targets,
        group: Callable[[str], Group],
    ) -> None:
        level = settings.storage.level
        groups = {
            name: group(name)
            for name in (
                "operator.file.rotation",
                "operator.slice.rotation",
                "operator.file.import",
                "storage.metadata.cleanup",
                "storage.jobs.cleanup",
            )
        }
        context.sinks.listen(self._sinks_changed)
        self._statistics = StatisticsCache(client, self._statistics_changed)
        self._close_sync = CloseSync(client, self._close_sync_changed)
        self._slice_rotation = SliceRotation(
            context,
            self._statistics,
            self._close_sync,
            level.staging.operator,
            groups["operator.slice.rotation"].is_owner,
        )
        self._file_rotation = FileRotation(
            context,
            self._statistics,
            targets,
            level.target.operator,
            groups["operator.file.rotation"].is_owner,
            targets.may_import,
        )
        self._file_import = FileImport(
            context,
            targets.import_file,
            level.target.operator,
            groups["operator.file.import"].is_owner,
            self._statistics.file,
        )
        local_slices: Mirror[Slice] = Mirror(
            client,
            prefix.slice_level(Level.LOCAL),
            json_values(Slice),
            on_change=self._slices_changed,
        )
        local_files: Mirror[File] = Mirror(
            client,
            prefix.file_level(Level.LOCAL),
            json_values(File),
            on_change=self._file_rotation.operator.changed,
        )
        staged_files: Mirror[File] = Mirror(
            client,
            prefix.file_level(Level.STAGING),
            json_values(File),
            on_change=self._file_import.operator.changed,
        )
        self._services = OrderedServices(
            [
                *groups.values(),
                context.sources,
                context.sinks,
                *targets.import_services,
                self._statistics,
                self._close_sync,
                local_slices,
                local_files,
                staged_files,
                self._file_rotation.operator,
                self._slice_rotation.operator,
                self._file_import.operator,
            ],
            reactor,
        )
        if settings.storage.metadata_cleanup.enable:
            owner = groups["storage.metadata.cleanup"].is_owner
            self._services.append(
                MetadataCleanup(context, settings.storage.metadata_cleanup, owner, targets)
            )
        if settings.storage.job_cleanup.enable:
            owner = groups["storage.jobs.cleanup"].is_owner
            self._services.append(JobCleanup(context, settings.storage.job_cleanup, owner, targets))
        self._context = context
        self._owns_imports = groups["operator.file.import"].is_owner
        context.meter.metrics.on_collect(self._collect)
        for member in groups.values():
            member.on_change(self._topology_changed)

    async def startService(self) -> None:
        """Start the operators.

        The Deferred fires when every mirror is loaded and the operators run.
        """
        super().startService()
        _log.info("starting storage coordinator node")
        await self._services.startService()

    async def stopService(self) -> None:
        """Stop the operators. The Deferred fires when no operation is running."""
        super().stopService()
        self._file_rotation.stop()
        await self._services.stopService()

    def volumes_changed(self, volumes: Iterable[Volume]) -> None:
        """Replace the files for which there are better volumes among all registered *volumes*."""
        self._file_rotation.volumes_changed(volumes)

    def _collect(self) -> None:
        """Export the number and age of pending records, for this node's share of the sources."""
        metrics, now = self._context.meter.metrics, self._context.now()
        ages: dict[tuple[str, ...], Gauge] = {}
        counts: dict[tuple[str, ...], Gauge] = {}
        for key, pending in pending_by_sink(self._statistics.files()).items():
            if self._owns_imports(str(key.source_key)) and self._context.sink(key) is not None:
                labels = attrs.astuple(sink_labels(key))
                ages[labels] = Gauge(max(0.0, (now - pending.oldest).total_seconds()))
                counts[labels] = Gauge(pending.records)
        metrics.own("stream_sink_oldest_record_age_seconds").replace(ages)
        metrics.own("stream_sink_pending_records").replace(counts)
        for operator in self.operators:
            measure_operator(metrics, operator)
        self._context.meter.retire(lambda key: self._context.sink(key) is not None)

    @property
    def operators(self) -> Sequence[Operator[Any]]:
        """Return all operators of this node."""
        return (
            self._file_rotation.operator,
            self._slice_rotation.operator,
            self._file_import.operator,
        )

    def rotate(self, sink: SinkKey) -> Sequence[FileKey]:
        """Rotate the open files of *sink* now, regardless of its settings.

        Raises UserError: another coordinator is responsible for its source.
        """
        return self._file_rotation.force(sink)

    def _statistics_changed(self, file: str) -> None:
        """Check new statistics at once, so that rotation by count and size needs no timer."""
        self._file_rotation.operator.wake(file)
        for key in self._file_rotation.slices_of(file):
            self._slice_rotation.operator.wake(key)

    def _close_sync_changed(self) -> None:
        self._slice_rotation.close_sync_changed()

    def _slices_changed(self, batch: Batch[Slice]) -> None:
        self._slice_rotation.operator.changed(batch)
        self._file_rotation.slices_changed(batch)

    def _sinks_changed(self, batch: Batch[Sink]) -> None:
        """Wake the files of the sinks that were just enabled."""
        sinks = {change.key.removeprefix(SINK_ACTIVE) for change in batch.changes}
        for operator in (self._file_rotation.operator, self._file_import.operator):
            for item in operator.items.values():
                if str(item.value.key.sink_key) in sinks:
                    operator.wake(item.key)

    def _topology_changed(self) -> None:
        """Reevaluate ownership: nodes have joined or left."""
        for operator in (
            self._file_rotation.operator,
            self._slice_rotation.operator,
            self._file_import.operator,
        ):
            operator.wake_all()
