"""Debugging of a process over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from stream.ops.debug.listener import DebugListener
from stream.ops.logging.control import LogControl


@asynccontextmanager
async def _running(log: LogControl) -> AsyncIterator[str]:
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    listener = DebugListener(reactor, endpoint, "127.0.0.1:0", log)
    await listener.startService()
    assert listener.port is not None
    try:
        yield f"http://127.0.0.1:{listener.port.getHost().port}/debug"  # type: ignore[attr-defined]
    finally:
        await listener.stopService()


async def _ask(url: str, method: str = "GET", host: str = "") -> tuple[int, bytes]:
    client = treq.client.HTTPClient(Agent(reactor))
    headers = Headers({"Host": [host]} if host else {})
    response: Any = await client.request(method, url, headers=headers)
    return response.code, await response.content()


@pytest_twisted.ensureDeferred
async def test_profile_and_threads(tmp_path: Path) -> None:
    """Stacks of all threads are shown, now or sampled; invalid durations are refused."""
    async with _running(LogControl(str(tmp_path / "log"))) as url:
        status, stacks = await _ask(f"{url}/pprof/profile?seconds=0.1")
        assert status == 200
        assert any(line.startswith(b"MainThread;") for line in stacks.splitlines())
        assert all(line.rpartition(b" ")[2].isdigit() for line in stacks.splitlines())
        assert b"MainThread:" in (await _ask(f"{url}/pprof/goroutine"))[1]
        assert (await _ask(f"{url}/pprof/cmdline"))[1]
        assert b"profile" in (await _ask(f"{url}/pprof/"))[1]
        assert (await _ask(f"{url}/pprof/nothing"))[0] == 404
        for seconds in ("-1", "0", "x", "nan", "1e9"):
            assert (await _ask(f"{url}/pprof/profile?seconds={seconds}"))[0] == 400


@pytest_twisted.ensureDeferred
async def test_memory_and_reactor(tmp_path: Path) -> None:
    """The pages show objects by type, allocations during an interval, and the descriptors of the
    reactor.
    """
    kept = []

    def allocate() -> None:
        kept.append(bytearray(1_000_000))

    async with _running(LogControl(str(tmp_path / "log"))) as url:
        status, shown = await _ask(f"{url}/pprof/heap")
        assert status == 200
        assert b"  builtins.dict\n" in shown
        # repeated, because a busy machine may start the measurement late
        allocating = LoopingCall(allocate)
        allocating.start(0.02)
        try:
            status, waiting = await _ask(f"{url}/pprof/goroutine")
            assert b"allocate" in waiting and b"Port\n" in waiting
            status, allocated = await _ask(f"{url}/pprof/heap?seconds=0.4")
        finally:
            allocating.stop()
        assert status == 200
        size, unit, *where = allocated.splitlines()[1].split()
        assert float(size) * {b"KiB": 1024, b"MiB": 1024**2}[unit] >= 1_000_000
        assert Path(__file__).name.encode() in b" ".join(where)


@pytest_twisted.ensureDeferred
async def test_one_profile_at_a_time(tmp_path: Path) -> None:
    """A profile would show another one, so the next one starts when the previous has ended."""
    async with _running(LogControl(str(tmp_path / "log"))) as url:
        both = [ensureDeferred(_ask(f"{url}/pprof/profile?seconds=0.2")) for _ in range(2)]
        assert sorted([(await asked)[0] for asked in both]) == [200, 503]
        assert (await _ask(f"{url}/pprof/profile?seconds=0.01"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_log_levels(tmp_path: Path) -> None:
    """Levels are shown and changed, and an unknown level is refused."""
    log = LogControl(str(tmp_path / "log"))
    async with _running(log) as url:
        change = f"{url}/log-level?namespace=etcd&level="
        assert await _ask(f"{change}debug", "PUT") == (200, b'{"":"info","etcd":"debug"}\n')
        assert (await _ask(f"{change}loud", "PUT"))[0] == 400
        assert await _ask(f"{url}/log-level") == (200, b'{"":"info","etcd":"debug"}\n')
    assert log.levels()["etcd"] == "debug"


@pytest_twisted.ensureDeferred
async def test_requests_of_other_sites_are_refused(tmp_path: Path) -> None:
    """A browser whose request has another host name is refused."""
    log = LogControl(str(tmp_path / "log"))
    async with _running(log) as url:
        path = f"{url}/log-level?level=debug"
        assert (await _ask(path, "PUT", host="evil.example"))[0] == 403
        assert (await _ask(f"{url}/pprof/cmdline", host="evil.example"))[0] == 403
    assert log.levels() == {"": "info"}
