"""The storage-writer component: volumes, the listener for source nodes, registration, cleanup."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import (
    Deferred,
    DeferredList,
    TimeoutError,
    ensureDeferred,
    maybeDeferred,
)
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, LogLevel
from twisted.protocols.tls import TLSMemoryBIOFactory

from stream.concurrency.deadline import within
from stream.errors import UserError
from stream.etcd import Batch, EtcdClient, EtcdError, Mirror, Registration, Session
from stream.ops.clock import wall_clock
from stream.ops.durable import require_durable_files
from stream.ops.endpoint import server_endpoint
from stream.ops.logging.throttle import LogThrottle
from stream.ops.metrics.families import Histogram
from stream.ops.metrics.registry import Metrics, VolumeLabels
from stream.ops.tracing.spans import span
from stream.settings.address import is_loopback, split_address
from stream.settings.local import WriterNetworkSettings
from stream.settings.storage import DiskCleanupSettings
from stream.storage.model import prefix
from stream.storage.model.entity import slice_directory
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level, SliceState
from stream.storage.model.volume import Volume
from stream.storage.network.tls import credentials
from stream.storage.volumes.fault import is_of_disk
from stream.storage.volumes.local_volume import (
    DRAIN_FILE,
    FoundVolume,
    VolumeGone,
    VolumeLock,
    check_volume,
    find_volumes,
    free_bytes,
    is_drained,
    name_volumes,
)
from stream.storage.writer.cleanup import (
    remove_directories,
    remove_empty_parents,
    slice_directories,
)
from stream.storage.writer.marked_files import MarkedGroup, marked_groups
from stream.storage.writer.register import WRITABLE, EtcdRegister, state_of
from stream.storage.writer.requests import DEFAULT_KEYS, DEFAULT_SECONDS, Requests
from stream.storage.writer.server import WriterFactory
from stream.storage.writer.uncounted import CHECK_SECONDS, UncountedRows
from stream.storage.writer.writer import OpenVolume, StorageWriter
from stream.values.codec import encode

__all__ = ["StorageWriterService"]

_log = Logger()

WATCH_VOLUMES_SECONDS = 1.0
MIN_FREE_BYTES = 64 * 1024 * 1024

CLEANUP_SECONDS = 300.0
STOP_SECONDS = 10.0
"""How long a stopping writer waits for the files and threads of a disk that may never respond."""

_LEAVE_POLL_SECONDS = 0.05
_UNSEEN_LOG_SECONDS = 60.0


class StorageWriterService(Service):
    """The writer's service: its volumes, their registration and the listener.

    :param volumes_path: see `stream.storage.volumes.local_volume.find_volumes`.
    :param address_host: host name or address that other nodes use to reach this one.
    :param metrics: metrics of volumes, queues and syncs.
    :param damaged: called with each slice in which a damaged file was found.
    :param min_free_bytes: a volume with less free space counts as drained; its open slices may
        still grow.
    :param remembered_seconds: how long requests with idempotency keys are remembered.
    :param max_keys: maximum number of remembered requests.

    :ivar writer: opens files for pipelines in the same process.
    """

    def __init__(
        self,
        reactor: Any,
        client: EtcdClient,
        session: Session,
        *,
        node_id: str,
        address_host: str,
        volumes_path: str,
        network: WriterNetworkSettings,
        cleanup: DiskCleanupSettings,
        damaged: Callable[[SliceKey], None] = lambda _: None,
        min_free_bytes: int = MIN_FREE_BYTES,
        metrics: Metrics | None = None,
        remembered_seconds: float = DEFAULT_SECONDS,
        max_keys: int = DEFAULT_KEYS,
    ) -> None:
        self._metrics = metrics or Metrics()
        requests = Requests(remembered_seconds, max_keys, reactor.seconds)
        self.writer = StorageWriter(
            reactor, EtcdRegister(client), damaged, requests, self._file_opened
        )
        self._now = wall_clock(reactor)
        self._reactor = reactor
        self._client = client
        self._session = session
        self._node_id = node_id
        self._address_host = address_host
        self._volumes_path = volumes_path
        self._network = network
        self._cleanup = cleanup
        self._min_free_bytes = min_free_bytes
        self._factory = WriterFactory(
            self.writer,
            network.secret,
            reactor,
            silence_seconds=max(
                2 * network.keep_alive_interval.seconds, network.stream_write_timeout.seconds
            ),
        )
        self._port: IListeningPort | None = None
        self._volumes: list[OpenVolume] = []
        self._locks: dict[Path, VolumeLock] = {}
        self._uncounted: dict[str, UncountedRows] = {}
        self._unchecked = LogThrottle(_UNSEEN_LOG_SECONDS, reactor.seconds)
        self._unseen = LogThrottle(_UNSEEN_LOG_SECONDS, reactor.seconds)
        self._registrations: dict[str, Registration] = {}
        self._slices: Mirror[SliceState] = Mirror(
            client,
            prefix.slice_level(Level.LOCAL),
            state_of,
            on_change=self._slices_changed,
        )
        self._loops: list[LoopingCall] = []

    async def startService(self) -> None:
        """Start the writer. The Deferred fires when volumes are open and registered."""
        super().startService()
        require_durable_files()
        try:
            await self._open_volumes()
            _log.info("starting storage writer node")
            await self._slices.startService()
            self._port = await self._listen()
            _log.info('disk writer listening on "{address}"', address=self._network.listen)
            await self._register()
        except BaseException:
            await self._deregister()
            await self._release()
            raise
        self._metrics.on_collect(self._collect)
        for volume in self._volumes:
            self._loop(partial(self._watch, volume), WATCH_VOLUMES_SECONDS)
            self._loop(partial(self._check_counts, volume.volume_id), CHECK_SECONDS, now=True)
        if self._cleanup.enabled:
            self._loop(self._clean_up, self._cleanup.interval.seconds, now=True)
        else:
            _log.info("local storage disk cleanup is disabled")

    async def _listen(self) -> IListeningPort:
        found = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), credentials, self._network.tls
        )
        host = split_address(self._network.listen)[0]
        if found is None and not self._network.secret and not is_loopback(host):
            if not self._network.insecure:
                raise UserError(
                    f'any host that reaches "{self._network.listen}" could write to the volumes: '
                    "set storage.level.local.writer.network.secret "
                    "(STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_SECRET) or tls, with the same "
                    "values on source nodes, or listen on 127.0.0.1; to allow access without "
                    "protection, set insecure: true"
                )
            _log.warn(
                'any host that reaches "{address}" can write to the volumes, because insecure is '
                "set",
                address=self._network.listen,
            )
        factory: IProtocolFactory = self._factory
        if found is not None:
            factory = TLSMemoryBIOFactory(found.server(), False, factory)
        port: IListeningPort = await server_endpoint(self._reactor, self._network.listen).listen(
            factory
        )
        return port

    async def _open_volumes(self) -> None:
        _log.info("searching for volumes in volumes path", volumes_path=self._volumes_path)
        named = await deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._lock_volumes
        )
        for volume_id, found in named.items():
            about = {
                "volume_id": volume_id,
                "volume_type": found.type,
                "volume_label": found.label,
                "volume_path": str(found.path),
            }
            _log.info("found volume", **about)
            _log.info("opening volume", **about)
            volume = OpenVolume(found, volume_id, self._reactor, self._synced_on(volume_id))
            volume.pool.start()
            self._volumes.append(volume)
            self._uncounted[volume_id] = UncountedRows(self._client, volume, self._local_slices)
            self.writer.add_volume(volume)
            await self._look_at(volume)
            await self._remember(volume)
            _log.info("opened volume", drained=volume.drained, **about)
        _log.info("found {count} volumes", count=len(named))

    async def _remember(self, volume: OpenVolume) -> None:
        """Find the requests with idempotency keys that have rows here, before any attempt asks."""
        requests = self.writer.requests
        since = self._now() - requests.seconds
        groups: list[MarkedGroup] = await volume.appender.run(
            partial(marked_groups, volume.found.path, since, requests.max_keys)
        )
        for group in groups:
            requests.found(group.file, group.sink, group.end, group.marks)

    def _synced_on(self, volume_id: str) -> Callable[[float], None]:
        family = self._metrics.own("stream_writer_sync_milliseconds")
        histogram: Histogram = family.labels({"volume_id": volume_id})
        return lambda seconds: histogram.observe(seconds * 1000)

    def _collect(self) -> None:
        for volume in self._volumes:
            labels = {"volume_id": volume.volume_id}
            own = self._metrics.own
            own("stream_writer_queue_bytes").labels(labels).set(volume.appender.held_bytes)
            own("stream_writer_volume_drained").labels(labels).set(volume.drained)
        self._metrics.own("stream_writer_open_files").labels({}).set(self.writer.open_files)

    def _lock_volumes(self) -> dict[str, FoundVolume]:
        """Lock the volumes in a thread; only the holder of the lock may create a volume's ID."""
        found = find_volumes(self._volumes_path)
        for volume in found:
            self._locks[volume.path] = VolumeLock(volume, "writer", self._node_id)
        return name_volumes(found)

    def _loop(self, call: Callable[[], object], interval: float, *, now: bool = False) -> None:
        loop = LoopingCall(call)
        loop.clock = self._reactor
        loop.start(interval, now=now).addErrback(
            lambda failure: _log.failure("a loop of the writer stopped", failure)
        )
        self._loops.append(loop)

    # Registration.

    async def _register(self) -> None:
        for volume in self._volumes:
            self._registrations[volume.volume_id] = await self._session.register(
                f"{prefix.WRITER_VOLUME}{volume.volume_id}", encode(self._describe(volume))
            )

    def _describe(self, volume: OpenVolume) -> Volume:
        assert self._port is not None
        return Volume(
            volume_id=volume.volume_id,
            node_id=self._node_id,
            node_address=f"{self._address_host}:{cast(IPv4Address, self._port.getHost()).port}",
            path=str(volume.found.path),
            type=volume.found.type,
            label=volume.found.label,
            drained=volume.drained,
        )

    async def _look_at(self, volume: OpenVolume) -> tuple[int, int]:
        """Check whether the volume accepts new data; return its available and total bytes.

        Only a check that has written data clears a failure. A check that began before the failure
        doesn't clear it, however late it ends.
        """
        has_failed = volume.failed
        looking: Deferred[tuple[bool, int, int]] = deferToThreadPool(
            self._reactor, volume.pool, _state_of, volume.found, volume.volume_id, has_failed
        )
        drained, available, total = await looking
        volume.gone = False
        if has_failed:
            volume.failed = False
        elif volume.failed:
            raise OSError(errno.EIO, "the disk failed during the check")
        if drained:
            self._set_drained(volume, True, "by hand")
        elif available < self._min_free_bytes:
            self._set_drained(volume, True, f"only {available} bytes are free")
        else:
            self._set_drained(volume, False)
        return available, total

    def _set_drained(
        self,
        volume: OpenVolume,
        is_drained: bool,
        reason: object = "",
        is_fault: bool = False,
    ) -> None:
        if is_drained == volume.drained:
            return
        volume.drained = is_drained
        level = LogLevel.error if is_fault else LogLevel.info
        _log.emit(
            level,
            "set drained={drained} {reason}",
            drained=is_drained,
            reason=str(reason),
            volume_id=volume.volume_id,
        )

    async def _watch(self, volume: OpenVolume) -> None:
        """Publish whenever a volume becomes drained, full, stuck, failing or gone, or recovers."""
        try:
            await self._find_out(volume)
            registration = self._registrations.get(volume.volume_id)
            value = encode(self._describe(volume))
            if registration is not None and registration.value != value:
                await registration.update(value)
        except Exception:
            _log.failure("cannot check the volume {id}", id=volume.volume_id)

    async def _find_out(self, volume: OpenVolume) -> None:
        if volume.appender.is_stuck:  # the disk would block this check as well
            self._set_drained(volume, True, "the disk does not answer", is_fault=True)
            return
        try:
            available, total = await self._look_at(volume)
        except VolumeGone as error:
            self._set_drained(volume, True, error, is_fault=True)
            self.writer.lose_volume(volume)
        except OSError as error:
            if is_of_disk(error):
                self._set_drained(volume, True, error, is_fault=True)
            elif self._unseen.due(volume.volume_id) is not None:
                _log.error(
                    "cannot check a volume: {error}",
                    error=error.strerror,
                    volume_id=volume.volume_id,
                )
        else:
            self._metrics.volume_space(_labels(volume), total - available, total)

    def drain_volume(self, volume: str, drained: bool) -> Deferred[Path]:
        """Create or remove the file that drains a volume.

        Raises UserError: this node has no such volume.

        :param volume: ID or path of the volume.
        :returns: the path of the volume.
        """
        for known in self._volumes:
            if volume == known.volume_id or Path(volume).absolute() == known.found.path.absolute():
                done: Deferred[Path] = deferToThreadPool(
                    self._reactor, known.pool, _drain, known.found.path, drained
                )
                return done
        names = ", ".join(f"{known.volume_id} ({known.found.path})" for known in self._volumes)
        raise UserError(f'this node has no volume "{volume}"; its volumes are: {names}')

    # Sealing.

    async def _may_be_written(self, key: SliceKey) -> bool:
        """Read from etcd whether a slice accepts rows; the mirror may lag behind a pipeline."""
        stored = await self._client.get(f"{prefix.slice_level(Level.LOCAL)}{key}")
        return stored is not None and state_of(stored) in WRITABLE

    async def _slices_changed(self, batch: Batch[SliceState]) -> None:
        for change in batch.changes:
            if change.value not in WRITABLE:
                key = SliceKey.parse(change.key.removeprefix(prefix.slice_level(Level.LOCAL)))
                self.writer.seal(key)
        if batch.reset:
            await self._seal_vanished()

    async def _seal_vanished(self) -> None:
        """Seal the files of slices whose deletion was missed during a gap in the watch.

        A slice that is missing in the mirror may also be too new for the mirror, so etcd is read.
        """
        for key in self.writer.open_slices:
            known = f"{prefix.slice_level(Level.LOCAL)}{key}" in self._slices.items
            if not known and not await self._may_be_written(key):
                self.writer.seal(key)

    # Counts.

    def _file_opened(self, key: SliceKey, node_id: str, path: Path) -> None:
        self._uncounted[key.volume_id].opened(key, node_id, path)

    def _local_slices(self) -> list[str]:
        below = len(prefix.slice_level(Level.LOCAL))
        return [key[below:] for key in self._slices.items]

    async def _check_counts(self, volume_id: str) -> None:
        """Store estimates of missing counts; see `stream.storage.writer.uncounted`."""
        try:
            count = await self._uncounted[volume_id].check()
        except EtcdError as error:
            if self._unchecked.due(volume_id) is not None:
                _log.warn(
                    "cannot check the counts of a volume, retrying: {error}",
                    error=error,
                    volume_id=volume_id,
                )
        except Exception:
            if self.running:  # a stop ends the volume's threads
                _log.failure("cannot check the counts of a volume, retrying", volume_id=volume_id)
        else:
            if count:
                _log.warn(
                    "{count} slice files had rows but no counts, because their source nodes ended "
                    "too soon: estimates are stored, and the reader counts the rows",
                    count=count,
                    volume_id=volume_id,
                )

    # Cleanup.

    async def _clean_up(self) -> None:
        """Clean up all volumes; a volume that fails or hangs doesn't affect the others."""
        with span("keboola.go.stream.model.cleanup.disk.cleanDisk", is_root=True):
            await self._clean_volumes()

    async def _clean_volumes(self) -> None:
        cleaning = [ensureDeferred(self._clean_volume(volume)) for volume in self._volumes]
        removed = 0
        results: list[tuple[bool, Any]]
        for each in cleaning:
            within(each, CLEANUP_SECONDS, self._reactor, "the cleanup of a volume")
        # Errors are consumed here, even if a stop no longer waits for the result.
        results = await DeferredList(cleaning, consumeErrors=True)
        for has_succeeded, result in results:
            if has_succeeded:
                removed += result
            else:
                _log.failure("disk cleanup failed, retrying", result)
        _log.info("removed {count} directories", count=removed)

    async def _clean_volume(self, volume: OpenVolume) -> int:
        """Clean up a volume.

        The disk is read before etcd. Otherwise a slice that is opened in between would look
        orphaned.
        """
        path = volume.found.path
        directories = await volume.appender.run(lambda: slice_directories(path))
        known = await self._client.range(prefix.SLICE_ALL, keys_only=True)
        used = set()
        for kv in known.kvs:
            key = SliceKey.parse(kv.key.removeprefix(prefix.SLICE_ALL))
            if key.volume_id == volume.volume_id:
                used.add(slice_directory(key))
        removed = 0
        orphans = [directory for directory in directories if directory not in used]
        at_once = self._cleanup.concurrency  # files can be opened between the batches
        for start in range(0, len(orphans), at_once):
            part = orphans[start : start + at_once]
            removed += await volume.appender.run(partial(remove_directories, path, part))
        await volume.appender.run(lambda: remove_empty_parents(path))
        return removed

    # Stopping.

    async def stopService(self) -> None:
        """Stop the writer. The Deferred fires when the pipelines have left or were disconnected."""
        super().stopService()
        for loop in self._loops:
            if loop.running:
                loop.stop()
        await self._deregister()
        self.writer.drain()
        deadline = self._reactor.seconds() + self._network.shutdown_timeout.seconds
        while self.writer.open_files and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, _LEAVE_POLL_SECONDS)
        closing = ensureDeferred(self.writer.close())
        closing.addTimeout(STOP_SECONDS, self._reactor)
        try:
            await closing
        except TimeoutError:
            _log.error(
                "left {count} slice files open: the disk does not respond",
                count=self.writer.open_files,
            )
        await self._release()

    async def _deregister(self) -> None:
        """Remove the registrations, so that no new slices are assigned.

        Errors don't prevent the service from stopping.
        """
        registrations, self._registrations = list(self._registrations.values()), {}
        if not registrations:
            return
        _log.info("stopping volumes registration")
        for registration in registrations:
            try:
                await registration.remove()
            except Exception:
                _log.failure("cannot deregister {key}", key=registration.key)
        _log.info("stopped volumes registration")

    async def _release(self) -> None:
        _log.info("closing volumes")
        if self._slices.running:
            await self._slices.stopService()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._factory.close_connections()
            self._port = None
        await DeferredList([ensureDeferred(self._leave(volume)) for volume in self._volumes])
        for lock in self._locks.values():
            lock.release()
        self._volumes, self._locks, self._loops = [], {}, []
        _log.info("closed volumes")

    async def _leave(self, volume: OpenVolume) -> None:
        """Release the volumes; one with a running thread remains locked until the process ends."""
        if not await volume.leave(self._reactor, STOP_SECONDS):
            self._locks.pop(volume.found.path, None)
            _log.error(
                "volume {volume_id} stays locked: its disk does not respond",
                volume_id=volume.volume_id,
            )


def _labels(volume: OpenVolume) -> VolumeLabels:
    found = volume.found
    return VolumeLabels(volume.volume_id, found.type, found.label, str(found.path))


def _drain(path: Path, drained: bool) -> Path:
    """Create the file that drains a volume, or remove it; runs in a thread."""
    drain = path / DRAIN_FILE
    if drained:
        drain.touch()
    else:
        drain.unlink(missing_ok=True)
    return path


def _state_of(found: FoundVolume, volume_id: str, write: bool) -> tuple[bool, int, int]:
    """Check the state of a volume; runs in a thread."""
    check_volume(found, volume_id, write=write)
    return (is_drained(found), *free_bytes(found.path))
