"""Targets of other packages, and the target that gets a call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock

from stream.errors import NestedError, UserError
from stream.etcd import EtcdClient
from stream.settings import load
from stream.storage.model.key import FileKey
from stream.target import registry
from stream.target.registry import Libraries, Targets, installed_targets
from stream.values.utctime import NO_TIME
from tests.settings.samples import VALID
from tests.storage.histories.world import SINK
from tests.target.memory import MemoryTarget
from tests.waiting import until

reactor: Any = _reactor
CONTEXT: Any = attrs.make_class("Context", ["client"])(None)
Install = Callable[[str], None]


@pytest.fixture()
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """A function that installs a package with entry points of targets."""

    def install(entries: str) -> None:
        info = tmp_path / "stream_example-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stream-example\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[stream.targets]\n{entries}\n")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    return install


def test_a_package_adds_a_target_by_an_entry_point(install: Install) -> None:
    """The name of the entry point is the type of its tables."""
    install("memory = tests.target.memory:MemoryTarget")
    targets = Targets(installed_targets(CONTEXT))
    assert isinstance(targets.named("memory"), MemoryTarget)
    assert [target.name for target in targets] == ["memory"]


def test_usable_types_of_tables() -> None:
    """Targets of this package need a connection; those of other packages may not."""

    def target(name: str) -> Any:
        return attrs.make_class("Named", ["name"])(name)

    targets = Targets(map(target, ("postgres", "keboola", "iceberg", "example")))
    assert targets.usable(set()) == ["example", "keboola"]
    assert targets.usable({"postgres", "parquet"}) == ["example", "keboola", "postgres"]


def test_without_packages_there_are_no_other_targets() -> None:
    assert installed_targets(CONTEXT) == []


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "other = tests.target.memory:misnamed_target",
            'the target of the entry point "other" (tests.target.memory:misnamed_target) is named '
            '"memory"; the two names must match',
        ),
        (
            "memory = tests.target.memory:broken_target",
            'the target "memory" (tests.target.memory:broken_target) can\'t be loaded: a library '
            "is missing; repair or uninstall its package",
        ),
        (
            "memory = tests.target.memory:nothing",
            'the target "memory" (tests.target.memory:nothing) can\'t be loaded: module '
            "'tests.target.memory' has no attribute 'nothing'; repair or uninstall its package",
        ),
    ],
)
def test_a_target_that_can_not_be_loaded_ends_the_start(
    install: Install, entries: str, message: str
) -> None:
    """The error names the package to repair."""
    install(entries)
    with pytest.raises(UserError) as raised:
        installed_targets(CONTEXT)
    assert str(raised.value) == message


def test_a_target_without_connections() -> None:
    """It is made when a record needs it, and once: a start doesn't import its library."""
    made: list[MemoryTarget] = []

    def make() -> MemoryTarget:
        made.append(MemoryTarget(CONTEXT))
        return made[-1]

    targets = Targets([], later={MemoryTarget.name: make})
    assert list(targets) == [] and not made
    assert targets.named(MemoryTarget.name) is targets.named(MemoryTarget.name) is made[0]
    assert len(made) == 1 and list(targets) == made
    context: Any = attrs.make_class("Context", ["settings"])(load({}, VALID))
    connected, later = registry.optional_targets(context)
    assert not connected and "postgres" in later


@pytest_twisted.ensureDeferred
async def test_a_file_of_a_target_without_connections() -> None:
    """Its records and staged objects are deleted without importing the library."""

    def make() -> MemoryTarget:
        raise AssertionError("it is needless")

    removed: list[FileKey] = []

    class Staging:
        async def remove(self, file: FileKey) -> None:
            removed.append(file)

    staging: Any = Staging()
    file: Any = attrs.make_class("F", ["key", "target"])(
        FileKey.of(SINK.key, NO_TIME), attrs.make_class("T", ["provider"])("postgres")
    )
    targets = Targets([], staging, later={"postgres": make})
    assert targets.file_records(file) == [
        f"storage/postgres/{kind}/{file.key}" for kind in ("file", "quarantine")
    ]
    await targets.delete_staged(file)
    assert removed == [file.key]
    with pytest.raises(UserError, match="no project has a connection of the type postgres"):
        targets.check_type("postgres")


def test_a_library_that_can_not_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each use says so with the reason, and it is tried again."""

    def broken(module: str) -> Any:
        raise ImportError("no pq wrapper available.\nAttempts made: libpq is missing")

    context: Any = attrs.make_class("Context", ["settings"])(load({}, VALID))
    monkeypatch.setattr(registry, "find_spec", lambda library: True)
    _, later = registry.optional_targets(context)
    targets = Targets([], later=later)
    with monkeypatch.context() as patched:
        patched.setattr(registry, "import_module", broken)
        for _ in range(2):
            with pytest.raises(UserError) as raised:
                targets.named("postgres")
            assert raised.value.name == "targetNotLoaded"
            assert str(raised.value) == (
                'the target "postgres" can\'t be loaded on this node: no pq wrapper available. '
                "Attempts made: libpq is missing"
            )
        declared = {**VALID, "STREAM_TARGET_CONNECTIONS": "{a: {type: postgres}}"}
        context = attrs.make_class("Context", ["settings"])(load({}, declared))
        with pytest.raises(UserError, match="can't be loaded on this node"):
            registry.optional_targets(context)
    works: Any = attrs.make_class("Module", ["PostgresTarget"])(lambda _: MemoryTarget(CONTEXT))
    monkeypatch.setattr(registry, "import_module", lambda module: works)
    assert isinstance(targets.named("postgres"), MemoryTarget)


class _Modules:
    """The modules of targets: which were imported, and which can't be.

    :ivar imported: the names, and whether the thread of the reactor has imported them.
    """

    def __init__(self) -> None:
        self.imported: list[tuple[str, bool]] = []
        self.broken: set[str] = set()

    def load(self, module: str) -> Any:
        name = module.split(".")[2]
        self.imported.append((name, threading.current_thread() is threading.main_thread()))
        if name in self.broken:
            raise OSError("the file can't be read")
        make = {"IcebergTarget": lambda _: MemoryTarget(CONTEXT)}
        return attrs.make_class("Module", list(make))(**make)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> _Modules:
    modules = _Modules()
    monkeypatch.setattr(registry, "import_module", modules.load)
    return modules


class _Clock(Clock):
    """A reactor with real threads; its time goes on only when a test says so."""

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


def _libraries(etcd: EtcdClient, clock: Any) -> Libraries:
    context: Any = attrs.make_class("Context", ["reactor", "client"])(clock, etcd)
    return Libraries(context, ("postgres", "iceberg", "parquet"))


@pytest_twisted.ensureDeferred
async def test_libraries_of_targets_with_records_are_imported(
    etcd: EtcdClient, modules: _Modules
) -> None:
    """In a thread, so that the first use doesn't block the reactor."""
    for name in ("iceberg", "parquet"):
        await etcd.put(f"storage/{name}/file/x", b"{}")
    libraries = _libraries(etcd, reactor)
    libraries.startService()
    await libraries._importing
    assert modules.imported == [("iceberg", False), ("parquet", False)]
    await libraries.stopService()


@pytest_twisted.ensureDeferred
async def test_a_library_that_can_not_be_read_is_tried_again(
    etcd: EtcdClient, modules: _Modules
) -> None:
    """With growing delays, and without those that are imported; until then each use is refused."""
    await etcd.put("storage/iceberg/file/x", b"{}")
    await etcd.put("storage/parquet/file/x", b"{}")
    modules.broken.add("iceberg")
    settings: Any = attrs.make_class("Context", ["settings"])(load({}, VALID))
    targets = Targets([], later=registry.optional_targets(settings)[1])
    clock = _Clock()
    libraries = _libraries(etcd, clock)
    libraries.startService()
    delays = []
    for _ in range(3):
        await until(lambda: bool(clock.getDelayedCalls()))
        (retry,) = clock.getDelayedCalls()
        delays.append(retry.getTime() - clock.seconds())
        with pytest.raises(UserError, match="can't be loaded on this node") as raised:
            targets.named("iceberg")
        assert raised.value.name == "targetNotLoaded"
        modules.imported.clear()
        if len(delays) == 3:
            modules.broken.clear()
        clock.advance(delays[-1])
    await libraries._importing
    assert modules.imported == [("iceberg", False)]
    assert delays == sorted(delays) and not clock.getDelayedCalls()
    assert isinstance(targets.named("iceberg"), MemoryTarget)
    await libraries.stopService()


@pytest_twisted.ensureDeferred
async def test_a_stop_does_not_wait_for_the_next_attempt(
    etcd: EtcdClient, modules: _Modules
) -> None:
    await etcd.put("storage/iceberg/file/x", b"{}")
    modules.broken.add("iceberg")
    clock = _Clock()
    libraries = _libraries(etcd, clock)
    libraries.startService()
    await until(lambda: bool(clock.getDelayedCalls()))
    await libraries.stopService()
    assert not clock.getDelayedCalls()


def test_a_target_without_its_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error says what to install: a definition is refused, and the start fails if a connection
    uses the target.
    """
    monkeypatch.setattr(registry, "find_spec", lambda library: None)
    settings = load({}, VALID)
    context: Any = attrs.make_class("Context", ["settings"])(settings)
    connected, later = registry.optional_targets(context)
    assert not connected and not later
    with pytest.raises(UserError) as raised:
        Targets([]).named("postgres")
    assert raised.value.name == "targetNotInstalled"
    assert raised.value.detail.endswith("pip install 'stream-service[postgres]'")
    declared = {**VALID, "STREAM_TARGET_CONNECTIONS": "{a: {type: postgres}}"}
    context = attrs.make_class("Context", ["settings"])(load({}, declared))
    with pytest.raises(UserError, match="isn't installed on this node"):
        registry.optional_targets(context)


def test_two_targets_with_one_name() -> None:
    with pytest.raises(UserError, match='two targets are named "memory"'):
        Targets([MemoryTarget(CONTEXT), MemoryTarget(CONTEXT)])


def test_a_missing_target_is_named() -> None:
    """The error lists the installed targets and says what to do."""
    with pytest.raises(UserError) as raised:
        Targets([MemoryTarget(CONTEXT)]).named("lake")
    assert str(raised.value) == 'this node has no target "lake"; it has: memory'
    assert raised.value.name == "targetNotInstalled"
    assert raised.value.detail


class _Stubborn(MemoryTarget):
    """A target whose tables can't be deleted."""

    async def delete_tables(self, sinks: Any, *, token: str) -> None:
        raise UserError(f"{self.name} refuses")


@pytest_twisted.ensureDeferred
async def test_each_target_deletes_its_tables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failing target doesn't prevent the others, and all failures are reported."""

    def with_name(target: MemoryTarget, name: str) -> Any:
        monkeypatch.setattr(target, "name", name, raising=False)
        return target

    memory = MemoryTarget(CONTEXT)
    memory.tables[SINK.key] = {}
    targets = Targets(
        [with_name(_Stubborn(CONTEXT), "a"), memory, with_name(_Stubborn(CONTEXT), "z")]
    )
    sinks: list[Any] = [
        attrs.evolve(SINK, table=attrs.evolve(SINK.table, type=name)) for name in ("a", "memory")
    ]
    with pytest.raises(UserError, match=r"^a refuses$"):
        await targets.delete_tables(sinks, token="t")
    assert memory.tables == {}
    sinks.append(attrs.evolve(SINK, table=attrs.evolve(SINK.table, type="z")))
    with pytest.raises(NestedError) as raised:
        await targets.delete_tables(sinks, token="t")
    assert [str(child) for child in raised.value.children] == ["a refuses", "z refuses"]
