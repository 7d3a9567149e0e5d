"""The composition of a process: the services of each set of components, in order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.testing import MemoryReactorClock
from twisted.python.threadpool import ThreadPool

from stream.components import build
from stream.ops.logging.configured import configured_log
from stream.ops.process.ordered_services import OrderedServices
from stream.plugin import NAMES
from stream.settings import Settings

_ORDER = (
    "MetricsListener",
    "ReactorLag",
    "EmbeddedEtcd",
    "LocalPostgres",
    "SandboxService",
    "Supervisor",
    "EtcdClient",
    "LayoutGuard",
    "Session",
    "StorageWriterService",
    "Libraries",
    "StorageApiService",
    "Workers",
    "Mirror",
    "ThreadPoolService",
    "StorageCoordinatorService",
    "StorageReaderService",
    "Templates",
    "ApiService",
    "Group",
    "WriterClients",
    "StatisticsPublisher",
    "RejectedRecords",
    "RejectedServer",
    "Quotas",
    "SinkRouter",
    "HttpSourceService",
)
"""Services in the order of their start, if they are in one process."""

_MAIN = {
    "storage-coordinator": "StorageCoordinatorService",
    "storage-writer": "StorageWriterService",
    "storage-reader": "StorageReaderService",
    "api": "ApiService",
    "http-source": "HttpSourceService",
    "etcd": "EmbeddedEtcd",
    "postgres": "LocalPostgres",
    "sandbox": "SandboxService",
}

_NAMED = {"storage-coordinator", "http-source"}
"""Objects that need different names."""

_OTHERS = [name for name in NAMES if name != "postgres"]
"""All names except that of a service that shares nothing with the others."""

_SUBSETS = [
    *(
        each
        for size in range(1, len(_OTHERS) + 1)
        for each in itertools.combinations(_OTHERS, size)
    ),
    ("postgres",),
    NAMES,
]


_OPEN = Path("/dev/fd")


class _Reactor(MemoryReactorClock):
    """A reactor that does nothing, with a thread pool that isn't started."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ThreadPool(0, 1)

    def getThreadPool(self) -> ThreadPool:
        return self.pool


def _settings() -> Settings:
    settings = Settings()
    return attrs.evolve(
        settings,
        node_id="node",
        hostname="localhost",
        storage_api_host="127.0.0.1:8001",
        etcd=attrs.evolve(settings.etcd, endpoint="127.0.0.1:2379", data_dir="etcd"),
        sandbox=attrs.evolve(settings.sandbox, path="sandbox"),
        local_postgres=attrs.evolve(settings.local_postgres, path="postgres"),
        storage=attrs.evolve(settings.storage, volumes_path="volumes"),
        source=attrs.evolve(
            settings.source, quarantine=attrs.evolve(settings.source.quarantine, path="rejected")
        ),
    )


def _build(
    reactor: Any, components: Sequence[str], workers: Sequence[str] = ("node",)
) -> OrderedServices:
    commands = {name: ["python"] for name in workers}
    settings = _settings()
    return build(settings, components, commands, reactor=reactor, log=configured_log(settings))


def _names(services: Sequence[Any]) -> list[str]:
    return [type(service).__name__ for service in services]


@pytest.mark.parametrize("components", _SUBSETS, ids=",".join)
def test_each_subset_starts_in_order(
    components: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each service exists once, after its dependencies, and opens nothing before the start."""
    monkeypatch.chdir(tmp_path)
    reactor = _Reactor()
    threads = threading.active_count()
    descriptors = len(list(_OPEN.iterdir()))
    names = _names(_build(reactor, components).services)

    assert {_MAIN[name] for name in components} == set(names) & set(_MAIN.values())
    sessions = 1 if "storage-writer" in components else 0
    sessions += bool(set(components) - {"etcd", "postgres", "sandbox", "storage-writer"})
    assert names.count("Session") == sessions
    assert names.count("Life") == len(set(components) & _NAMED)
    for user in {"StorageCoordinatorService", "Group", "SinkRouter"} & set(names):
        assert names.index("Life") < names.index(user)
    others = [name for name in names if name not in ("Session", "Life", "Workers")]
    assert len(set(others)) == len(others)
    assert others == sorted(others, key=_ORDER.index)
    for user in set(names) & set(_MAIN.values()) - {
        "EmbeddedEtcd",
        "LocalPostgres",
        "SandboxService",
    }:
        assert names.index("EtcdClient") < names.index("Session") < names.index(user)

    assert not (reactor.tcpServers or reactor.tcpClients or reactor.unixServers)
    assert not reactor.getDelayedCalls()
    assert threading.active_count() == threads
    assert len(list(_OPEN.iterdir())) == descriptors
    assert list(tmp_path.iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_services_stop_in_reverse_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all components, a service starts before those that need it, and stops after them."""
    reactor = _Reactor()
    chain = _build(reactor, NAMES)
    started: list[Any] = []
    stopped: list[Any] = []
    for service in chain.services:
        monkeypatch.setattr(service, "startService", lambda it=service: started.append(it))
        monkeypatch.setattr(service, "stopService", lambda it=service: stopped.append(it))
    await chain.startService()
    assert started == list(chain.services)
    await chain.stopService()
    assert stopped == started[::-1]


def test_several_workers_replace_the_source() -> None:
    """The supervisor of the workers starts before the other components of this process."""
    names = _names(_build(_Reactor(), ("api", "http-source"), ("one", "two")).services)
    assert "HttpSourceService" not in names
    assert names.index("Supervisor") < names.index("ApiService")
    alone = _names(_build(_Reactor(), ("http-source",), ("one", "two")).services)
    assert alone == ["MetricsListener", "ReactorLag", "Supervisor"]


def test_operations_of_etcd_are_logged_on_request() -> None:
    """The level of these log events is disabled by default."""
    assert "stream.etcd.transport" not in configured_log(Settings()).levels()
    settings = attrs.evolve(Settings(), etcd=attrs.evolve(Settings().etcd, debug_log=True))
    assert configured_log(settings).levels()["stream.etcd.transport"] == "debug"


def test_explicit_levels_take_precedence() -> None:
    """Explicit levels override those implied by other settings."""
    log = attrs.evolve(Settings().log, access_log=False, levels=("stream.api.http.server=debug",))
    assert (
        configured_log(attrs.evolve(Settings(), log=log)).levels()["stream.api.http.server"]
        == "debug"
    )
    quiet = attrs.evolve(Settings().log, access_log=False)
    assert (
        configured_log(attrs.evolve(Settings(), log=quiet)).levels()["stream.api.http.server"]
        == "warn"
    )
