"""The storage-writer component: volumes, the listener for source nodes, registration, cleanup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
from twisted.application.service import Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from stream.etcd import Batch, EtcdClient, KeyValue, Mirror, Registration, Session
from stream.ops.endpoint import server_endpoint
from stream.settings.local import WriterNetworkSettings
from stream.settings.storage import DiskCleanupSettings
from stream.storage import prefix
from stream.storage.entity import directory_name
from stream.storage.key import SliceKey
from stream.storage.state import Level, SliceState
from stream.storage.volume import Volume
from stream.storage.volumes.local_volume import (
    VolumeLock,
    find_volumes,
    free_bytes,
    is_drained,
    make_volume_id,
)
from stream.storage.writer.cleanup import remove_directories, slice_directories
from stream.storage.writer.server import WriterFactory
from stream.storage.writer.writer import OpenVolume, StorageWriter
from stream.values.codec import encode
from stream.values.utctime import format_time

__all__ = ["StorageWriterService"]

_log = Logger()

WATCH_VOLUMES_SECONDS = 1.0
MIN_FREE_BYTES = 64 * 1024 * 1024
"""Below it a volume counts as drained: what is open may still grow, nothing new comes."""

_LEAVE_POLL_SECONDS = 0.05
_WRITABLE = {SliceState.WRITING, SliceState.CLOSING}


class StorageWriterService(Service):
    """:param volumes_path: see `stream.storage.volumes.local_volume.find_volumes`.
    :param address_host: under which other nodes reach this one.
    :param measured: told the id, used and total bytes of each volume now and then.

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
        measured: Callable[[Volume, int, int], None] = lambda *_: None,
    ) -> None:
        self.writer = StorageWriter(reactor, self._may_be_written)
        self._reactor = reactor
        self._client = client
        self._session = session
        self._node_id = node_id
        self._address_host = address_host
        self._volumes_path = volumes_path
        self._network = network
        self._cleanup = cleanup
        self._measured = measured
        self._factory = WriterFactory(self.writer, network.secret, reactor)
        self._port: IListeningPort | None = None
        self._volumes: list[OpenVolume] = []
        self._locks: list[VolumeLock] = []
        self._registrations: dict[str, tuple[Volume, Registration]] = {}
        self._slices: Mirror[SliceState] = Mirror(
            client,
            prefix.slice_level(Level.LOCAL),
            _decode_state,
            on_change=self._slices_changed,
        )
        self._loops: list[LoopingCall] = []

    async def startService(self) -> None:
        """Fires when the volumes are open, the port listens and everything is registered."""
        super().startService()
        try:
            self._open_volumes()
            await self._slices.startService()
            endpoint = server_endpoint(self._reactor, self._network.listen)
            self._port = await endpoint.listen(self._factory)
        except BaseException:
            await self._release()
            raise
        _log.info('disk writer listening on "{address}"', address=self._network.listen)
        await self._register()
        self._loop(self._watch_volumes, WATCH_VOLUMES_SECONDS)
        if self._cleanup.enabled:
            self._loop(self._clean_up, self._cleanup.interval.seconds, now=True)
        else:
            _log.info("local storage disk cleanup is disabled")

    def _open_volumes(self) -> None:
        for found in find_volumes(self._volumes_path):
            volume_id = make_volume_id(found)
            if self.writer.has_volume(volume_id):
                raise RuntimeError(f'found several volumes with the ID "{volume_id}"')
            self._locks.append(VolumeLock(found, "writer"))
            volume = OpenVolume(found, volume_id, self._reactor)
            volume.pool.start()
            self._volumes.append(volume)
            self.writer.add_volume(volume)
            _log.info("opened volume {volume_id}", volume_id=volume_id, path=str(found.path))

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
            value = self._describe(volume)
            registration = await self._session.register(
                f"{prefix.WRITER_VOLUME}{volume.volume_id}", encode(value)
            )
            self._registrations[volume.volume_id] = (value, registration)

    def _describe(self, volume: OpenVolume) -> Volume:
        assert self._port is not None
        available, _ = free_bytes(volume.found.path)
        return Volume(
            volume_id=volume.volume_id,
            node_id=self._node_id,
            node_address=f"{self._address_host}:{cast(IPv4Address, self._port.getHost()).port}",
            path=str(volume.found.path),
            type=volume.found.type,
            label=volume.found.label,
            drained=is_drained(volume.found) or available < MIN_FREE_BYTES,
        )

    async def _watch_volumes(self) -> None:
        """Tell others when a volume is drained or full, or isn't any more."""
        for volume in self._volumes:
            try:
                before, registration = self._registrations[volume.volume_id]
                value = self._describe(volume)
                available, total = free_bytes(volume.found.path)
                self._measured(value, total - available, total)
                if value != before:
                    _log.info(
                        "set drained={drained}",
                        drained=value.drained,
                        volume_id=volume.volume_id,
                    )
                    self._registrations[volume.volume_id] = (value, registration)
                    await registration.update(encode(value))
            except Exception:
                _log.failure("cannot look after the volume {id}", id=volume.volume_id)

    # Sealing.

    async def _may_be_written(self, key: SliceKey) -> bool:
        """From etcd itself: the mirror may lag behind a pipeline that opens a new slice."""
        stored = await self._client.get(f"{prefix.slice_level(Level.LOCAL)}{key}")
        return stored is not None and _decode_state(stored) in _WRITABLE

    def _slices_changed(self, batch: Batch[SliceState]) -> None:
        for change in batch.changes:
            if change.value not in _WRITABLE and change.previous in _WRITABLE:
                text = change.key.removeprefix(prefix.slice_level(Level.LOCAL))
                key = SliceKey.parse(text)
                if self.writer.has_volume(key.volume_id):
                    self.writer.seal(key)

    # Cleanup.

    async def _clean_up(self) -> None:
        try:
            removed = 0
            for volume in self._volumes:
                removed += await self._clean_volume(volume)
            _log.info('removed "{count}" directories', count=removed)
        except Exception:
            _log.failure("disk cleanup failed, it is tried again")

    async def _clean_volume(self, volume: OpenVolume) -> int:
        """The disk is read before etcd, or a slice opened in between would look orphaned."""
        path = volume.found.path
        pool = volume.pool
        directories = await deferToThreadPool(self._reactor, pool, slice_directories, path)
        known = await self._client.range(prefix.SLICE_ALL, keys_only=True)
        used = set()
        for kv in known.kvs:
            key = SliceKey.parse(kv.key.removeprefix(prefix.SLICE_ALL))
            if key.volume_id == volume.volume_id:
                used.add(_directory_of(key))
        orphans = [directory for directory in directories if directory not in used]
        removed: int = await deferToThreadPool(
            self._reactor, pool, remove_directories, path, orphans
        )
        return removed

    # Stopping.

    async def stopService(self) -> None:
        """Fires when every pipeline has left or was cut off, and the volumes are free."""
        super().stopService()
        for _, registration in self._registrations.values():
            await registration.remove()
        self._registrations.clear()
        self.writer.drain()
        deadline = self._reactor.seconds() + self._network.shutdown_timeout.seconds
        while self.writer.open_files and self._reactor.seconds() < deadline:
            await deferLater(self._reactor, _LEAVE_POLL_SECONDS)
        await self.writer.close()
        await self._release()

    async def _release(self) -> None:
        for loop in self._loops:
            if loop.running:
                loop.stop()
        if self._slices.running:
            await self._slices.stopService()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
            self._factory.close_connections()
            self._port = None
        for volume in self._volumes:
            await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), volume.pool.stop)
        for lock in self._locks:
            lock.release()
        self._volumes, self._locks = [], []


def _decode_state(kv: KeyValue) -> SliceState:
    """Only the state: the rest of the record is of no use here."""
    return SliceState(orjson.loads(kv.value)["state"])


def _directory_of(key: SliceKey) -> str:
    return f"{directory_name(str(key.file_key))}/{directory_name(format_time(key.slice_opened_at))}"
