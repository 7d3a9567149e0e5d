"""Uploads of slices from a volume, with a real etcd and real files."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.threadpool import ThreadPool

from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient
from stream.ops.metrics.registry import Metrics
from stream.settings import Settings
from stream.staging import Chunks, CredentialsExpired, StagingError
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.state import Level, SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.reader import service as service_module
from stream.storage.reader.service import StorageReaderService
from stream.storage.store.statistics_reads import slice_statistics
from stream.target.protocol import Staged, StagingReplaced
from stream.target.registry import Targets
from stream.values.codec import encode
from stream.values.duration import Duration
from tests.storage.histories.world import Storage
from tests.waiting import until

reactor: Any = _reactor


class FakeTarget:
    """A target with staging in memory.

    :ivar objects: bodies by slice path.
    :ivar failures: raised by the next uploads after half of the body was read, one each.
    :ivar hold: the next uploads wait for it.
    :ivar replaced: reasons to replace the staging of the file during the next uploads, one each.
    """

    name = "keboola"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures: list[Exception] = []
        self.hold: Deferred[None] | None = None
        self.started = 0
        self.reported: list[str | None] = []
        self.largest_chunk = 0
        self.manifest: list[str] = []
        self.replaced: list[str] = []

    @asynccontextmanager
    async def upload(self, slice_: Slice, chunks: Chunks) -> AsyncIterator[Staged]:
        self.started += 1
        if self.hold is not None:
            await self.hold
        body = await deferToThread(self._read, chunks)
        self.objects[slice_.staging.path] = body
        self.manifest.append(slice_.staging.path)
        yield Staged(None, self._check)

    def _read(self, chunks: Chunks) -> bytes:
        body = bytearray()
        for chunk in chunks():
            self.largest_chunk = max(self.largest_chunk, len(chunk))
            body += chunk
            if self.failures:
                raise self.failures.pop(0)
        return bytes(body)

    async def _check(self, txn: AtomicTxn) -> None:
        if self.replaced:
            raise StagingReplaced(self.replaced.pop(0))

    async def report_upload(
        self, slice_: Slice, seconds: float, error: Exception | None, statistics: Statistics
    ) -> None:
        self.reported.append(None if error is None else str(error))


class World:
    """One volume with one slice in state ``uploading``."""

    def __init__(self, etcd: EtcdClient, root: Path) -> None:
        self.etcd = etcd
        self.storage = Storage(etcd)
        self.target = FakeTarget()
        self.damaged: list[str] = []
        self.metrics = Metrics()
        self.volume = root / "default" / "one"
        self.volume.mkdir(parents=True)
        (self.volume / "volume-id").write_text("vol-1")
        self.root = root
        self.pool = ThreadPool(0, 4)
        self.settings = Settings().storage.level.staging.operator
        self.readers: list[StorageReaderService] = []

    async def slice(self, counted: int = 0, *, is_empty: bool = False) -> Slice:
        """Return a slice to upload, with *counted* known records."""
        await self.storage.define()
        self.storage.volumes = self.storage.volumes[:1]
        file = await self.storage.open_file()
        (slice_,) = await self.storage.slices(file.key)
        if counted:
            await self.storage.count(slice_.key, counted)
        await self.storage.rotate_slice(slice_.key)
        return await self.storage.to_uploading(slice_.key, is_empty)

    def put(self, slice_: Slice, data: bytes, node: str = "n1") -> Path:
        path = self.volume / slice_.local.dir / slice_.local.filename(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    async def read(self) -> StorageReaderService:
        """Return a started reader."""
        targets: Any = [self.target]
        reader = StorageReaderService(
            reactor,
            self.etcd,
            self.storage.repository,
            Targets(targets),
            node_id="node",
            volumes_path=str(self.root),
            settings=self.settings,
            pool=self.pool,
            now=lambda: self.storage.now,
            damaged=lambda key: self.damaged.append(str(key)),
            metrics=self.metrics,
        )
        self.readers.append(reader)
        await reader.startService()
        return reader

    async def uploaded(self, slice_: Slice) -> Slice:
        """Wait until the slice is uploaded, and return it."""

        async def done() -> bool:
            return (await self.storage.slice(slice_.key)).state is SliceState.UPLOADED

        await until(done)
        return await self.storage.slice(slice_.key)

    async def failed(self, slice_: Slice, attempts: int = 1) -> Slice:
        """Wait until this many attempts have failed, and return the slice."""

        async def done() -> bool:
            return (await self.storage.slice(slice_.key)).retry.retry_attempt == attempts

        await until(done)
        return await self.storage.slice(slice_.key)

    async def failing(self) -> float:
        """Return the metric's sum of failing slices."""
        self.metrics.collect()
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.metrics.page().decode().splitlines()
            if line.startswith("stream_sink_failing_uploads{")
        )

    async def statistics(self, slice_: Slice) -> Statistics:
        return (await slice_statistics(self.etcd, slice_.key)).staging


@pytest_twisted.async_yield_fixture()
async def world(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[World]:
    made = World(etcd, tmp_path)
    made.pool.start()
    yield made
    for reader in made.readers:
        if reader.running:
            await reader.stopService()
    made.pool.stop()


def _group(*rows: bytes) -> bytes:
    return gzip.compress(b"".join(b'"%s"\n' % row for row in rows))


@pytest_twisted.ensureDeferred
async def test_files_of_all_nodes_are_one_object(world: World) -> None:
    """The statistics after the upload are those of the files, regardless of earlier counts."""
    slice_ = await world.slice(counted=1)
    first, second = _group(b"a", b"b"), _group(b"c")
    world.put(slice_, first + second, "n1")
    world.put(slice_, second, "n2")
    await world.read()
    await world.uploaded(slice_)
    body = world.target.objects[slice_.staging.path]
    assert body == first + second + second
    assert world.target.manifest == [slice_.staging.path]
    statistics = await world.statistics(slice_)
    assert statistics.records_count == 4
    assert statistics.uncompressed_size == len(gzip.decompress(body))
    assert statistics.compressed_size == statistics.staging_size == len(body)
    assert world.target.reported == [None]
    await world.storage.check()


@pytest_twisted.ensureDeferred
async def test_an_empty_slice_is_not_uploaded(world: World) -> None:
    """A slice without rows advances without an object or manifest entry."""
    slice_ = await world.slice()
    world.put(slice_, b"")
    await world.read()
    done = await world.uploaded(slice_)
    assert done.local.is_empty
    assert not world.target.started and not world.target.manifest
    assert (await world.statistics(slice_)).records_count == 0


@pytest_twisted.ensureDeferred
async def test_a_slice_with_wrong_statistics_is_not_empty(world: World) -> None:
    """Rows on the disk override statistics that say the slice is empty."""
    slice_ = await world.slice(is_empty=True)
    world.put(slice_, _group(b"a"))
    await world.read()
    done = await world.uploaded(slice_)
    assert not done.local.is_empty
    assert slice_.staging.path in world.target.objects


@pytest_twisted.ensureDeferred
async def test_an_estimate_is_not_compared_with_the_rows(world: World) -> None:
    """The writer stores one for a file that may hold only an incomplete group."""
    slice_ = await world.slice()
    key = f"{prefix.statistics(Level.LOCAL)}{slice_.key}/node-1"
    await world.etcd.put(key, encode(Statistics(records_count=1)))
    world.put(slice_, _group(b"a")[:-3])
    with capturedLogs() as events:
        await world.read()
        done = await world.uploaded(slice_)
    assert done.local.is_empty
    assert not [event for event in events if "were counted" in str(event.get("log_format"))]


@pytest_twisted.ensureDeferred
async def test_a_torn_end_is_not_uploaded(world: World) -> None:
    """A group that was truncated by a crash was never acknowledged."""
    slice_ = await world.slice()
    whole = _group(b"a")
    world.put(slice_, whole + _group(b"b")[:-3])
    await world.read()
    await world.uploaded(slice_)
    assert world.target.objects[slice_.staging.path] == whole
    assert (await world.statistics(slice_)).records_count == 1
    assert not world.damaged


@pytest_twisted.ensureDeferred
async def test_a_damaged_slice(world: World) -> None:
    """A flipped bit loses only its group; the slice is uploaded, and the damage is reported."""
    slice_ = await world.slice(counted=3)
    parts = [_group(b"%d" % index) for index in range(3)]
    broken = bytearray(parts[1])
    broken[-6] ^= 0xFF
    path = world.put(slice_, parts[0] + bytes(broken) + parts[2])
    await world.read()
    await world.uploaded(slice_)
    assert world.target.objects[slice_.staging.path] == parts[0] + parts[2]
    assert world.damaged == [str(slice_.key)]
    assert path.with_name(path.name + ".damaged").exists()
    assert (await world.statistics(slice_)).records_count == 2


@pytest_twisted.ensureDeferred
async def test_a_large_slice_is_read_in_small_pieces(world: World) -> None:
    """At most a megabyte of a file is read at a time, and the object has its digest."""
    slice_ = await world.slice()
    data = b"".join(_group(os.urandom(300_000).hex().encode()) for _ in range(40))
    world.put(slice_, data)
    await world.read()
    await world.uploaded(slice_)
    body = world.target.objects[slice_.staging.path]
    assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()
    assert len(data) > 8 * 1024 * 1024
    assert world.target.largest_chunk <= 1024 * 1024


@pytest_twisted.ensureDeferred
async def test_a_repeated_upload_is_complete(world: World) -> None:
    """An interrupted upload is retried with the files of all nodes."""
    slice_ = await world.slice()
    data = {node: _group(node.encode()) for node in ("n1", "n2", "n3")}
    for node, group in data.items():
        world.put(slice_, group, node)
    world.target.failures.append(StagingError("the store went away"))
    reader = await world.read()
    failed = await world.failed(slice_)
    assert failed.retry.retry_reason == "slice upload failed: the store went away"
    assert failed.state is SliceState.UPLOADING
    assert world.target.started == 1
    await reader.stopService()
    world.storage.tick(150)
    await world.read()
    done = await world.uploaded(slice_)
    assert world.target.objects[slice_.staging.path] == b"".join(data.values())
    assert done.retry.retry_attempt == 0
    assert world.target.reported == ["the store went away", None]


@pytest_twisted.ensureDeferred
async def test_a_permanent_failure_has_a_longer_delay(world: World) -> None:
    """Expired credentials are retried after two hours instead of two minutes."""
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    world.target.failures.append(StagingError("expired", retryable=False))
    await world.read()
    failed = await world.failed(slice_)
    assert failed.retry.retry_after is not None
    assert (failed.retry.retry_after - world.storage.now).total_seconds() == 7200


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_a_running_upload(world: World) -> None:
    """A stopping reader completes a running upload, and starts no other one."""
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    hold = world.target.hold = Deferred()
    reader = await world.read()

    async def started() -> bool:
        return bool(world.target.started)

    await until(started)
    stopping = ensureDeferred(reader.stopService())
    await deferLater(reactor, 0.05)
    assert not stopping.called
    hold.callback(None)
    await stopping
    assert (await world.storage.slice(slice_.key)).state is SliceState.UPLOADED


@pytest_twisted.ensureDeferred
async def test_a_stop_cancels_an_upload_that_does_not_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is no failed attempt, the volume stays locked while a thread may run, and the
    reader's next life uploads the slice at once.
    """
    monkeypatch.setattr(service_module, "STOP_SECONDS", 0.1)
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    world.target.hold = Deferred()
    reader = await world.read()

    async def started() -> bool:
        return bool(world.target.started)

    await until(started)
    began = reactor.seconds()
    await reader.stopService()
    assert reactor.seconds() - began < 2
    left = await world.storage.slice(slice_.key)
    assert (left.state, left.retry.retry_attempt) == (SliceState.UPLOADING, 0)
    assert not world.target.reported
    holder = rf'node "[^"]+", process {os.getpid()} on host "{re.escape(socket.gethostname())}"'
    with pytest.raises(
        UserError, match=f"cannot acquire reader lock .*: already locked by {holder}"
    ):
        await world.read()
    world.root = world.root.rename(world.root.with_name("after the end of the process"))
    (world.root / "default/one/reader.lock").unlink()
    world.target.hold = None
    await world.read()
    await world.uploaded(slice_)
    assert gzip.decompress(world.target.objects[slice_.staging.path]) == b'"a"\n'
    assert world.target.reported == [None]


@pytest_twisted.ensureDeferred
async def test_the_error_of_a_slow_upload(world: World) -> None:
    """The reason of the failed attempt says what took how long."""
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    world.settings = attrs.evolve(world.settings, slice_upload_timeout=Duration.parse("200ms"))
    world.target.hold = Deferred()
    await world.read()
    failed = await world.failed(slice_)
    assert failed.retry.retry_reason == (
        "slice upload failed: the upload of a slice took longer than 0.2 s"
    )


@pytest_twisted.ensureDeferred
async def test_a_failing_upload_can_be_requested(world: World) -> None:
    """Automatic retries end after fifty attempts with a permanent error.

    The metric counts the slice until an operator has fixed the cause and requests the upload.
    """
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    for _ in range(49):
        await world.storage.fail_slice(slice_.key)
    world.storage.tick(4 * 3600)
    world.target.failures.append(StagingError("expired", retryable=False))
    reader = await world.read()
    failed = await world.failed(slice_, 50)
    assert failed.retry.retry_after is not None
    assert (failed.retry.retry_after - world.storage.now).days > 3600
    assert await world.failing() == 1
    assert await reader.retry(attrs.evolve(slice_.key.sink_key, sink_id="other")) == []
    assert await reader.retry(slice_.key.sink_key) == [slice_.key]
    await world.uploaded(slice_)
    assert world.target.started == 2

    async def none_fails() -> bool:
        return await world.failing() == 0

    await until(none_fails)


@pytest_twisted.ensureDeferred
async def test_slices_of_other_volumes(world: World) -> None:
    """A reader changes only slices on its own volumes."""
    (world.volume / "volume-id").write_text("vol-9")
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    await world.read()
    await deferLater(reactor, 0.05)
    assert not world.target.started
    assert (await world.storage.slice(slice_.key)).state is SliceState.UPLOADING


@pytest_twisted.ensureDeferred
async def test_staging_is_replaced_during_the_upload(world: World) -> None:
    """The slice is uploaded again to the new staging storage, without a failed attempt."""
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    world.target.replaced = ["other staging storage"]
    world.settings = attrs.evolve(
        world.settings, slice_upload_check_interval=Duration.parse("100ms")
    )
    await world.read()
    done = await world.uploaded(slice_)
    assert done.retry.retry_attempt == 0
    assert world.target.started == 2


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("renewed", "hours"), [(False, 2), (True, 0)])
async def test_an_upload_with_expired_credentials(world: World, renewed: bool, hours: int) -> None:
    """The upload is retried in two hours, or soon if the file has got new credentials meanwhile."""
    slice_ = await world.slice()
    world.put(slice_, _group(b"a"))
    expiration = world.storage.now + timedelta(minutes=1 if renewed else -1)
    await world.storage.expire(slice_.key.file_key, expiration)
    world.target.failures = [CredentialsExpired("file", world.storage.now)]
    await world.read()
    failed = await world.failed(slice_)
    rest = failed.retry.wait(world.storage.now)
    assert rest is not None and rest // 3600 == hours
