"""What every provider of slice files does: in memory, in the same process, over a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from stream.settings import Settings
from stream.settings.declare import with_values
from stream.storage.key import SliceKey
from stream.storage.network.client import WriterClients
from stream.storage.network.interface import (
    SliceFile,
    SliceOpener,
    SliceSealed,
    SyncLevel,
    WriterError,
    WriterUnavailable,
    WrongOffset,
)
from stream.storage.volume import Volume
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer.server import WriterFactory
from stream.storage.writer.writer import OpenVolume, StorageWriter
from tests.sink.fakes import FakeOpener
from tests.storage.samples import sample_slice, uncompressed

_SLICE = sample_slice(encoding=uncompressed())
_BIG = b"x" * (1024 * 1024 + 17)


@attrs.define
class Listener:
    """Remembers what the writer said."""

    reasons: list[WriterError] = attrs.Factory(list)
    drained: int = 0

    def draining(self) -> None:
        self.drained += 1

    def lost(self, reason: WriterError) -> None:
        self.reasons.append(reason)


@attrs.define
class Provided:
    """An opener, and what is behind it."""

    opener: SliceOpener
    content: Callable[[], bytes]
    writer: StorageWriter | None = None
    sealed: set[SliceKey] = attrs.Factory(set)
    factory: WriterFactory | None = None
    stop: Callable[[], Awaitable[None]] | None = None


async def _provide(kind: str, root: Path, *, secret: str = "", client: str = "") -> Provided:
    if kind == "memory":
        fake = FakeOpener()
        return Provided(fake, lambda: bytes(fake.disk.get(str(_SLICE.key), b"")))
    path = root / "volume"
    path.mkdir()
    sealed: set[SliceKey] = set()

    async def may_be_written(key: SliceKey) -> bool:
        return key not in sealed

    writer = StorageWriter(reactor, may_be_written)
    volume = OpenVolume(FoundVolume(path, "hdd", "one"), _SLICE.key.volume_id, reactor)
    volume.pool.start()
    writer.add_volume(volume)

    def content() -> bytes:
        files = list(path.rglob("slice-*"))
        return files[0].read_bytes() if files else b""

    async def stop() -> None:
        await writer.close()
        volume.pool.stop()

    if kind == "local":
        return Provided(writer, content, writer, sealed, None, stop)
    factory = WriterFactory(writer, secret, reactor)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    registered = Volume(
        _SLICE.key.volume_id, "n", f"127.0.0.1:{port.getHost().port}", str(path), "hdd", "one"
    )
    network = with_values(
        Settings().storage.level.local.writer.network, {("secret",): client or secret}
    )
    clients = WriterClients(
        reactor,
        "source-1",
        network,
        lambda volume_id: registered if volume_id == registered.volume_id else None,
    )
    clients.startService()

    async def stop_all() -> None:
        await clients.stopService()
        await port.stopListening()
        await stop()
        await _until(lambda: not factory.connections)

    return Provided(clients, content, writer, sealed, factory, stop_all)


async def _until(condition: Callable[[], object]) -> None:
    for _ in range(500):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it did not happen")


@pytest.fixture(params=["memory", "local", "remote"])
def provided(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made: Provided = pytest_twisted.blockon(
        Deferred.fromCoroutine(_provide(request.param, tmp_path))
    )
    yield made
    if made.stop is not None:
        pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))  # type: ignore[arg-type]


async def _open(provided: Provided, resume: int = -1) -> tuple[SliceFile, Listener]:
    listener = Listener()
    file = await provided.opener.open(_SLICE, "source-1", listener, resume=resume)
    return file, listener


@pytest_twisted.ensureDeferred
async def test_appends_are_acknowledged_with_the_new_length(provided: Provided) -> None:
    """Bytes of any size arrive, in order, at each level of durability."""
    file, _ = await _open(provided)
    assert file.length == 0
    end = 0
    for level in SyncLevel:
        end = await file.append(end, b"%d\n" % level, level=level)
    end = await file.append(end, _BIG, level=SyncLevel.SYNCED)
    await file.close()
    assert provided.content() == b"0\n1\n2\n" + _BIG
    assert end == 6 + len(_BIG)


@pytest_twisted.ensureDeferred
async def test_a_repeated_append_is_written_once(provided: Provided) -> None:
    """A resend after a lost answer is recognised by its offset."""
    file, _ = await _open(provided)
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    await file.close()
    assert provided.content() == b"a\n"


@pytest_twisted.ensureDeferred
async def test_a_gap_is_refused_with_the_length(provided: Provided) -> None:
    """The caller learns where the file ends."""
    file, _ = await _open(provided)
    await file.append(0, b"a\n", level=SyncLevel.WRITTEN)
    with pytest.raises(WrongOffset) as refused:
        await file.append(5, b"b\n", level=SyncLevel.WRITTEN)
    assert refused.value.length == 2
    await file.close()


@pytest_twisted.ensureDeferred
async def test_reopening_resumes_at_what_was_acknowledged(provided: Provided) -> None:
    """What nobody was promised is cut off."""
    file, _ = await _open(provided)
    await file.append(0, b"a\nb\n", level=SyncLevel.SYNCED)
    await file.close()
    again, _ = await _open(provided, resume=2)
    assert again.length == 2
    await again.append(2, b"c\n", level=SyncLevel.SYNCED)
    await again.close()
    assert provided.content() == b"a\nc\n"


@pytest_twisted.ensureDeferred
async def test_many_appends_in_flight_keep_their_order(provided: Provided) -> None:
    """They are answered in order, too."""
    file, _ = await _open(provided)
    answers = [file.append(i * 4, b"%03d\n" % i, level=SyncLevel.SYNCED) for i in range(50)]
    assert [await answer for answer in answers] == [(i + 1) * 4 for i in range(50)]
    await file.close()
    assert provided.content() == b"".join(b"%03d\n" % i for i in range(50))


@pytest.fixture(params=["local", "remote"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made: Provided = pytest_twisted.blockon(
        Deferred.fromCoroutine(_provide(request.param, tmp_path))
    )
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))  # type: ignore[arg-type, misc]


@pytest_twisted.ensureDeferred
async def test_the_newest_opening_wins(real: Provided) -> None:
    """The older handle is dead, and its owner knows."""
    old, listener = await _open(real)
    await old.append(0, b"a\n", level=SyncLevel.SYNCED)
    new, _ = await _open(real, resume=2)
    await _until(lambda: listener.reasons)
    with pytest.raises(WriterUnavailable):
        await old.append(2, b"x\n", level=SyncLevel.SYNCED)
    assert await new.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await new.close()
    assert real.content() == b"a\nb\n"


@pytest_twisted.ensureDeferred
async def test_a_sealed_slice_takes_nothing_more(real: Provided) -> None:
    """Its files are closed, their owners told, and it can't be opened again."""
    assert real.writer is not None
    file, listener = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    real.sealed.add(_SLICE.key)
    real.writer.seal(_SLICE.key)
    await _until(lambda: listener.reasons)
    assert isinstance(listener.reasons[0], SliceSealed)
    with pytest.raises(WriterError):
        await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    with pytest.raises(SliceSealed):
        await _open(real)
    assert real.content() == b"a\n"


@pytest_twisted.ensureDeferred
async def test_a_draining_writer_asks_to_leave(real: Provided) -> None:
    """What is open can still be written and closed; nothing new is opened."""
    assert real.writer is not None
    file, listener = await _open(real)
    real.writer.drain()
    await _until(lambda: listener.drained)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await file.close()
    with pytest.raises(WriterError):
        await _open(real)


@pytest_twisted.ensureDeferred
async def test_a_lost_connection_is_told_and_survived(tmp_path: Path) -> None:
    """Appends on their way fail, the listener knows, and the next opening finds the writer."""
    provided = await _provide("remote", tmp_path)
    assert provided.factory is not None
    file, listener = await _open(provided)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    pending = file.append(2, b"b\n", level=SyncLevel.SYNCED)
    for connection in list(provided.factory.connections):
        connection.transport.abortConnection()
    with pytest.raises(WriterUnavailable):
        await pending
    await _until(lambda: listener.reasons)
    again, _ = await _open(provided, resume=2)
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await again.close()
    assert provided.content() == b"a\nb\n"
    assert provided.stop is not None
    await provided.stop()


@pytest_twisted.ensureDeferred
async def test_a_wrong_secret_is_refused(tmp_path: Path) -> None:
    """Nothing can be opened without proof of the shared secret."""
    provided = await _provide("remote", tmp_path, secret="right", client="wrong")
    opening = provided.opener.open(_SLICE, "source-1", Listener())
    opening.addTimeout(1.0, reactor)
    with pytest.raises(Exception):  # noqa: B017 — refused or timed out, whichever comes first
        await opening
    assert provided.content() == b""
    assert provided.stop is not None
    await provided.stop()
