"""Deliberate faults in the service, each of which the simulation must detect."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import DeferredList, ensureDeferred

from stream.errors import UserError
from stream.etcd.claims import Claim, Claims
from stream.sink.outcome import shutting_down
from stream.sink.router import SinkRouter
from stream.sink.sink_pipeline import SinkPipeline
from stream.storage.network.interface import WriterError
from stream.storage.writer import disk

__all__ = ["VARIANTS", "Variant"]

_Patches = dict[str, Any]


@attrs.frozen
class Variant:
    """A deliberate fault.

    :ivar patches: the replaced attributes.
    :ivar faults: the kinds of faults that reveal it.
    :ivar symptom: a part of the reported violation.
    :ivar start: a seed that is likely to reveal it.
    """

    patches: _Patches
    faults: tuple[str, ...]
    symptom: str = ""
    start: int = 0


def _sync_nothing(*_: object) -> dict[disk.DiskFile, WriterError]:
    return {}


_open_disk_file = disk.open_disk_file


def _ignore_resume(*args: Any, **options: Any) -> disk.DiskFile:
    return _open_disk_file(*args, **{**options, "resume": -1})


async def _confirm_at_once(self: object, revision: int) -> bool:
    return True


_slices_changed = SinkRouter._slices_changed


async def _report_first(self: SinkRouter, batch: Any) -> None:
    if self._report is not None:
        ensureDeferred(self._report.update(str(batch.revision).encode()))
    await _slices_changed(self, batch)


async def _count_nothing(self: object, volume_id: str) -> None:
    pass


async def _stop_in_the_middle(self: SinkRouter) -> None:
    Service.stopService(self)
    self.refusal = shutting_down()
    await self._sinks.stopService()
    await self._slices.stopService()
    await DeferredList([ensureDeferred(p.close(self.refusal)) for p in self._pipelines.values()])
    if self._report is not None:
        await self._report.remove()


async def _close_without_the_change(self: SinkPipeline, reason: UserError) -> None:
    self._stopped = reason
    await self._close_all()


async def _take_by_force(self: Claims, claim: Claim) -> None:
    claim.number = 1


async def _retake_nothing(self: Claims) -> None:
    pass


def _keep_pipelines(self: SinkRouter) -> None:
    self.refusal = UserError("the lease is lost", status=503, name="leaseLost")


def _renew(self: SinkRouter) -> None:
    if self.running:
        self.refusal = None


VARIANTS = {
    "lets two lives of a node write": Variant(
        {
            "stream.etcd.claims.Claims.take": _take_by_force,
            "stream.etcd.claims.Claims.retake": _retake_nothing,
            "stream.etcd.claims.Claims.lost": lambda self: None,
            "stream.etcd.claims.Claims.are_held": True,
            "stream.sink.router.SinkRouter.session_lost": _keep_pipelines,
            "stream.sink.router.SinkRouter.session_renewed": _renew,
            "stream.storage.writer.writer._check_number": lambda source, present: None,
            "stream.storage.writer.disk._is_last_of": lambda path, life: True,
            "stream.storage.writer.server.WriterFactory.latest_life": lambda self, node: 0,
        },
        ("double",),
        "is lost",
    ),
    "answers before the sync": Variant(
        {"stream.storage.writer.appender._sync_all": _sync_nothing}, ("power",), "is lost"
    ),
    "doesn't sync directories": Variant(
        {"stream.storage.writer.disk._sync_entries": lambda path, root: None}, ("power",), "is lost"
    ),
    "doesn't cut what is sent again": Variant(
        {"stream.storage.writer.writer.open_disk_file": _ignore_resume},
        ("cut",),
        "is there 2 times",
    ),
    "doesn't wait for source nodes": Variant(
        {
            "stream.storage.coordinator.closesync.CloseSync.reached": lambda self, revision: True,
            "stream.storage.coordinator.closesync.CloseSync.confirm": _confirm_at_once,
            "stream.storage.reader.slice_files.is_in_use": lambda descriptor: False,
        },
        ("block", "pause"),
        start=14,
    ),
    "reports before it has closed": Variant(
        {
            "stream.sink.router.SinkRouter._slices_changed": _report_first,
            "stream.storage.reader.slice_files.is_in_use": lambda descriptor: False,
        },
        ("block", "pause"),
        start=9,
    ),
    "uploads what is still open": Variant(
        {"stream.storage.reader.slice_files.is_in_use": lambda descriptor: False},
        ("etcd", "pause", "watches", "block"),
        "after it was uploaded",
        start=230,
    ),
    "stops in the middle of a change": Variant(
        {
            "stream.sink.router.SinkRouter.stopService": _stop_in_the_middle,
            "stream.sink.sink_pipeline.SinkPipeline.close": _close_without_the_change,
        },
        ("term", "pause"),
        "without an answer",
    ),
    "doesn't look for uncounted rows": Variant(
        {"stream.storage.writer.service.StorageWriterService._check_counts": _count_nothing},
        ("kill", "pause"),
        "looks empty",
        start=41,
    ),
}
