"""Volumes that hang, fail, fill up or disappear while a writer uses them."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from stream.etcd import EtcdClient
from stream.storage.model.entity import Slice
from stream.storage.network.interface import NoSpace, SyncLevel, WriterError, WriterUnavailable
from stream.storage.volumes.local_volume import free_bytes
from stream.storage.writer import appender as appender_module
from stream.storage.writer import disk
from stream.storage.writer import service as service_module
from stream.storage.writer.service import StorageWriterService
from tests.mounting import small_disk
from tests.storage.samples import sample_slice, uncompressed
from tests.storage.writer.rounds import ROUNDS, choose_rounds
from tests.storage.writer.test_disk import FaultyDisk
from tests.storage.writer.test_service import Listener, Node
from tests.waiting import until


@pytest.fixture(params=ROUNDS)
def node(
    request: pytest.FixtureRequest,
    etcd: EtcdClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    choose_rounds(monkeypatch, request.param)
    monkeypatch.setattr(service_module, "WATCH_VOLUMES_SECONDS", 0.02)
    for label in ("one", "two"):
        (tmp_path / "volumes" / "hdd" / label).mkdir(parents=True)
        (tmp_path / "volumes" / "hdd" / label / "volume-id").write_text(label)
    node = Node(etcd, tmp_path / "volumes")
    yield node
    pytest_twisted.blockon(Deferred.fromCoroutine(node.stop()))


async def _slice(node: Node, volume_id: str) -> Slice:
    made = sample_slice(volume_id=volume_id, encoding=uncompressed())
    await node.put(made)
    return made


async def _drained(node: Node, volume_id: str) -> bool:
    return {volume.volume_id: volume.drained for volume in await node.registered()}[volume_id]


class Hanging:
    """Blocks a sync of files of one volume until it is released."""

    def __init__(self, volume: Path) -> None:
        self.volume = str(volume)
        self.without_frames = threading.Event()

    def __call__(self, descriptor: int) -> None:
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(self.volume):
            self.without_frames.wait(20)
        os.fdatasync(descriptor)


@pytest_twisted.ensureDeferred
async def test_a_hanging_disk_blocks_neither_others_nor_the_stop(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other volume works and is unlocked at the end; the hanging one stays locked."""
    monkeypatch.setattr(service_module, "STOP_SECONDS", 0.2)
    hanging = Hanging(node.volumes / "hdd" / "one")
    monkeypatch.setattr(disk, "os", FaultyDisk(fdatasync=hanging))
    service = await node.start()
    first = await service.writer.open(await _slice(node, "one"), await node.life("s"), Listener())
    second = await service.writer.open(await _slice(node, "two"), await node.life("s"), Listener())
    stuck = first.append(0, b"a\n", level=SyncLevel.SYNCED)
    stuck.addErrback(lambda _: None)
    for index in range(20):
        assert await second.append(index * 2, b"b\n", level=SyncLevel.SYNCED) == index * 2 + 2
    assert not stuck.called
    started = time.monotonic()
    await service.stopService()
    assert time.monotonic() - started < 5
    assert (node.volumes / "hdd/one/writer.lock").exists()
    assert not (node.volumes / "hdd/two/writer.lock").exists()
    hanging.without_frames.set()
    await until(lambda: stuck.called)


@pytest_twisted.ensureDeferred
async def test_a_hanging_disk_gets_no_new_slices(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The volume is unavailable until the disk responds."""
    monkeypatch.setattr(appender_module, "STUCK_SECONDS", 0.05)
    hanging = Hanging(node.volumes / "hdd" / "one")
    monkeypatch.setattr(disk, "os", FaultyDisk(fdatasync=hanging))
    service = await node.start()
    file = await service.writer.open(await _slice(node, "one"), await node.life("s"), Listener())
    stuck = file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await until(lambda: _drained(node, "one"))
    assert not await _drained(node, "two")
    hanging.without_frames.set()
    assert await stuck == 2
    await until(lambda: _not(_drained(node, "one")))


async def _not(condition: Any) -> bool:
    return not await condition


@pytest.mark.parametrize(
    ("call", "error"),
    [("fdatasync", errno.EIO), ("fdatasync", errno.ENOSPC), ("pwritev", errno.EROFS)],
)
@pytest_twisted.ensureDeferred
async def test_a_failing_disk(
    node: Node, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """Nothing is acknowledged, the file is abandoned, and the volume is drained until a write
    succeeds.
    """
    service = await node.start()
    slice_ = await _slice(node, "one")
    listener = Listener()
    file = await service.writer.open(slice_, await node.life("s"), listener)
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2

    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", FaultyDisk(**{call: fail}))
        patch.setattr(os, "fsync", lambda _: fail())
        with pytest.raises(WriterUnavailable):
            await file.append(2, b"b\n", level=SyncLevel.SYNCED)
        with pytest.raises(WriterError):
            await file.append(2, b"b\n", level=SyncLevel.SYNCED)
        await until(lambda: listener.reasons)
        await until(lambda: _drained(node, "one"))
    await until(lambda: _not(_drained(node, "one")))
    again = await service.writer.open(slice_, await node.life("s"), Listener(), resume=2)
    assert again.length == 2
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    assert (node.volumes / "hdd/one" / slice_.local.dir / "slice-s.csv.gz").read_bytes() == (
        b"a\nb\n"
    )


@pytest_twisted.ensureDeferred
async def test_a_check_that_began_before_a_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails during a check is drained although the check succeeds."""
    service = await node.start()
    slice_ = await _slice(node, "one")
    file = await service.writer.open(slice_, await node.life("s"), Listener())
    looking, without_frames = threading.Event(), threading.Event()

    def slow(path: Path) -> tuple[int, int]:
        if path.name == "one" and not looking.is_set():
            looking.set()
            without_frames.wait(20)
        return free_bytes(path)

    monkeypatch.setattr("stream.storage.writer.service.free_bytes", slow)
    await until(looking.is_set)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", FaultyDisk(fdatasync=fail))
        patch.setattr(os, "fsync", fail)
        with pytest.raises(WriterUnavailable):
            await file.append(0, b"a\n", level=SyncLevel.SYNCED)
        without_frames.set()
        await until(lambda: _drained(node, "one"))
    await until(lambda: _not(_drained(node, "one")))


@pytest.mark.parametrize("level", [SyncLevel.WRITTEN, SyncLevel.SYNCED])
@pytest_twisted.ensureDeferred
async def test_rows_in_a_removed_file_are_not_acknowledged(node: Node, level: SyncLevel) -> None:
    """Rows in a removed file would be lost, so a new file is created."""
    service = await node.start()
    slice_ = await _slice(node, "one")
    file = await service.writer.open(slice_, await node.life("s"), Listener())
    await file.append(0, b"a\n", level=level)
    shutil.rmtree(node.volumes / "hdd/one/123")
    with pytest.raises(WriterUnavailable, match="removed"):
        await file.append(2, b"b\n", level=level)
    again = await service.writer.open(slice_, await node.life("s"), Listener(), resume=2)
    assert again.length == 0
    assert await again.append(0, b"b\n", level=level) == 2


@pytest.mark.parametrize("how", ["removed", "not mounted"])
@pytest_twisted.ensureDeferred
async def test_a_volume_that_disappears(node: Node, how: str) -> None:
    """Files of the volume are abandoned, and nothing is written to its path; it may return."""
    service = await node.start()
    slice_ = await _slice(node, "one")
    listener = Listener()
    file = await service.writer.open(slice_, await node.life("s"), listener)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    path, elsewhere = node.volumes / "hdd/one", node.volumes / "elsewhere"
    path.rename(elsewhere)
    if how == "not mounted":
        path.mkdir()
    await until(lambda: listener.reasons)
    await until(lambda: _drained(node, "one"))
    assert not await _drained(node, "two")
    with pytest.raises(WriterUnavailable):
        await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    with pytest.raises(WriterError, match="is missing"):
        await service.writer.open(slice_, await node.life("s"), Listener(), resume=2)
    if how == "not mounted":
        assert list(path.iterdir()) == []
        path.rmdir()
    elsewhere.rename(path)
    await until(lambda: _not(_drained(node, "one")))
    again = await service.writer.open(slice_, await node.life("s"), Listener(), resume=2)
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4


@pytest.fixture
def small(node: Node) -> Iterator[Path]:
    """The volume ``one`` on a separate disk of 256 KiB."""
    path = node.volumes / "hdd" / "one"
    with small_disk(path, "256k"):
        (path / "volume-id").write_text("one")
        yield path


async def _fill(node: Node, service: StorageWriterService, slice_: Slice) -> tuple[Any, int]:
    file = await service.writer.open(slice_, await node.life("s"), Listener())
    end = 0
    with pytest.raises(NoSpace):
        while True:
            end = await file.append(end, b"x" * 9_999 + b"\n", level=SyncLevel.SYNCED)
    return file, end


@pytest_twisted.ensureDeferred
async def test_a_full_disk(small: Path, node: Node) -> None:
    """Acknowledged rows are kept, other volumes work, and the full one recovers with free space."""
    (small / "ballast").write_bytes(bytes(60_000))
    service = await node.start(min_free_bytes=0)
    slice_ = await _slice(node, "one")
    file, end = await _fill(node, service, slice_)
    stored = small / slice_.local.dir / "slice-s.csv.gz"
    assert stored.read_bytes() == (b"x" * 9_999 + b"\n") * (end // 10_000)
    other = await service.writer.open(await _slice(node, "two"), await node.life("s"), Listener())
    assert await other.append(0, b"b\n", level=SyncLevel.SYNCED) == 2
    (small / "ballast").unlink()
    assert await file.append(end, b"y\n", level=SyncLevel.SYNCED) == end + 2
    await file.close()
    await service.stopService()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR])
@pytest_twisted.ensureDeferred
async def test_a_shortage_of_the_host_is_not_a_disk_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Checks, openings and writes that fail for lack of host resources don't drain the volume."""
    service = await node.start()
    slice_ = await _slice(node, "one")
    file = await service.writer.open(slice_, await node.life("s"), Listener())
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    looks: list[None] = []

    def fail(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    def look(*_: object) -> None:
        looks.append(None)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(disk, "os", FaultyDisk(open=fail, pwritev=fail))
        patch.setattr(service_module, "_state_of", look)
        with pytest.raises(WriterUnavailable):
            await file.append(2, b"b\n", level=SyncLevel.SYNCED)
        with pytest.raises(WriterUnavailable, match="cannot open the slice file"):
            await service.writer.open(slice_, await node.life("other"), Listener())
        await until(lambda: len(looks) > 5)
        assert not await _drained(node, "one")
        (volume,) = [v for v in service._volumes if v.volume_id == "one"]
        assert not volume.failed
    assert await file.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await file.close()
