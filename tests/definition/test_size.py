"""The size of a project's definitions is counted exactly, and limited."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.logger import capturedLogs

from stream.definition import lifecycle, prefix
from stream.definition.change import sinks, sources
from stream.definition.change.making import Author, DefinitionChange, DefinitionChanges, NoReaders
from stream.definition.entity import Sink, Source
from stream.definition.errors import CountLimitReached, DefinitionSizeLimitReached, TooManyChanges
from stream.definition.key import BranchKey, SinkKey, SourceKey
from stream.definition.mappings import mapping_key
from stream.definition.reads import DefinitionReads
from stream.definition.repository import Definitions
from stream.definition.size import (
    COUNTED_FOR,
    MAX_OPERATIONS,
    SIZE,
    UNCOUNTED_KEYS,
    WRITTEN_PERIOD,
    AtLimit,
    DefinitionSize,
    SizeLimit,
    count_again,
    count_project,
    projects_to_count,
)
from stream.definition.size_metrics import watch_sizes
from stream.definition.transaction import Change
from stream.errors import UserError
from stream.etcd import AtomicTxn, EtcdClient, Mirror, atomic, json_values
from stream.mapping.columns import Mapping, PathColumn
from stream.ops.metrics.registry import Metrics
from stream.settings import Settings
from stream.storage.store.mapping_cleanup import delete_unused_mappings
from stream.values.codec import encode
from tests.definition.changes import check_size
from tests.storage.histories.world import BY, TABLE, RecordingProvider, Storage, sample_volume

ensure = pytest_twisted.ensureDeferred

PROJECT = 123
BRANCH = BranchKey(PROJECT, 456)
SOURCE = BRANCH.source("my-source")
SINK = SOURCE.sink("my-sink")
NO_LIMIT = SizeLimit(2**40, uncounted_keys=0)
SECRET = "s" * 48


class _Lock:
    async def __aenter__(self) -> _Lock:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def release(self) -> None: ...

    async def lock(self, name: str, *, timeout: float) -> Any:
        return self


class Node:
    """A node of the API, which makes changes of definitions with files."""

    def __init__(self, client: EtcdClient, limit: SizeLimit = NO_LIMIT) -> None:
        self.client = client
        self.storage = Storage(client, [sample_volume("vol-1")])
        self.provider = RecordingProvider()
        self.at(limit)

    def at(self, limit: SizeLimit) -> None:
        """Continue with another limit."""
        self.changes: DefinitionChanges[Any] = DefinitionChanges(
            self.client,
            self.storage.repository,
            self.provider,
            self.storage.tick,
            locks=_Lock(),
            readers=NoReaders(),
            limit=limit,
        )

    async def make(self, change: DefinitionChange[Any]) -> Any:
        return await self.changes.make(change, Author(BY, "token"))

    async def size(self) -> int:
        """Return the stored size, which is the true one."""
        return await check_size(self.client, PROJECT)

    async def keys(self, below: str) -> list[str]:
        found = await self.client.range(below, keys_only=True)
        return [stored.key.removeprefix(below) for stored in found.kvs]


def new_source(key: SourceKey = SOURCE, text: str = "") -> DefinitionChange[Source]:
    return sources.create(key, type="http", name="S", description=text, secret=SECRET)


def new_sink(key: SinkKey = SINK, text: str = "", path: str = "") -> DefinitionChange[Sink]:
    return sinks.create(key, name="S", description=text, allowed_signals=(), table=table_with(path))


def table_with(path: str) -> Any:
    """Return a table whose mapping is large if *path* is long."""
    return attrs.evolve(TABLE, mapping=Mapping((PathColumn(name="c", path=path or "x"),)))


def described(key: Any, text: str) -> DefinitionChange[Any]:
    """Return an update of a description."""
    patch = lambda entity: attrs.evolve(entity, description=text)  # noqa: E731
    if isinstance(key, SinkKey):
        return sinks.update(key, "Updated.", patch, makes_tables=False)
    return sources.update(key, "Updated.", patch)


def mapped(key: SinkKey, path: str) -> DefinitionChange[Sink]:
    """Return an update of a mapping."""
    return sinks.update(
        key, "Mapped.", lambda sink: attrs.evolve(sink, table=table_with(path)), makes_tables=True
    )


async def _nothing(sinks: Sequence[Sink]) -> None: ...


def purge(key: SourceKey) -> DefinitionChange[Any]:
    return sources.purge(key, _nothing)


# counting


def any_change(dice: random.Random) -> DefinitionChange[Any]:
    """Return a random change of one of a few objects; many aren't possible."""
    source = BRANCH.source(f"source-{dice.randrange(2)}")
    sink = source.sink(f"sink-{dice.randrange(3)}")
    text, path = "d" * dice.randrange(3000), "p" * dice.choice((1, 5000, 9000, 20000))
    number = dice.randrange(1, 5)
    choices: list[tuple[int, Callable[[], DefinitionChange[Any]]]] = [
        (4, lambda: new_source(source, text)),
        (8, lambda: new_sink(sink, text, path)),
        (4, lambda: described(source, text)),
        (4, lambda: described(sink, text)),
        (6, lambda: mapped(sink, path)),
        (2, lambda: sources.roll_back(source, number)),
        (3, lambda: sinks.roll_back(sink, number)),
        (2, lambda: sources.disable(source)),
        (3, lambda: sources.enable(source)),
        (2, lambda: sinks.disable(sink)),
        (3, lambda: sinks.enable(sink)),
        (2, lambda: sources.delete(source)),
        (4, lambda: sources.undelete(source)),
        (3, lambda: sinks.delete(sink)),
        (4, lambda: sinks.undelete(sink)),
        (1, lambda: purge(source)),
    ]
    return dice.choices(choices, [weight for weight, _ in choices])[0][1]()


@pytest.mark.parametrize("seed", range(6))
@ensure
async def test_random_changes(etcd: EtcdClient, seed: int) -> None:
    """After each change the stored size is the true one. At the limit, no change adds content."""
    dice = random.Random(seed)
    limit = SizeLimit((40_000, 80_000, 2**40)[seed % 3], uncounted_keys=0)
    node = Node(etcd, limit)
    await node.make(new_source())
    size, refused, made = await node.size(), 0, 0
    for _ in range(120):
        change = any_change(dice)
        try:
            await node.make(change)
            made += 1
        except DefinitionSizeLimitReached:
            refused += 1
            assert change.at_limit is not AtLimit.ALLOW
            assert size + 40_000 > limit.most
        except UserError:
            continue
        before, size = size, await node.size()
        if change.at_limit is not AtLimit.ALLOW:
            assert size <= max(before, limit.most)
        assert size <= limit.most + 30_000
    assert made > 20
    assert refused or limit.most > 40_000


@ensure
async def test_removed_versions_are_counted(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that removes the oldest version subtracts its size."""
    monkeypatch.setattr("stream.definition.repository.MAX_VERSIONS", 3)
    node = Node(etcd)
    await node.make(new_source(text="d" * 1000))
    await node.make(sources.disable(SOURCE))
    await node.make(sources.enable(SOURCE))
    before = await node.size()
    await node.make(sources.disable(SOURCE))
    assert abs(await node.size() - before) < 200


@ensure
async def test_mappings_are_counted_once(etcd: EtcdClient) -> None:
    """A large mapping is counted when it is stored, and not when other versions refer to it; its
    cleanup subtracts it.
    """
    node = Node(etcd)
    await node.make(new_source())
    before = await node.size()
    await node.make(new_sink(path="p" * 100_000))
    created = await node.size()
    assert 100_000 < created - before < 110_000
    await node.make(described(SINK, "d"))
    await node.make(mapped(SINK, "p" * 100_000))
    assert await node.size() - created < 5_000
    await node.make(purge(SOURCE))
    assert 100_000 < await node.size() < 110_000
    for file in await node.storage.files():
        await node.client.delete_prefix(f"storage/file/all/{file.key.sink_key}/")
        await node.client.delete_prefix(f"storage/slice/all/{file.key.sink_key}/")
    assert await delete_unused_mappings(etcd, SINK, node.storage.now)
    assert await node.size() == 0


@ensure
async def test_concurrent_changes_of_two_nodes(etcd: EtcdClient) -> None:
    """No change is lost in the size, although two nodes change one project at the same time."""
    nodes = [Node(etcd), Node(etcd)]
    await nodes[0].make(new_source())
    nodes[1].storage.tick(100_000)  # the times are parts of the keys of files
    made = [
        ensureDeferred(nodes[number % 2].make(change))
        for number, change in enumerate(
            [
                *(new_source(BRANCH.source(f"source-{n}"), "d" * n) for n in range(8)),
                *(described(SOURCE, "d" * n) for n in range(8)),
                *(new_sink(SOURCE.sink(f"sink-{n}"), path="p" * 1000 * n) for n in range(8)),
            ]
        )
    ]
    assert [result for ok, result in await DeferredList(made) if not ok] == []
    assert await nodes[0].size() > 8 * 5_000


@ensure
async def test_changes_of_a_project_on_one_node_are_no_conflicts(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction is tried once, however many changes are made at the same time."""
    node = Node(etcd)
    await node.make(new_source())
    tried = []
    commit = AtomicTxn.commit

    async def counted(txn: AtomicTxn) -> bool:
        tried.append(await commit(txn))
        return tried[-1]

    monkeypatch.setattr(AtomicTxn, "commit", counted)
    made = [ensureDeferred(node.make(new_source(BRANCH.source(f"source-{n}")))) for n in range(20)]
    assert all(ok for ok, _ in await DeferredList(made))
    assert tried == [True] * 20
    assert not node.changes._turns._of_project


# the first count


@ensure
async def test_a_small_project_is_not_counted(etcd: EtcdClient) -> None:
    """etcd contains only what the original service would store, until there are many keys."""
    node = Node(etcd, SizeLimit(2**40))
    keys: list[str] = []
    number = 0
    while len(keys) + 2 <= UNCOUNTED_KEYS:
        assert not await node.keys(SIZE)
        await node.make(new_source(BRANCH.source(f"source-{number}")))
        keys = await node.keys("definition/")
        number += 1
    await node.make(new_source())
    assert await node.keys(SIZE) == [str(PROJECT)]
    await node.size()


@ensure
async def test_the_limit_is_above_every_small_project(etcd: EtcdClient) -> None:
    """The lowest limit of the settings is at least the size of the largest small project."""
    from stream.definition.mappings import MAX_MAPPING_BYTES
    from stream.settings.declare import leaves_of

    (leaf,) = [
        leaf for leaf in leaves_of(Settings) if ".".join(leaf.path) == "api.definitions.max_size"
    ]
    assert "minBytes=16MB" in str(leaf)
    assert UNCOUNTED_KEYS * MAX_MAPPING_BYTES <= 16 * 1024**2


async def _define_earlier(client: EtcdClient, count: int) -> None:
    """Define what an earlier version of the service, which doesn't count, has defined."""
    for number in range(count):
        source = lifecycle.new_source(
            BRANCH.source(f"source-{number}"),
            type="http",
            name="S",
            secret=SECRET,
            at=datetime(2024, 1, 1, tzinfo=UTC),
            by=BY,
        )

        async def create(txn: AtomicTxn, source: Source = source) -> Source:
            change = Change(txn, source.created.at, BY)
            return await Definitions().create_source(change, source)

        await atomic(client, create)


@ensure
async def test_definitions_of_an_earlier_version(etcd: EtcdClient) -> None:
    """They are counted with the first changes, even if two nodes count at the same time."""
    await _define_earlier(etcd, 60)
    nodes = [Node(etcd, SizeLimit(2**40)), Node(etcd, SizeLimit(2**40))]
    made = [
        ensureDeferred(node.make(described(BRANCH.source(f"source-{2 * n + number}"), "d" * n)))
        for n in range(10)
        for number, node in enumerate(nodes)
    ]
    assert [result for ok, result in await DeferredList(made) if not ok] == []
    assert await nodes[0].size() > 50_000


@pytest.mark.parametrize("interfering", ["a new version", "a deletion", "another count"])
@ensure
async def test_a_change_during_a_count(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch, interfering: str
) -> None:
    """A count that is outdated before it is stored is made again."""
    await _define_earlier(etcd, 5)
    others = Node(etcd, SizeLimit(2**40, uncounted_keys=1000))
    commit = etcd.commit

    async def late(*arguments: Any) -> Any:
        monkeypatch.undo()
        match interfering:
            case "a new version":
                await others.make(described(BRANCH.source("source-1"), "d"))
                assert not await others.keys(SIZE)
            case "a deletion":
                await others.make(purge(BRANCH.source("source-1")))
            case _:
                await count_project(etcd, PROJECT, others.storage.now)
        return await commit(*arguments)

    monkeypatch.setattr(etcd, "commit", late)
    await count_project(etcd, PROJECT, others.storage.now)
    await others.size()


@ensure
async def test_a_damaged_size_is_replaced(etcd: EtcdClient) -> None:
    """A size that can't be read doesn't prevent changes: the project is counted."""
    node = Node(etcd)
    await node.make(new_source())
    await etcd.put(f"{SIZE}{PROJECT}", b"{")
    await node.make(described(SOURCE, "d"))
    await node.size()


@ensure
async def test_uncounted_changes_are_found(etcd: EtcdClient) -> None:
    """A project whose last count is a day old is counted again; a difference is logged."""
    node = Node(etcd)
    await node.make(new_source())
    now = node.storage.now
    assert await projects_to_count(etcd, now) == []
    due = now + COUNTED_FOR
    assert await projects_to_count(etcd, due) == [PROJECT]
    assert await projects_to_count(etcd, now - COUNTED_FOR - timedelta(days=1)) == [PROJECT]
    await _define_earlier(etcd, 1)
    with capturedLogs() as logs:
        assert not await count_again(etcd, PROJECT, now=due)
        assert await count_again(etcd, PROJECT, now=due)
    assert [event["project_id"] for event in logs if event["log_level"].name == "warn"] == [PROJECT]
    await node.size()
    assert await projects_to_count(etcd, due) == []
    await node.make(described(SOURCE, "d"))
    assert await projects_to_count(etcd, due) == []


# at the limit


async def _full(client: EtcdClient, *, room: int = 100) -> Node:
    """Return a node whose project has a source and a sink with several versions, and is full."""
    node = Node(client)
    await node.make(new_source(text="d" * 1000))
    await node.make(new_sink(text="d" * 1000))
    for _ in range(3):
        await node.make(described(SOURCE, "e" * 1000))
        await node.make(described(SINK, "e" * 1000))
    node.at(SizeLimit(await node.size() + room, uncounted_keys=0))
    return node


@pytest.mark.parametrize(
    "change",
    [
        new_source(BRANCH.source("other")),
        new_sink(SOURCE.sink("other")),
        described(SOURCE, "e" * 1000),
        described(SINK, "e" * 1000),
        mapped(SINK, "p" * 10_000),
    ],
)
@ensure
async def test_growth_is_refused(etcd: EtcdClient, change: DefinitionChange[Any]) -> None:
    """The error names the size, the limit and what to do. Nothing is written or prepared."""
    node = await _full(etcd)
    before, prepared = await etcd.range("definition/"), len(node.provider.prepared)
    with pytest.raises(DefinitionSizeLimitReached) as caught:
        await node.make(change)
    error = caught.value
    assert (error.status, error.name) == (409, "definitionSizeLimitReached")
    size = await node.size() / 1024
    assert f"occupy {size:.1f} KB" in error.message
    assert f"the maximum is {(await node.size() + 100) / 1024:.1f} KB" in error.message
    assert "delete sources or sinks" in error.message and "api.definitions" in error.message
    assert "cascade" in (error.detail or "")
    assert (await etcd.range("definition/")).kvs == before.kvs
    assert len(node.provider.prepared) == prepared


@ensure
async def test_deleting_frees_space(etcd: EtcdClient) -> None:
    """The versions of deleted objects make room, the oldest first; the objects themselves can still
    be undeleted.
    """
    node = await _full(etcd)
    await node.make(sinks.delete(SINK))
    await node.make(described(SOURCE, "e" * 1000))
    left = await node.keys(f"{prefix.SINK_VERSION}{SINK}/")
    assert left == ["0000000002", "0000000003", "0000000004"]
    assert len(await node.keys(f"{prefix.SOURCE_VERSION}{SOURCE}/")) == 5
    await node.make(sinks.undelete(SINK))
    sink = await DefinitionReads(etcd).sink(SINK)
    assert sink.version.number == 5 and sink.description == "e" * 1000
    await node.size()


@ensure
async def test_purging_frees_space(etcd: EtcdClient) -> None:
    """A full project can delete a source for good, and define it again."""
    node = await _full(etcd)
    await node.make(purge(SOURCE))
    assert await node.size() == 0
    await node.make(new_source())
    await node.size()


@ensure
async def test_mappings_of_deleted_sinks_make_room(etcd: EtcdClient) -> None:
    """A deleted sink keeps its mapping and those of its files; other mappings are removed."""
    node = Node(etcd)
    await node.make(new_source())
    await node.make(new_sink(path="a" * 50_000))
    await node.make(mapped(SINK, "b" * 50_000))
    await node.make(mapped(SINK, "c" * 50_000))
    oldest, newer, _ = await node.storage.files()
    await node.make(sinks.delete(SINK))
    await node.client.delete(f"storage/file/all/{oldest.key}")
    node.at(SizeLimit(await node.size(), uncounted_keys=0))
    await node.make(new_sink(SOURCE.sink("other"), path="d" * 40_000))
    await node.size()
    deleted = await DefinitionReads(etcd).deleted_sink(SINK)
    kept = {mapping_key(SINK, newer.mapping), mapping_key(SINK, deleted.table.mapping)}
    assert {
        f"{prefix.MAPPING}{SINK}/{key}" for key in await node.keys(f"{prefix.MAPPING}{SINK}/")
    } == kept
    with pytest.raises(DefinitionSizeLimitReached):
        await node.make(new_sink(SOURCE.sink("third"), path="d" * 40_000))
    await node.make(sinks.undelete(SINK))
    await node.size()


@pytest.mark.parametrize(("key", "how"), [(SOURCE, sources), (SINK, sinks)])
@ensure
async def test_switches_of_a_full_project(etcd: EtcdClient, key: Any, how: Any) -> None:
    """Objects can be disabled, enabled, deleted and undeleted forever, and don't grow."""
    node = await _full(etcd, room=0)
    full = await node.size()
    for _ in range(6):
        for change in (how.disable, how.enable, how.delete, how.undelete):
            await node.make(change(key))
            assert await node.size() < full + 2_000
    await node.make(described(key, "") if await node.size() < full - 2_000 else how.disable(key))


@ensure
async def test_a_rollback_replaces_old_versions(etcd: EtcdClient) -> None:
    """A rollback removes the oldest versions, but is refused if its content is larger than all of
    them.
    """
    node = Node(etcd)
    await node.make(new_source(text="d" * 10_000))
    await node.make(described(SOURCE, ""))
    await node.make(described(SOURCE, ""))
    node.at(SizeLimit(await node.size(), uncounted_keys=0))
    await node.make(sources.roll_back(SOURCE, 2))
    assert await node.keys(f"{prefix.SOURCE_VERSION}{SOURCE}/") == [
        "0000000002",
        "0000000003",
        "0000000004",
    ]
    await node.size()


@ensure
async def test_a_larger_rollback_is_refused(etcd: EtcdClient) -> None:
    """It would be a way to grow without limit."""
    node = Node(etcd)
    await node.make(new_source(text="d" * 10_000))
    await node.make(described(SOURCE, ""))
    node.at(SizeLimit(await node.size(), uncounted_keys=0))
    with pytest.raises(DefinitionSizeLimitReached):
        await node.make(sources.roll_back(SOURCE, 1))
    assert len(await node.keys(f"{prefix.SOURCE_VERSION}{SOURCE}/")) == 2
    await node.size()


@ensure
async def test_a_project_above_the_limit(etcd: EtcdClient) -> None:
    """A project that is larger than a new limit can be switched, shrunk and purged."""
    node = await _full(etcd)
    node.at(SizeLimit(1, uncounted_keys=0))
    await node.make(sinks.disable(SINK))
    await node.make(sinks.enable(SINK))
    await node.make(sources.roll_back(SOURCE, 2))
    with pytest.raises(DefinitionSizeLimitReached):
        await node.make(described(SINK, "e" * 1000))
    await node.make(described(SINK, ""))
    await node.make(purge(SOURCE))
    assert await node.size() == 0


@ensure
async def test_room_that_was_made_meanwhile(etcd: EtcdClient) -> None:
    """A change isn't refused because of a size that was read before its files were prepared."""
    node = await _full(etcd, room=5_000)
    other = Node(etcd)
    other.storage.tick(100_000)

    async def grow_and_shrink() -> None:
        node.provider.on_prepare = None
        await other.make(new_source(BRANCH.source("other"), "d" * 20_000))
        await other.make(purge(BRANCH.source("other")))

    node.provider.on_prepare = grow_and_shrink
    await node.make(new_sink(SOURCE.sink("other")))
    await node.size()


@ensure
async def test_written_bytes_are_limited(etcd: EtcdClient) -> None:
    """What a project has replaced counts for a quarter of an hour, also after a new count. Switches
    are possible up to twice the limit.
    """
    node = Node(etcd, SizeLimit(2**40, written=50_000, uncounted_keys=0))

    async def repeat(*changes: DefinitionChange[Any]) -> int:
        """Make changes until one is refused; return how many were made."""
        for number in range(1000):
            try:
                await node.make(changes[number % len(changes)])
            except TooManyChanges as error:
                assert (error.status, error.name) == (503, "serviceUnavailable")
                assert "try again in 8" in error.message
                return number
        raise AssertionError

    await node.make(new_source())
    assert 20 < await repeat(described(SOURCE, "d" * 500)) < 40
    await count_again(etcd, PROJECT, now=node.storage.now)
    assert await repeat(described(SOURCE, "")) == 0
    assert 10 < await repeat(sources.disable(SOURCE), sources.enable(SOURCE)) < 40
    node.storage.tick(WRITTEN_PERIOD.total_seconds())
    await node.make(described(SOURCE, ""))
    await node.size()


@ensure
async def test_sinks_are_limited(etcd: EtcdClient) -> None:
    """The limit is for all sources together. Deleted sinks don't count until they are undeleted."""
    other = BRANCH.source("other")
    node = Node(etcd, SizeLimit(2**40, sinks=3, uncounted_keys=0))
    for source in (SOURCE, other):
        await node.make(new_source(source))
    for key in (SOURCE.sink("a"), SOURCE.sink("b"), other.sink("c")):
        await node.make(new_sink(key))
    with pytest.raises(CountLimitReached, match="in the project, the maximum is 3"):
        await node.make(new_sink(other.sink("d")))
    await node.make(sinks.delete(SOURCE.sink("a")))
    await node.make(new_sink(other.sink("d")))
    with pytest.raises(CountLimitReached):
        await node.make(sinks.undelete(SOURCE.sink("a")))
    await node.make(sinks.disable(other.sink("d")))
    await node.make(described(other.sink("d"), "text"))
    await node.make(sources.delete(other))
    await node.make(sinks.undelete(SOURCE.sink("a")))
    with pytest.raises(CountLimitReached):
        await node.make(sources.undelete(other))
    await node.size()


# the limits of transactions


@ensure
async def test_a_change_with_too_many_operations(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mapping is written in an earlier transaction, the oldest version is removed in a later
    one.
    """
    monkeypatch.setattr("stream.definition.repository.MAX_VERSIONS", 2)
    node = Node(etcd)
    await node.make(new_source())
    await node.make(new_sink(path="a" * 10_000))
    monkeypatch.setattr("stream.definition.size.MAX_OPERATIONS", 10)
    committed = []
    commit = AtomicTxn.commit

    async def recorded(txn: AtomicTxn) -> bool:
        committed.append(sorted({key.split("/")[1] for key in txn._writes}))
        return await commit(txn)

    monkeypatch.setattr(AtomicTxn, "commit", recorded)
    await node.make(mapped(SINK, "b" * 10_000))
    assert committed == [["mapping", "size"], ["123", "file", "sink", "size", "slice", "stats"]]
    await node.size()
    committed.clear()
    await node.make(sinks.roll_back(SINK, 1))
    assert committed[1] == ["sink", "size"] and len(committed) == 2
    assert await node.keys(f"{prefix.SINK_VERSION}{SINK}/") == ["0000000002", "0000000003"]
    await node.size()


def test_the_limit_of_operations() -> None:
    """It is etcd's default."""
    assert MAX_OPERATIONS == 128


@ensure
async def test_many_versions_are_removed_at_once(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room is made in several transactions, each below the limit of etcd."""
    monkeypatch.setattr("stream.definition.size._REMOVED_AT_ONCE", 3)
    monkeypatch.setattr("stream.definition.size._AT_ONCE", 2)
    node = Node(etcd)
    for number in range(5):
        key = BRANCH.source(f"source-{number}")
        await node.make(new_source(key, "d" * 1000))
        for _ in range(4):
            await node.make(described(key, "e" * 1000))
        await node.make(sources.delete(key))
    node.at(SizeLimit(await node.size(), uncounted_keys=0))
    await node.make(new_source(text="d" * 12_000))
    assert len(await node.keys(prefix.SOURCE_VERSION)) < 10
    assert len(await node.keys(prefix.SOURCE_DELETED)) == 5
    await node.size()


@ensure
async def test_the_largest_project_is_measured(etcd: EtcdClient) -> None:
    """The metrics name the size of the largest project, and the limit."""
    for project, size in ((1, 10), (2, 30), (3, 20)):
        await etcd.put(f"{SIZE}{project}", encode(DefinitionSize(size)))
    sizes: Mirror[DefinitionSize] = Mirror(etcd, SIZE, json_values(DefinitionSize))
    metrics = Metrics()
    watch_sizes(metrics, sizes, 100)
    await sizes.startService()
    metrics.collect()
    text = metrics.page().decode()
    await sizes.stopService()
    assert "stream_definitions_largest_project_bytes 30" in text
    assert "stream_definitions_limit_bytes 100" in text
