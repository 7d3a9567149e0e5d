"""The writer's service with a real etcd: registration, draining, sealing, cleanup, stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from stream.errors import UserError
from stream.etcd import EtcdClient, Session
from stream.settings import Settings
from stream.settings.declare import with_values
from stream.settings.local import WriterTlsSettings
from stream.storage.model import prefix
from stream.storage.model.entity import Slice
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level, SliceState
from stream.storage.model.volume import Volume
from stream.storage.network.client import WriterClients
from stream.storage.network.interface import (
    SliceFile,
    SliceSealed,
    SourceLife,
    SyncLevel,
    WriterDraining,
    WriterError,
    WriterUnavailable,
)
from stream.storage.writer import service as service_module
from stream.storage.writer.service import StorageWriterService
from stream.values.codec import decode, encode
from stream.values.duration import Duration
from tests.storage.network.authority import Authority
from tests.storage.samples import sample_slice, uncompressed
from tests.waiting import until


@attrs.define(eq=False)
class Listener:
    """A listener that records messages, and closes its file when the writer drains."""

    reasons: list[WriterError] = attrs.Factory(list)
    file: SliceFile | None = None
    drained: int = 0

    def draining(self) -> None:
        self.drained += 1
        if self.file is not None:
            self.file.close()

    def lost(self, reason: WriterError) -> None:
        self.reasons.append(reason)


class Node:
    """A writer with its dependencies."""

    def __init__(self, client: EtcdClient, volumes: Path) -> None:
        self.client = client
        self.volumes = volumes
        self.session = Session(client, ttl=10, reactor=reactor)
        self.services: list[StorageWriterService] = []

    async def start(self, **options: Any) -> StorageWriterService:
        if not self.session.running:
            await self.session.startService()
        local = Settings().storage.level.local
        network = with_values(
            local.writer.network,
            {
                ("listen",): "127.0.0.1:0",
                ("secret",): "shared",
                ("shutdown_timeout",): options.pop("shutdown", Duration.parse("1s")),
                ("tls",): options.pop("tls", WriterTlsSettings()),
                **options.pop("network", {}),
            },
        )
        service = StorageWriterService(
            reactor,
            self.client,
            self.session,
            node_id="writer-1",
            address_host="127.0.0.1",
            volumes_path=str(self.volumes),
            network=network,
            cleanup=options.pop("cleanup", Settings().storage.disk_cleanup),
            **options,
        )
        await service.startService()
        self.services.append(service)
        return service

    async def stop(self) -> None:
        for service in self.services:
            if service.running:
                await service.stopService()
        await self.session.stopService()

    async def registered(self) -> list[Volume]:
        found = await self.client.range(prefix.WRITER_VOLUME)
        return [decode(Volume, kv.value) for kv in found.kvs]

    async def put(self, slice_: Slice) -> None:
        level = f"{prefix.slice_level(Level.LOCAL)}{slice_.key}"
        await self.client.put(f"{prefix.SLICE_ALL}{slice_.key}", encode(slice_))
        await self.client.put(level, encode(slice_))

    async def life(self, node_id: str = "source-1") -> SourceLife:
        """Return the life of a source node that has claimed its name."""
        key = f"{prefix.SOURCE_LIFE}{node_id}"
        await self.client.put(key, b"{}")
        found = await self.client.get(key)
        assert found is not None
        return SourceLife(node_id, found.create_revision)

    async def remove(self, key: SliceKey) -> None:
        await self.client.delete(f"{prefix.slice_level(Level.LOCAL)}{key}")


@pytest.fixture
def node(etcd: EtcdClient, tmp_path: Path) -> Any:
    (tmp_path / "volumes" / "HDD" / "one").mkdir(parents=True)
    node = Node(etcd, tmp_path / "volumes")
    yield node
    pytest_twisted.blockon(Deferred.fromCoroutine(node.stop()))


async def _slice(node: Node, sink_id: str = "my-sink") -> Slice:
    """Create a slice on the node's volume, and return it."""
    (volume,) = await node.registered()
    made = sample_slice(sink_id, volume.volume_id, encoding=uncompressed())
    await node.put(made)
    return made


@pytest_twisted.ensureDeferred
async def test_volumes_are_registered_while_the_service_runs(node: Node) -> None:
    """Registered volumes have the actual listening address, and are removed by a stop."""
    service = await node.start()
    (volume,) = await node.registered()
    assert volume.node_id == "writer-1"
    assert (volume.type, volume.label, volume.drained) == ("hdd", "one", False)
    assert volume.path == str(node.volumes / "HDD" / "one")
    assert volume.node_address.startswith("127.0.0.1:")
    assert not volume.node_address.endswith(":0")
    assert len(volume.volume_id) == 10
    await service.stopService()
    assert await node.registered() == []
    again = await node.start()
    assert [found.volume_id for found in await node.registered()] == [volume.volume_id]
    assert again.writer.has_volume(volume.volume_id)


@pytest_twisted.ensureDeferred
async def test_a_second_writer_is_refused(node: Node) -> None:
    """The second writer leaves no state, and the first continues."""
    await node.start()
    with pytest.raises(UserError, match="cannot acquire writer lock"):
        await node.start()
    assert len(await node.registered()) == 1


@pytest_twisted.ensureDeferred
async def test_copied_volumes_are_refused(node: Node) -> None:
    """Two disks with one id would hide each other; acquired locks are released."""
    for label in ("one", "two"):
        path = node.volumes / "HDD" / label
        path.mkdir(exist_ok=True)
        (path / "volume-id").write_text("same")
    with pytest.raises(UserError, match='found 2 volumes with the ID "same"'):
        await node.start()
    (node.volumes / "HDD" / "two" / "volume-id").unlink()
    await node.start()
    assert len(await node.registered()) == 2


@pytest_twisted.ensureDeferred
async def test_a_drain_file_is_published(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slice is opened while the drain file exists, and its reason is logged."""
    monkeypatch.setattr(service_module, "WATCH_VOLUMES_SECONDS", 0.02)
    service = await node.start()
    slice_ = await _slice(node)
    drain = node.volumes / "HDD" / "one" / "drain"

    async def is_drained() -> bool:
        return (await node.registered())[0].drained

    with capturedLogs() as events:
        drain.touch()
        await until(is_drained)
    assert "by hand" in [event.get("reason") for event in events]
    with pytest.raises(WriterDraining):
        await service.writer.open(slice_, await node.life(), Listener())
    drain.unlink()

    async def is_back() -> bool:
        return not (await node.registered())[0].drained

    await until(is_back)
    await (await service.writer.open(slice_, await node.life(), Listener())).close()


@pytest_twisted.ensureDeferred
async def test_a_volume_without_space_is_drained(node: Node) -> None:
    """A volume without free space is drained from the start."""
    await node.start(min_free_bytes=2**62)
    assert [volume.drained for volume in await node.registered()] == [True]


@pytest_twisted.ensureDeferred
async def test_the_state_in_etcd_decides(node: Node) -> None:
    """Closing slices are writable, uploading ones are sealed, and unknown ones are refused."""
    service = await node.start()
    slice_ = await _slice(node)
    listener = Listener()
    file = await service.writer.open(slice_, await node.life(), listener)
    now = slice_.key.slice_opened_at
    closing = slice_.advance(SliceState.WRITING, SliceState.CLOSING, now)
    await node.put(closing)
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await node.put(closing.advance(SliceState.CLOSING, SliceState.UPLOADING, now))
    await until(lambda: listener.reasons)
    assert isinstance(listener.reasons[0], SliceSealed)
    with pytest.raises(SliceSealed):
        await service.writer.open(slice_, await node.life(), Listener())
    unknown = sample_slice("other", slice_.key.volume_id)
    with pytest.raises(SliceSealed):
        await service.writer.open(unknown, await node.life(), Listener())
    assert (node.volumes / "HDD/one" / slice_.local.dir / "slice-source-1.csv.gz").exists()


@pytest_twisted.ensureDeferred
async def test_a_deleted_slice_is_sealed(node: Node) -> None:
    """The slice is sealed even if the watch missed the deletion."""
    service = await node.start()
    first, second = await _slice(node), await _slice(node, "second")
    listeners = [Listener(), Listener()]
    for slice_, listener in zip((first, second), listeners, strict=True):
        await service.writer.open(slice_, await node.life(), listener)
    await node.remove(first.key)
    await until(lambda: listeners[0].reasons)
    assert listeners[1].reasons == []
    await service._slices.stopService()
    await node.remove(second.key)
    await service._slices.startService()
    await until(lambda: listeners[1].reasons)


@pytest_twisted.ensureDeferred
async def test_orphaned_directories_are_removed(node: Node) -> None:
    """Directories unknown to etcd are removed at the start, with the configured concurrency."""
    first = await node.start()
    slice_ = await _slice(node)
    file = await first.writer.open(slice_, await node.life(), Listener())
    await file.append(0, b"a\n", level=SyncLevel.SYNCED)
    await first.stopService()
    orphan = node.volumes / "HDD/one/1/2/source/sink/file/slice"
    orphan.mkdir(parents=True)
    (orphan / "slice-x.csv").write_text("x")
    orphan.with_name("another").mkdir()
    await node.start(cleanup=attrs.evolve(Settings().storage.disk_cleanup, concurrency=1))
    await until(lambda: not (node.volumes / "HDD/one/1").exists())
    stored = node.volumes / "HDD/one" / slice_.local.dir / "slice-source-1.csv.gz"
    assert stored.read_bytes() == b"a\n"


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_the_pipelines(node: Node) -> None:
    """The pipelines are asked to close, and no new volume is assigned during the stop."""
    service = await node.start(shutdown=Duration.parse("20s"))
    slice_ = await _slice(node)
    listener = Listener()
    file = await service.writer.open(slice_, await node.life(), listener)
    await file.append(0, b"a\n", level=SyncLevel.WRITTEN)
    stopping = Deferred.fromCoroutine(service.stopService())
    await until(lambda: listener.drained)
    assert await node.registered() == []
    await file.append(2, b"b\n", level=SyncLevel.WRITTEN)
    assert not stopping.called
    await file.close()
    await stopping
    assert listener.reasons == []


@pytest_twisted.ensureDeferred
async def test_a_pipeline_that_does_not_close(node: Node) -> None:
    """The connection of the pipeline is closed; appended rows are on the disk, and the volume is
    unlocked.
    """
    service = await node.start()
    slice_ = await _slice(node)
    listener = Listener()
    file = await service.writer.open(slice_, await node.life(), listener)
    await file.append(0, b"a\n", level=SyncLevel.WRITTEN)
    await service.stopService()
    assert isinstance(listener.reasons[0], WriterDraining)
    assert not (node.volumes / "HDD/one/writer.lock").exists()
    await node.start()


@pytest_twisted.ensureDeferred
async def test_a_stop_without_etcd(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files are closed, and the registration ends with its lease."""
    service = await node.start()

    async def fail() -> None:
        raise RuntimeError("etcd is unavailable")

    for registration in service._registrations.values():
        monkeypatch.setattr(registration, "remove", fail)
    await service.stopService()
    assert not (node.volumes / "HDD/one/writer.lock").exists()


@pytest_twisted.ensureDeferred
async def test_a_source_in_another_process_finds_the_writer(node: Node) -> None:
    """The writer is found by its registration, and its address is removed when it stops."""
    service = await node.start()
    slice_ = await _slice(node)
    (volume,) = await node.registered()
    known = {volume.volume_id: volume}
    network = with_values(Settings().storage.level.local.writer.network, {("secret",): "shared"})
    source = await node.life()
    clients = WriterClients(reactor, "source-1", network, known.get, life=lambda: source.number)
    clients.startService()
    listener = Listener()
    listener.file = file = await clients.open(slice_, source, listener)
    assert await file.append(0, b"a\n", level=SyncLevel.SYNCED) == 2
    clients._forget_unregistered()
    assert list(clients._writers) == [volume.node_address]
    known.clear()
    clients._forget_unregistered()
    assert list(clients._writers) == [volume.node_address], "a file is open"
    await service.stopService()
    assert (listener.drained, listener.reasons) == (1, [])
    clients._forget_unregistered()
    assert list(clients._writers) == []
    await clients.stopService()


async def _appended(node: Node, slice_: Slice, tls: WriterTlsSettings) -> int:
    """Return the result of a row sent by a source in another process, with its own certificate."""
    (volume,) = await node.registered()
    network = with_values(
        Settings().storage.level.local.writer.network,
        {
            ("secret",): "shared",
            ("tls",): tls,
            ("stream_open_timeout",): Duration.parse("1s"),
        },
    )
    source = await node.life()
    clients = WriterClients(
        reactor, "source-1", network, {volume.volume_id: volume}.get, life=lambda: source.number
    )
    clients.startService()
    try:
        file = await clients.open(slice_, source, Listener())
        end = await file.append(0, b"a\n" * 100_000, level=SyncLevel.SYNCED)
        await file.close()
        return end
    finally:
        await clients.stopService()


@pytest_twisted.ensureDeferred
async def test_rows_are_sent_by_tls(node: Node, tmp_path: Path) -> None:
    """The nodes have certificates of one authority, and the rows take many TLS records."""
    authority = Authority(tmp_path)
    await node.start(tls=authority.issue("writer"))
    assert await _appended(node, await _slice(node), authority.issue("source")) == 200_000


@pytest_twisted.ensureDeferred
async def test_tls_authentication(node: Node, tmp_path: Path) -> None:
    """No certificate, one of another authority, and a writer at another address are refused."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    service = await node.start(tls=authority.issue("writer"))
    slice_ = await _slice(node)
    foreign = attrs.evolve(other.issue("source"), ca=str(authority.ca))
    for tls in (WriterTlsSettings(), foreign, other.issue("trusting")):
        with pytest.raises(WriterUnavailable):
            await _appended(node, slice_, tls)
    await service.stopService()
    await node.start(tls=authority.issue("elsewhere", "192.0.2.1"))
    with pytest.raises(WriterUnavailable):
        await _appended(node, await _slice(node), authority.issue("source"))


@pytest.mark.parametrize(
    ("listen", "secret", "insecure", "warned"),
    [
        ("0.0.0.0:0", "", True, True),
        ("0.0.0.0:0", "s", False, False),
        ("0.0.0.0:0", "s", True, False),
        ("127.0.0.1:0", "", False, False),
        ("[::1]:0", "", False, False),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_warning_without_a_secret(
    node: Node, listen: str, secret: str, insecure: bool, warned: bool
) -> None:
    """A writer that listens to other hosts without a secret logs a warning at the start."""
    with capturedLogs() as events:
        await node.start(
            network={("listen",): listen, ("secret",): secret, ("insecure",): insecure}
        )
    texts = [event["log_format"] for event in events if event["log_format"]]
    assert any("can write to the volumes" in text for text in texts) is warned


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0", "localhost.example:0"])
@pytest_twisted.ensureDeferred
async def test_a_port_without_a_secret_is_refused(node: Node, listen: str) -> None:
    """A port that other hosts reach needs a secret or TLS; the error names the solution."""
    with pytest.raises(UserError, match=r"network\.secret .* tls.* 127\.0\.0\.1.* insecure: true"):
        await node.start(network={("listen",): listen, ("secret",): ""})
    assert await node.registered() == []
    await node.start()
