"""Fixtures shared by all tests: a real etcd, and a client with a separate namespace for
each test.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from twisted.internet import reactor

from stream.etcd import EtcdClient
from stream.etcd.embedded import etcd_binary
from tests.effort import USUAL_EXAMPLES, examples
from tests.programs import with_programs

# The duration of an example says nothing about correctness.
settings.register_profile("usual", deadline=None, max_examples=examples(USUAL_EXAMPLES))
settings.load_profile("usual")

_START_SECONDS = 30
_NOT_RUN = "NOT_RUN_FILE"
"""The environment variable with the path where `make test` collects skipped tests."""


@pytest.fixture(scope="session", autouse=True)
def programs() -> Iterator[None]:
    """Put programs that scripts call on the PATH."""
    with with_programs():
        yield


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report the skipped tests at the end, with their reasons."""
    reasons: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", ()):
        place, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, "")
        reasons.setdefault(str(reason).removeprefix("Skipped: "), []).append(
            report.nodeid or str(place)
        )
    lines = [
        f"{len(names)} tests could not run: {reason} ({sorted(names)[0]}{' …' * (len(names) > 1)})"
        for reason, names in sorted(reasons.items())
    ]
    if not lines:
        return
    terminalreporter.section("what could not run here")
    for line in lines:
        terminalreporter.line(line)
    if os.environ.get(_NOT_RUN):
        with Path(os.environ[_NOT_RUN]).open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


_given_ports: set[int] = set()
# Each byte stands for a port: a lock on the byte reserves the port until the process ends.
_ports = Path(tempfile.gettempdir(), f"stream-test-ports-{os.getuid()}").open("ab")  # noqa: SIM115


_PORTS = range(20_000, 32_000)
"""Below the ports of outgoing connections, so none of those takes one before it is used."""
_ATTEMPTS = 10_000
_WORKERS = 3
"""Workers of a source listen on the ports behind those of their parent."""


def free_port() -> int:
    """Return a free port on loopback, never the same one twice; those of workers are free, too.

    An earlier caller may not listen on its port yet, in this run of tests or in a concurrent one.
    """
    return free_ports(1 + _WORKERS)


def free_ports(count: int) -> int:
    """Return the first of *count* consecutive free ports on loopback; see `free_port`."""
    for _ in range(_ATTEMPTS):
        first = random.randrange(_PORTS.start, _PORTS.stop - count)
        ports = range(first, first + count)
        if _given_ports.isdisjoint(ports) and all(_reserve(port) for port in ports):
            return first
    raise RuntimeError("no port is free")


def _reserve(port: int) -> bool:
    """Reserve a port unless it is in use; return whether it is reserved."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            fcntl.lockf(_ports, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
    _given_ports.add(port)
    return True


@pytest.fixture(scope="module")
def every_mapping_is_large() -> Iterator[None]:
    """Make records refer to their mappings, even small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stream.mapping.stored.INLINE_BYTES", 0)
        yield


@pytest.fixture(scope="session")
def etcd_url() -> Iterator[str]:
    """The URL of an etcd that runs until the end of the tests."""
    url = f"http://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="stream-etcd-") as data:
        process = subprocess.Popen(
            [
                etcd_binary(),
                f"--data-dir={data}",
                f"--listen-client-urls={url}",
                f"--advertise-client-urls={url}",
                f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
                "--unsafe-no-fsync",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_healthy(url, process)
            yield url
        finally:
            process.terminate()
            process.wait(10)


def _wait_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"etcd ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
                if b'"true"' in answer.read():
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("etcd did not start")


@pytest_twisted.async_yield_fixture()
async def etcd(etcd_url: str) -> AsyncIterator[EtcdClient]:
    """A started client whose namespace no other test uses."""
    client = EtcdClient(reactor, [etcd_url], f"test-{secrets.token_hex(8)}")
    await client.startService()
    yield client
    await client.delete_prefix("")
    await client.stopService()
