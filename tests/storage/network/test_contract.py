"""The contract of slice files: in memory, in the same process, over a connection."""

from __future__ import annotations

import errno
import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    ensureDeferred,
    succeed,
)
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock

from stream.etcd import Batch, Change
from stream.settings import Settings
from stream.settings.declare import with_values
from stream.settings.local import WriterNetworkSettings
from stream.storage.model.key import SliceKey
from stream.storage.model.marks import Mark, marked
from stream.storage.model.volume import Volume
from stream.storage.network import client
from stream.storage.network.client import WriterClients
from stream.storage.network.interface import (
    ContentConflict,
    Enquiry,
    Fenced,
    NoSpace,
    SliceFile,
    SliceOpener,
    SliceSealed,
    SourceLife,
    StoredRows,
    Superseded,
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
    WrongOffset,
)
from stream.storage.volumes.local_volume import FoundVolume
from stream.storage.writer import disk
from stream.storage.writer.server import WriterFactory
from stream.storage.writer.writer import OpenVolume, StorageWriter
from stream.values.duration import Duration
from tests.conftest import free_port
from tests.sink.fakes import FakeOpener
from tests.storage.register import LIFE, FakeRegister
from tests.storage.samples import sample_slice, uncompressed
from tests.storage.writer.rounds import ROUNDS, choose_rounds
from tests.waiting import until

_SLICE = sample_slice(encoding=uncompressed())
_BIG = b"x" * (1024 * 1024 + 17)


@attrs.define
class Listener:
    """A listener that records the writer's messages."""

    reasons: list[WriterError] = attrs.Factory(list)
    drained: int = 0

    def draining(self) -> None:
        self.drained += 1

    def lost(self, reason: WriterError) -> None:
        self.reasons.append(reason)


@attrs.define
class Provided:
    """An opener and its environment."""

    opener: SliceOpener
    content: Callable[[], bytes]
    register: FakeRegister = attrs.Factory(FakeRegister.of)
    writer: StorageWriter | None = None
    sealed: set[SliceKey] = attrs.Factory(set)
    factory: WriterFactory | None = None
    volume: OpenVolume | None = None
    may_open: Deferred[None] = attrs.Factory(lambda: succeed(None))
    stop: Callable[[], Awaitable[None]] | None = None
    life: int = LIFE.number

    def next_life(self) -> None:
        """Claim the name of the source node as another process."""
        self.register.lives[LIFE.node_id] = LIFE.number + 1
        self.life = LIFE.number + 1


async def _provide(kind: str, root: Path, *, secret: str = "", client: str = "") -> Provided:
    if kind == "memory":
        fake = FakeOpener()
        return Provided(fake, lambda: bytes(fake.disk.get(str(_SLICE.key), b"")))
    path = root / "volume"
    path.mkdir()
    sealed: set[SliceKey] = set()

    async def may_be_written(key: SliceKey) -> bool:
        answer = key not in sealed
        await made.may_open
        return answer

    register = FakeRegister.of(_SLICE, may_be_written=may_be_written)
    writer = StorageWriter(reactor, register)
    volume = OpenVolume(FoundVolume(path, "hdd", "one"), _SLICE.key.volume_id, reactor)
    volume.pool.start()
    writer.add_volume(volume)

    def content() -> bytes:
        files = list(path.rglob("slice-*"))
        return files[0].read_bytes() if files else b""

    async def stop() -> None:
        await writer.close()
        await volume.leave(reactor, 5)

    if kind == "local":
        made = Provided(writer, content, register, writer, sealed, None, volume, stop=stop)
        return made
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
        life=lambda: made.life,
        volumes=lambda: [registered],
    )
    clients.startService()

    async def stop_all() -> None:
        await clients.stopService()
        await port.stopListening()
        await stop()
        await until(lambda: not factory.connections)

    made = Provided(clients, content, register, writer, sealed, factory, volume, stop=stop_all)
    return made


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
    file = await provided.opener.open(_SLICE, LIFE, listener, resume=resume)
    return file, listener


@pytest_twisted.ensureDeferred
async def test_appends_are_acknowledged_with_the_new_length(provided: Provided) -> None:
    """Bytes of any size are stored in order, at each level of durability."""
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
    """A repeated append after a lost answer is recognised by its offset."""
    file, _ = await _open(provided)
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    await file.close()
    assert provided.content() == b"a\n"


@pytest_twisted.ensureDeferred
async def test_a_gap_is_refused_with_the_length(provided: Provided) -> None:
    """The error contains the length of the file."""
    file, _ = await _open(provided)
    await file.append(0, b"a\n", level=SyncLevel.WRITTEN)
    with pytest.raises(WrongOffset) as refused:
        await file.append(5, b"b\n", level=SyncLevel.WRITTEN)
    assert refused.value.length == 2
    await file.close()


@pytest_twisted.ensureDeferred
async def test_reopening_truncates_unacknowledged_data(provided: Provided) -> None:
    """Unacknowledged data is truncated."""
    file, _ = await _open(provided)
    await file.append(0, b"a\nb\n", level=SyncLevel.SYNCED)
    await file.close()
    again, _ = await _open(provided, resume=2)
    assert again.length == 2
    await again.append(2, b"c\n", level=SyncLevel.SYNCED)
    await again.close()
    assert provided.content() == b"a\nc\n"


@pytest_twisted.ensureDeferred
async def test_many_appends_in_flight_are_ordered(provided: Provided) -> None:
    """Appends are also answered in order."""
    file, _ = await _open(provided)
    answers = [file.append(i * 4, b"%03d\n" % i, level=SyncLevel.SYNCED) for i in range(50)]
    assert [await answer for answer in answers] == [(i + 1) * 4 for i in range(50)]
    await file.close()
    assert provided.content() == b"".join(b"%03d\n" % i for i in range(50))


@pytest_twisted.ensureDeferred
async def test_other_bytes_at_a_stored_offset_are_refused(provided: Provided) -> None:
    """A repeated append with other bytes is a mistake or damage; the stored data is kept."""
    file, _ = await _open(provided)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    with pytest.raises(ContentConflict):
        await file.append(0, b"b\n", level=SyncLevel.SYNCED)
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    await file.close()
    assert provided.content() == b"a\n"


@pytest.fixture(params=[(kind, way) for kind in ("local", "remote") for way in ROUNDS])
def real(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    kind, way = request.param
    choose_rounds(monkeypatch, way)
    made: Provided = pytest_twisted.blockon(Deferred.fromCoroutine(_provide(kind, tmp_path)))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))  # type: ignore[arg-type, misc]


@pytest.fixture
def remote(tmp_path: Path) -> Any:
    made: Provided = pytest_twisted.blockon(Deferred.fromCoroutine(_provide("remote", tmp_path)))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))  # type: ignore[arg-type, misc]


@pytest_twisted.ensureDeferred
async def test_the_newest_opening_takes_precedence(real: Provided) -> None:
    """The older handle is invalid, and its owner is notified."""
    old, listener = await _open(real)
    await old.append(0, b"a\n", level=SyncLevel.SYNCED)
    new, _ = await _open(real, resume=2)
    await until(lambda: listener.reasons)
    with pytest.raises(WriterUnavailable):
        await old.append(2, b"x\n", level=SyncLevel.SYNCED)
    assert await new.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await new.close()
    assert real.content() == b"a\nb\n"


@pytest_twisted.ensureDeferred
async def test_a_sealed_slice_accepts_nothing(real: Provided) -> None:
    """Files of the slice are closed, their owners are notified, and it can't be opened again."""
    assert real.writer is not None
    file, listener = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    real.sealed.add(_SLICE.key)
    real.writer.seal(_SLICE.key)
    await until(lambda: listener.reasons)
    assert isinstance(listener.reasons[0], SliceSealed)
    with pytest.raises(WriterError):
        await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    with pytest.raises(SliceSealed):
        await _open(real)
    assert real.content() == b"a\n"


@pytest_twisted.ensureDeferred
async def test_a_draining_writer_asks_its_clients_to_close(real: Provided) -> None:
    """Open files can still be written and closed, and no file is opened."""
    assert real.writer is not None
    file, listener = await _open(real)
    real.writer.drain()
    await until(lambda: listener.drained)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await file.close()
    with pytest.raises(WriterError):
        await _open(real)


@pytest_twisted.ensureDeferred
async def test_a_lost_file_can_be_closed(real: Provided) -> None:
    """Closing never fails, and the owner of a closed file isn't notified."""
    assert real.writer is not None
    file, listener = await _open(real)
    real.writer.seal(_SLICE.key)
    await until(lambda: listener.reasons)
    await file.close()
    await file.close()
    assert len(listener.reasons) == 1


@pytest_twisted.ensureDeferred
async def test_concurrent_openings(real: Provided) -> None:
    """One of them gets the file, and no byte is overwritten."""
    openings = [_open(real) for _ in range(5)]
    opened = [await Deferred.fromCoroutine(opening) for opening in openings]
    end = 0
    *old, (newest, listener) = opened
    for index in range(3):
        end = await newest.append(end, b"%d\n" % index, level=SyncLevel.SYNCED)
    for file, _ in old:
        with pytest.raises(WriterUnavailable):
            await file.append(0, b"x\n", level=SyncLevel.SYNCED)
    await until(lambda: all(other.reasons for _, other in old))
    assert listener.reasons == []
    await newest.close()
    assert real.content() == b"0\n1\n2\n"


@pytest_twisted.ensureDeferred
async def test_appends_during_a_second_opening(real: Provided) -> None:
    """Data acknowledged to the older handle is visible to the newer one; other appends fail."""
    old, _ = await _open(real)
    row = b'"%03d"\n'
    answers = [old.append(index * 6, row % index, level=SyncLevel.SYNCED) for index in range(20)]
    new, _ = await _open(real)
    results = await DeferredList(answers, consumeErrors=True)
    acknowledged = max([0, *(int(str(end)) for stored, end in results if stored)])
    assert new.length >= acknowledged
    await new.append(new.length, row % 777, level=SyncLevel.SYNCED)
    await new.close()
    rows = real.content().splitlines(keepends=True)
    assert rows == [*(row % index for index in range(new.length // 6)), row % 777]


@pytest_twisted.ensureDeferred
async def test_a_slice_sealed_during_its_opening(real: Provided) -> None:
    """The state read from etcd may be outdated when the answer arrives."""
    assert real.writer is not None
    real.may_open = Deferred()
    opening = Deferred.fromCoroutine(_open(real))
    await until(lambda: real.writer is not None and real.writer._turns)
    real.writer.seal(_SLICE.key)
    real.may_open.callback(None)
    with pytest.raises(SliceSealed):
        await opening
    assert real.writer.open_files == 0


@pytest_twisted.ensureDeferred
async def test_a_cancelled_opening(real: Provided) -> None:
    """The file is closed as soon as it is open."""
    assert real.writer is not None
    real.may_open = Deferred()
    opening = real.opener.open(_SLICE, LIFE, Listener())
    await until(lambda: real.writer is not None and real.writer._turns)
    opening.cancel()
    with pytest.raises((WriterError, CancelledError)):
        await opening
    real.may_open.callback(None)
    await until(lambda: real.writer is not None and not real.writer._turns)
    await until(lambda: real.writer is not None and not real.writer.open_files)


@pytest_twisted.ensureDeferred
async def test_a_drained_volume_opens_no_new_file(real: Provided) -> None:
    """A file that was opened before can be resumed and finished."""
    assert real.volume is not None
    file, _ = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await file.close()
    real.volume.drained = True
    with pytest.raises(WriterDraining, match="is drained"):
        await _open(real)
    again, _ = await _open(real, resume=2)
    assert again.length == 2
    await again.close()


@pytest_twisted.ensureDeferred
async def test_an_unknown_volume_is_refused(real: Provided) -> None:
    """Slices of other nodes are refused."""
    elsewhere = sample_slice(volume_id="elsewhere")
    with pytest.raises(WriterUnavailable, match="elsewhere"):
        await real.opener.open(elsewhere, LIFE, Listener())


@pytest.mark.parametrize("name", ["../up", "a/b", "nul\0"])
@pytest_twisted.ensureDeferred
async def test_an_unsafe_name_is_refused(real: Provided, name: str) -> None:
    """Names are sent by other nodes."""
    with pytest.raises(WriterUnavailable, match="no valid directory"):
        await real.opener.open(_SLICE, SourceLife(name, LIFE.number), Listener())


@pytest_twisted.ensureDeferred
async def test_a_full_disk(real: Provided, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is specific, no data of the append is kept, and the file is usable."""
    file, listener = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_write_all", full)
        with pytest.raises(NoSpace):
            await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    assert await file.append(2, b"c\n", level=SyncLevel.SYNCED) == 4
    assert listener.reasons == []
    await file.close()
    assert real.content() == b"a\nc\n"


@pytest_twisted.ensureDeferred
async def test_a_file_whose_sync_failed_is_abandoned(
    real: Provided, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the file is notified, and continues with a new handle after the acknowledged
    data.
    """
    file, listener = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)

    def failing(_: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("stream.storage.writer.disk.os.fdatasync", failing)
        with pytest.raises(WriterUnavailable):
            await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    await until(lambda: listener.reasons)
    with pytest.raises(WriterUnavailable):
        await file.append(2, b"b\n", level=SyncLevel.SYNCED)
    again, _ = await _open(real, resume=2)
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await again.close()
    assert real.content() == b"a\nb\n"


@pytest_twisted.ensureDeferred
async def test_a_restarted_source_continues_after_the_readable_data(real: Provided) -> None:
    """The source has no length to resume at, and a torn end is truncated."""
    compressed = sample_slice()
    real.register.slices[compressed.key] = compressed
    first = await real.opener.open(compressed, LIFE, Listener())
    member = gzip.compress(b'"a"\n')
    await first.append(0, member + member[:9], level=SyncLevel.SYNCED)
    await first.close()
    again = await real.opener.open(compressed, LIFE, Listener())
    assert again.length == len(member)
    await again.append(len(member), member, level=SyncLevel.SYNCED)
    await again.close()
    assert gzip.decompress(real.content()) == b'"a"\n"a"\n'


@pytest_twisted.ensureDeferred
async def test_two_source_nodes_have_separate_files(real: Provided) -> None:
    """The nodes don't affect each other."""
    assert real.volume is not None
    lives = [SourceLife(f"source-{n}", LIFE.number) for n in range(2)]
    files = [await real.opener.open(_SLICE, life, Listener()) for life in lives]
    for number, file in enumerate(files):
        await file.append(0, b"%d\n" % number, level=SyncLevel.SYNCED)
        await file.close()
    stored = sorted(real.volume.found.path.rglob("slice-*"))
    assert [path.read_bytes() for path in stored] == [b"0\n", b"1\n"]


@pytest_twisted.ensureDeferred
async def test_a_repeated_append_after_a_lost_connection_is_written_once(remote: Provided) -> None:
    """The writer had stored the group when the connection was lost."""
    assert remote.factory is not None
    file, listener = await _open(remote)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    pending = file.append(2, b"b\n", level=SyncLevel.SYNCED)
    (connection,) = remote.factory.connections
    connection.sendBox = lambda box: None  # type: ignore[method-assign]
    await until(lambda: remote.content() == b"a\nb\n")
    assert not pending.called
    connection.transport.abortConnection()
    with pytest.raises(WriterUnavailable):
        await pending
    await until(lambda: listener.reasons)
    again, _ = await _open(remote, resume=-1)
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await again.close()
    assert remote.content() == b"a\nb\n"


@pytest_twisted.ensureDeferred
async def test_more_data_than_the_window(remote: Provided) -> None:
    """Appends wait at the source until earlier ones are answered."""
    row = bytes(1024 * 1024)
    file, _ = await _open(remote)
    answers = [file.append(index * len(row), row, level=SyncLevel.WRITTEN) for index in range(32)]
    closed = file.close()
    assert [await answer for answer in answers][-1] == 32 * len(row)
    await closed
    assert len(remote.content()) == 32 * len(row)


@pytest.mark.parametrize("how", ["loseConnection", "abortConnection"])
@pytest_twisted.ensureDeferred
async def test_a_lost_connection(remote: Provided, how: str) -> None:
    """Appends in flight fail, the listener is notified, and the next opening connects again."""
    assert remote.factory is not None
    file, listener = await _open(remote)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    pending = file.append(2, b"b\n", level=SyncLevel.SYNCED)
    for connection in list(remote.factory.connections):
        getattr(connection.transport, how)()
    with pytest.raises(WriterUnavailable):
        await pending
    await until(lambda: listener.reasons)
    again, _ = await _open(remote, resume=2)
    assert await again.append(2, b"b\n", level=SyncLevel.SYNCED) == 4
    await again.close()
    assert remote.content() == b"a\nb\n"


@pytest_twisted.ensureDeferred
async def test_a_former_life_can_not_truncate_a_later_one(real: Provided) -> None:
    """The former life resumes after a pause, and opens the file again at the length that
    it knows.
    """
    file, _ = await _open(real)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    real.next_life()
    later = SourceLife(LIFE.node_id, LIFE.number + 1)
    present = await real.opener.open(_SLICE, later, Listener())
    assert present.length == 2
    await present.append(2, b"b\n", level=SyncLevel.SYNCED)
    with pytest.raises(Fenced):
        await _open(real, resume=2)
    with pytest.raises(Fenced):
        await _open(real)
    await present.append(4, b"c\n", level=SyncLevel.SYNCED)
    await present.close()
    assert real.content() == b"a\nb\nc\n"


@pytest_twisted.ensureDeferred
async def test_only_the_life_that_wrote_a_file_truncates_it(real: Provided) -> None:
    """Another life that sends a length is refused; without a length it continues after the rows."""
    file, _ = await _open(real)
    await file.append(0, b"a\nb\n", level=SyncLevel.SYNCED)
    await file.close()
    real.next_life()
    later = SourceLife(LIFE.node_id, LIFE.number + 1)
    with pytest.raises(Fenced):
        await real.opener.open(_SLICE, later, Listener(), resume=2)
    again = await real.opener.open(_SLICE, later, Listener())
    assert again.length == 4
    await again.close()
    cut = await real.opener.open(_SLICE, later, Listener(), resume=2)
    assert cut.length == 2
    await cut.close()


@pytest_twisted.ensureDeferred
async def test_a_life_that_ends_during_an_opening_is_refused(real: Provided) -> None:
    """The name is claimed between the two checks."""
    real.may_open = Deferred()
    opening = real.opener.open(_SLICE, LIFE, Listener())
    real.register.lives[LIFE.node_id] = LIFE.number + 1
    real.may_open.callback(None)
    with pytest.raises(Fenced):
        await opening
    assert real.writer is not None
    await until(lambda: real.writer.open_files == 0)


@pytest_twisted.ensureDeferred
async def test_location_and_format_of_a_file_come_from_etcd(real: Provided) -> None:
    """The source's view of the slice has no effect."""
    assert real.volume is not None
    believed = attrs.evolve(
        sample_slice(), local=attrs.evolve(_SLICE.local, dir="123/elsewhere/s/k/f/slice")
    )
    file = await real.opener.open(believed, LIFE, Listener())
    await file.append(0, b'"a"\n', level=SyncLevel.SYNCED)
    await file.close()
    (path,) = real.volume.found.path.rglob("slice-*")
    assert path.parent == real.volume.found.path / _SLICE.local.dir
    again, _ = await _open(real)
    assert again.length == 4, "uncompressed rows"
    await again.close()


@pytest_twisted.ensureDeferred
async def test_an_unknown_slice_is_refused(real: Provided) -> None:
    """Nothing is created on the volume."""
    assert real.volume is not None
    real.register.slices.clear()
    with pytest.raises(SliceSealed):
        await _open(real)
    assert not any(real.volume.found.path.iterdir())


@pytest_twisted.ensureDeferred
async def test_a_recovered_writer_is_reported(remote: Provided) -> None:
    """Waiting callers are notified by the connection and by a registration."""
    assert isinstance(remote.opener, WriterClients)
    _, listener = await _open(remote)
    told: list[str] = []
    for name in ("kept", "left"):
        available = remote.opener.available(_SLICE)
        available.addCallbacks(lambda _, name=name: told.append(name), lambda _: None)
    available.cancel()
    assert remote.factory is not None
    for connection in list(remote.factory.connections):
        connection.transport.abortConnection()
    await until(lambda: bool(told))
    assert told == ["kept"]
    assert len(listener.reasons) == 1
    remote.opener.available(_SLICE).addCallback(lambda _: told.append("registered"))
    (volume,) = remote.opener._seen.values()
    change = Change("k", volume, None, 1)
    remote.opener.volumes_changed(Batch(1, False, (change,)))
    assert told == ["kept", "registered"]
    assert remote.opener._waiting == {}


def test_an_unavailable_writer_is_called_often() -> None:
    """A writer that refuses the node isn't."""
    assert max(client._redial(attempts, 0) for attempts in range(40)) <= 0.3
    assert client._redial(1, 12) > 1


def _marked(row: bytes, attempt: bytes) -> bytes:
    return marked(gzip.compress(row, mtime=0), [Mark(b"k" * 16, b"c" * 8, attempt)])


async def _enquire(provided: Provided, attempt: bytes) -> list[StoredRows]:
    opener: Any = provided.opener
    enquiries = [Enquiry(b"k" * 16, attempt, (123, b"s" * 8))]
    if isinstance(opener, WriterClients):
        [found] = await opener.enquire(enquiries, are_first=False)
    else:
        [found] = await opener.enquire(enquiries)
    return list(found)


@pytest_twisted.ensureDeferred
async def test_rows_of_a_request_are_stored_by_its_latest_attempt(real: Provided) -> None:
    """An attempt without an enquiry is refused; a later enquiry returns the stored rows."""
    row = _marked(b"a\n", b"attempt1")
    file, _ = await _open(real)
    with pytest.raises(Superseded) as refused:
        await file.append(0, row, level=SyncLevel.SYNCED)
    assert refused.value.keys == {b"k" * 16}
    assert await _enquire(real, b"attempt1") == []
    assert await file.append(0, row, level=SyncLevel.SYNCED) == len(row)
    assert await _enquire(real, b"attempt2") == [StoredRows(_SLICE.key.sink_key, b"c" * 8)]
    with pytest.raises(Superseded):
        await file.append(len(row), row, level=SyncLevel.SYNCED)
    assert await file.append(len(row), b"x", level=SyncLevel.SYNCED) == len(row) + 1
    await file.close()
    with pytest.raises(Superseded):
        await _open(real, resume=0)
    again, _ = await _open(real, resume=len(row))
    assert again.length == len(row)
    await again.close()


def test_a_blocked_disk_delays_no_enquiry() -> None:
    """An enquiry waits for running appends, which may never end."""

    class Stuck:
        def enquire(self, _: object) -> Deferred[list[list[StoredRows]]]:
            return Deferred()

    clock, settings = Clock(), WriterNetworkSettings()
    local: Any = Stuck()
    clients = WriterClients(clock, "node", settings, lambda _: None, life=lambda: 1, local=local)
    results: list[Any] = []
    for are_first in (True, False):
        asking = ensureDeferred(
            clients.enquire([Enquiry(b"k" * 16, b"attempt1")], are_first=are_first)
        )
        asking.addBoth(results.append)
        clock.advance(settings.stream_open_timeout.seconds)
    assert results[0] == [[]]
    assert results[1].check(WriterUnavailable)


@pytest_twisted.ensureDeferred
async def test_a_first_attempt_does_not_wait_for_an_unavailable_writer(remote: Provided) -> None:
    """Later attempts get the answer that the stored rows are unknown."""
    opener: Any = remote.opener
    away = Volume("away", "n", f"127.0.0.1:{free_port()}", "/", "hdd", "one")
    registered = list(opener._volumes())
    opener._volumes = lambda: [*registered, away]
    opener._settings = with_values(
        opener._settings, {("stream_open_timeout",): Duration.parse("1s")}
    )
    assert await opener.enquire([Enquiry(b"k" * 16, b"attempt1")], are_first=True) == [[]]
    with pytest.raises(WriterUnavailable):
        await opener.enquire([Enquiry(b"k" * 16, b"attempt2")], are_first=False)
