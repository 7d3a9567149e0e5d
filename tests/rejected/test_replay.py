"""Replays with a real etcd: each record is stored once, despite kills and concurrent replays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor

from stream.definition.entity import TableSink
from stream.definition.key import SinkKey
from stream.errors import UserError
from stream.etcd import EtcdClient, EtcdUnavailable
from stream.mapping.columns import Mapping, PathColumn
from stream.mapping.stored import stored_mapping
from stream.rejected import rendering as rendering_module
from stream.rejected import replay as replay_module
from stream.rejected.answers import Selection, answer
from stream.rejected.files import RejectedFiles
from stream.rejected.nodes import Asked, RejectedNodes, rejected_counts
from stream.rejected.replay import Outcome, Replayer, ReplayLeftovers
from stream.rejected.state import (
    COUNT,
    KEPT,
    POSITION,
    REPLAY,
    STORED,
    KeptRecords,
    LastError,
    RejectedCount,
    RejectedNode,
    ReplayPosition,
    add_counts,
    note_found,
    note_kept,
    remove_counts,
)
from stream.settings import Settings
from stream.settings.local import WriterTlsSettings
from stream.storage.model.state import FileState, SliceState
from stream.target.registry import Targets
from stream.values.codec import decode, encode
from tests.rejected.samples import LIMITS, NOW, line
from tests.storage.histories.world import SINK_KEY
from tests.target.memory import MemoryTarget
from tests.target.world import (
    World,
    changes_with,
    context_of,
    killed_at_every_await,
    paused_at_every_await,
)

reactor: Any = _reactor

ALL = Selection()
_HOUR = timedelta(hours=1)


def _table(path: str) -> TableSink:
    column = PathColumn("v", primary_key=False, path=path, default_value=None, raw_string=True)
    return TableSink(type="memory", mapping=stored_mapping(Mapping((column,))))


class _Nodes(RejectedNodes):
    """Source nodes in this process.

    :ivar away: the nodes that don't answer.
    :ivar without_files: the nodes that run without their directories.
    :ivar directories: the IDs of the nodes' directories.
    """

    def __init__(self, client: EtcdClient, path: Path, now: Callable[[], Any]) -> None:
        super().__init__(reactor, client, "localhost", now, WriterTlsSettings())
        self.files = {name: RejectedFiles(path, name) for name in ("one", "two")}
        for files in self.files.values():
            files.prepare()
        self.away: set[str] = set()
        self.without_files: set[str] = set()
        self.directories: dict[str, str] = {}

    async def all(self) -> dict[str, RejectedNode]:
        return {
            name: RejectedNode(
                node_id=name,
                address="",
                host="",
                secret="",
                has_files=name not in self.without_files,
                directory=self.directories.get(name, ""),
            )
            for name in self.files
        }

    async def ask(self, node: RejectedNode, sink: SinkKey, kind: str, **members: Any) -> Asked:
        name = node.node_id
        if name in self.away:
            return Asked(node_id=name, problem="it is gone")
        question = {"kind": kind, "sink": str(sink), **members}
        return Asked(
            node_id=name,
            answer=answer(
                self.files[name] if node.has_files else None,
                question,
                name,
                NOW,
                lambda _: 3600.0,
            ),
            has_files=node.has_files,
            directory=node.directory,
        )


@attrs.define(eq=False, kw_only=True)
class _Replays:
    """A sink with a target in memory, and its rejected records."""

    world: World
    target: MemoryTarget
    nodes: _Nodes
    replayer: Replayer
    number: int = 0

    def keep(self, *bodies: bytes, node: str = "one") -> list[str]:
        """Store rejected records, and return their ids."""
        frames, ids = [], []
        for body in bodies:
            self.number += 1
            ids.append(f"{self.number:04d}")
            frames.append(line(ids[-1], body))
        self.nodes.files[node].append(SINK_KEY, LIMITS, frames, NOW)
        return ids

    def keep_values(self, count: int, node: str = "one") -> list[str]:
        """Store records that the mapping now accepts, with different values, and return
        the values.
        """
        values = [f"{node}-{self.number + each}" for each in range(count)]
        self.keep(*(b'{"a":"%b"}' % value.encode() for value in values), node=node)
        return values

    async def replay(self, selection: Selection = ALL) -> Outcome:
        self.world.storage.tick()
        return await self.replayer.replay(SINK_KEY, selection, _ignore)

    async def stored(self) -> list[str]:
        """Wait until all closed files are imported, and return the values in the table."""
        storage = self.world.storage
        for file in await storage.files():
            states = {slice_.state for slice_ in await storage.slices(file.key)}
            if file.state is FileState.CLOSING and states == {SliceState.UPLOADED}:
                # A coordinator may have counted the records just before the replay was committed.
                closed = await storage.to_importing(file.key, is_empty=True)
                await self.target.import_file(closed)
                await storage.to_imported(file.key)
        return sorted(await self.world.read())

    async def kept(self) -> list[str]:
        """Return the ids of the records that are shown as kept."""
        found = await self.nodes.newest(SINK_KEY, ALL, 100)
        return sorted(record["id"] for record in found["records"])

    async def left_over(self) -> list[str]:
        """Return the keys that exist only during a replay."""
        client = self.world.storage.client
        return [kv.key for prefix in (REPLAY, STORED) for kv in (await client.range(prefix)).kvs]

    async def clean_up(self) -> None:
        async def nobody(_: str) -> bool:
            return False

        await ReplayLeftovers(reactor, self.world.storage.client, self.replayer, nobody).clean_up()


async def _ignore(_: Outcome) -> None:
    """Do nothing."""


@pytest_twisted.async_yield_fixture()
async def replays(etcd: EtcdClient, tmp_path: Path) -> AsyncIterator[_Replays]:
    async with context_of(etcd, Settings()) as (storage, context):
        target = MemoryTarget(context)

        async def read() -> list[str]:
            return [row[0] for rows in target.tables[SINK_KEY].values() for row in rows]

        world = World(
            storage=storage,
            target=target,
            changes=changes_with(storage, target),
            table=_table("a"),
            read=read,
        )
        await world.create_source()
        await world.create_sink()
        nodes = _Nodes(etcd, tmp_path / "rejected", lambda: storage.now)
        templates: Any = None  # no column needs the engine
        yield _Replays(
            world=world,
            target=target,
            nodes=nodes,
            replayer=Replayer(
                reactor,
                etcd,
                storage.repository,
                Targets([target]),
                nodes,
                templates,
                node_id="api-1",
                row_size_limit=1024 * 1024,
                pool=context.pool,
                now=storage.tick,
            ),
        )


@pytest_twisted.ensureDeferred
async def test_accepted_records_are_stored(replays: _Replays) -> None:
    """The other records are kept, with the reason; the nodes are called one after the other."""
    values = [*replays.keep_values(2), *replays.keep_values(1, node="two")]
    (bad,) = replays.keep(b"{}")
    outcome = await replays.replay()
    assert (outcome.replayed, outcome.stored, outcome.rejected) == (4, 3, 1)
    (rejected,) = [each for each in outcome.results if not each["stored"]]
    assert (rejected["id"], rejected["reason"], rejected["column"]) == (
        bad,
        "stream.in.badRequest",
        "v",
    )
    assert str(outcome) == "Replayed 4 records: 3 stored, 1 rejected."
    assert await replays.stored() == sorted(values)
    assert await replays.kept() == [bad]
    assert await replays.left_over() == []
    assert (await replays.replay()).replayed == 1
    assert await replays.stored() == sorted(values)


@pytest_twisted.ensureDeferred
async def test_rows_larger_than_a_file(replays: _Replays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a megabyte can result from small records, so they are split into several files."""
    monkeypatch.setattr(replay_module, "MAX_FILE_BYTES", 100)
    values = replays.keep_values(100)
    outcome = await replays.replay()
    assert (outcome.replayed, outcome.stored) == (100, 100)
    assert len(await replays.world.storage.files()) > 3
    assert await replays.stored() == sorted(values)
    assert await replays.kept() == []


@pytest_twisted.ensureDeferred
async def test_a_selection_is_replayed(replays: _Replays) -> None:
    """Records are selected by id, and unknown ids change nothing."""
    first, second = replays.keep(b'{"a":"1"}', b'{"a":"2"}')
    outcome = await replays.replay(Selection(ids=frozenset({second, "unknown"})))
    assert (outcome.replayed, outcome.stored) == (1, 1)
    assert (await replays.stored(), await replays.kept()) == (["2"], [first])


@pytest_twisted.ensureDeferred
async def test_a_replay_killed_at_any_await(replays: _Replays) -> None:
    """A repeated replay finds the decisions of the killed one; each record is stored once, and no
    key remains.
    """
    expected: list[str] = []

    async def make() -> Callable[[], Coroutine[Any, Any, object]]:
        if expected:
            if len(expected) % 4:
                await replays.clean_up()
            await replays.replay()
            assert await replays.stored() == sorted(expected)
            assert await replays.kept() == []
            await replays.clean_up()  # of a replay that was killed before it erased its records
            assert await replays.left_over() == []
        expected.extend(replays.keep_values(2))
        return replays.replay

    kills = await killed_at_every_await(make)
    assert await replays.stored() == sorted(expected)
    assert kills > 10


@pytest_twisted.ensureDeferred
async def test_a_replay_paused_at_any_await(replays: _Replays) -> None:
    """Another replay takes over, and the first one detects that when it resumes; no record is
    stored again.
    """
    expected: list[str] = []

    async def work() -> None:
        try:
            await replays.replay()
        except UserError as error:
            assert error.name == "replaySuperseded"

    async def make() -> Callable[[], Coroutine[Any, Any, object]]:
        assert await replays.stored() == sorted(expected)
        expected.extend(replays.keep_values(2))
        return work

    pauses = await paused_at_every_await(make)
    await replays.replay()
    assert await replays.stored() == sorted(expected)
    assert await replays.left_over() == []
    assert pauses > 10


@pytest_twisted.ensureDeferred
async def test_a_node_that_dies_before_it_has_erased(
    replays: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored records count as erased at once, and are erased when the node is back."""
    values = replays.keep_values(1)
    upload = replays.target.upload

    def die(*arguments: Any) -> Any:
        replays.nodes.away.add("one")
        return upload(*arguments)

    monkeypatch.setattr(replays.target, "upload", die)
    assert (await replays.replay()).stored == 1
    assert len(await replays.left_over()) == 1
    replays.nodes.away.clear()
    assert await replays.kept() == []
    assert (await replays.replay()).replayed == 0
    assert await replays.stored() == values
    await replays.clean_up()
    assert await replays.left_over() == []
    assert list(replays.nodes.files["one"].oldest_first(SINK_KEY)) == []


@pytest_twisted.ensureDeferred
async def test_an_unavailable_node_is_named(replays: _Replays) -> None:
    """The records of the other nodes are replayed."""
    values = replays.keep_values(1)
    replays.keep_values(1, node="two")
    replays.nodes.away.add("two")
    outcome = await replays.replay()
    assert await replays.stored() == values
    assert outcome.view()["nodes"] == [
        {"nodeId": "two", "available": False, "message": "it is gone"}
    ]
    assert str(outcome).endswith(
        "; incomplete: the records of two could not be read; replay again later."
    )
    assert not outcome.is_complete


async def _keeps(replays: _Replays, node: str, until: timedelta, at: timedelta = _HOUR) -> None:
    """Note that a node that doesn't run keeps records.

    :param until: for how long from now.
    :param at: how long ago this was noted.
    """
    now = replays.world.storage.now
    kept = KeptRecords(at=now - at, until=now + until)
    await note_kept(replays.world.storage.client, node, {SINK_KEY: kept})


async def _stopped(replays: _Replays) -> list[str]:
    running = (await replays.nodes.all()).values()
    return [node.node_id for node in await replays.nodes.missing(SINK_KEY, running)]


@pytest_twisted.ensureDeferred
async def test_a_stopped_node_that_may_keep_records_is_named(replays: _Replays) -> None:
    """In lists, tests and replays; unless its records are too old."""
    client = replays.world.storage.client
    await _keeps(replays, "keeps", _HOUR)
    await _keeps(replays, "old", -_HOUR)
    await client.put(f"{KEPT}{SINK_KEY}/unreadable", b"{")
    error = LastError(time=replays.world.storage.now)
    await add_counts(client, "counts", {SINK_KEY: RejectedCount(count=1, last_error=error)})
    (id,) = replays.keep(b"{}")
    found = await replays.nodes.newest(SINK_KEY, ALL, 1)
    stopped = ["keeps", "unreadable"]
    assert [node["nodeId"] for node in found["nodes"] if not node["available"]] == stopped
    outcome = await replays.replay()
    assert [node.node_id for node in outcome.nodes] == stopped
    assert (outcome.replayed, outcome.is_complete) == (1, False)
    mapping = _table("a").mapping.mapping
    _, unavailable = await replays.replayer.test(SINK_KEY, mapping, ALL)
    assert [node.node_id for node in unavailable] == stopped
    with pytest.raises(UserError, match="whose records can't be read: keeps, unreadable"):
        await replays.nodes.get(SINK_KEY, "unknown")
    with pytest.raises(UserError, match="whose records can't be read: keeps, unreadable"):
        await replays.nodes.erase_one(SINK_KEY, "unknown")
    # Records that were selected by their ids, and found, can't be on another node.
    assert (await replays.replay(Selection(ids=frozenset({id})))).is_complete
    assert not (await replays.replay(Selection(ids=frozenset({id, "unknown"})))).is_complete
    assert await replays.nodes.erase(SINK_KEY, Selection(ids=frozenset({id}))) == (1, [])
    for node in stopped:
        await note_kept(client, node, {SINK_KEY: KeptRecords()})
    assert (await replays.replay()).is_complete


@pytest_twisted.ensureDeferred
async def test_a_node_that_runs_without_its_directory_is_named(replays: _Replays) -> None:
    """It was restarted without `source.quarantine.path`; its records aren't gone."""
    (kept,) = replays.keep_values(1)
    (other,) = replays.keep_values(1, node="two")
    replays.nodes.without_files.add("one")
    assert (await replays.replay()).is_complete is True  # it has noted no record of this sink
    assert await replays.stored() == [other]
    await _keeps(replays, "one", _HOUR)
    outcome = await replays.replay()
    problem = "the node runs without the directory of its records (source.quarantine.path)"
    missing = {"nodeId": "one", "available": False, "message": problem}
    assert (outcome.replayed, outcome.is_complete) == (0, False)
    assert [node.view() for node in outcome.nodes] == [missing]
    listed = await replays.nodes.newest(SINK_KEY, ALL, 10)
    assert listed["nodes"] == [missing, {"nodeId": "two", "available": True}]
    _, unavailable = await replays.replayer.test(SINK_KEY, _table("a").mapping.mapping, ALL)
    assert [node.node_id for node in unavailable] == ["one"]
    assert (await replays.nodes.erase(SINK_KEY, ALL))[1] == list(outcome.nodes)
    replays.nodes.without_files.clear()
    assert (await replays.replay()).is_complete
    assert await replays.stored() == sorted([kept, other])


@pytest_twisted.ensureDeferred
async def test_a_node_with_another_directory_is_named(replays: _Replays) -> None:
    """Until its records in the former one are too old, or it uses the former one again, although
    it keeps and erases others meanwhile.
    """
    client, now = replays.world.storage.client, replays.world.storage.now
    (kept,) = replays.keep_values(1)
    former = KeptRecords(at=now, until=now + _HOUR, directory="former")
    await note_kept(client, "one", {SINK_KEY: former})
    replays.nodes.directories["one"] = "former"
    assert await _stopped(replays) == []
    replays.nodes.directories["one"] = "other"
    problem = "the node's directory (source.quarantine.path) is another one than before"
    for until in (None, now + 9 * _HOUR, now):
        if until is not None:
            other = KeptRecords(at=now, until=until, directory="other")
            await note_kept(client, "one", {SINK_KEY: other})
        outcome = await replays.replay()
        assert not outcome.is_complete and outcome.nodes[0].problem.startswith(problem)
        found = await replays.nodes.newest(SINK_KEY, ALL, 1)
        assert [node["available"] for node in found["nodes"]] == [False, True]
    assert await replays.stored() == [kept]
    replays.nodes.away.add("one")
    assert [node.problem for node in (await replays.replay()).nodes] == [
        outcome.nodes[0].problem
    ], "each node is named once"
    replays.nodes.away.clear()
    replays.nodes.directories["one"] = "former"
    assert (await replays.replay()).is_complete
    await note_found(client, "one", {("one", SINK_KEY): attrs.evolve(former, at=now)})
    assert (await replays.replay()).is_complete
    replays.nodes.directories["one"] = "other"
    replays.world.storage.tick(_HOUR.total_seconds())
    assert (await replays.replay()).is_complete


@pytest_twisted.ensureDeferred
async def test_a_note_of_an_earlier_version_names_no_directory(replays: _Replays) -> None:
    """It is about the records that the node finds; if it finds none, they are missing."""
    client, now = replays.world.storage.client, replays.world.storage.now
    await _keeps(replays, "one", _HOUR)
    replays.nodes.directories["one"] = "own"
    assert await _stopped(replays) == ["one"]
    none = KeptRecords(at=now, until=now, directory="own")
    await note_kept(client, "one", {SINK_KEY: none})
    assert await _stopped(replays) == ["one"]
    await client.delete(f"{KEPT}{SINK_KEY}/one")
    await _keeps(replays, "one", _HOUR)
    found = attrs.evolve(none, until=now + _HOUR)
    await note_found(client, "one", {("one", SINK_KEY): found})
    assert await _stopped(replays) == []


@pytest_twisted.ensureDeferred
async def test_missing_records_of_a_node_that_was_taken_over(replays: _Replays) -> None:
    """The new node also notes which of them are in another directory."""
    client, now = replays.world.storage.client, replays.world.storage.now
    for name in ("lost", "known"):
        kept = KeptRecords(at=now, until=now + _HOUR, directory=name)
        await note_kept(client, "former", {SINK_KEY: kept})
    await note_found(client, "one", {("former", SINK_KEY): attrs.evolve(kept, directory="own")})
    replays.nodes.directories["one"] = "own"
    assert await _stopped(replays) == ["one"]


@pytest_twisted.ensureDeferred
async def test_counts_can_be_removed_while_records_are_kept(replays: _Replays) -> None:
    """The records stay when the sink is deleted and undeleted."""
    client = replays.world.storage.client
    await _keeps(replays, "keeps", _HOUR)
    await add_counts(client, "keeps", {SINK_KEY: RejectedCount(count=1)})
    await remove_counts(client, "keeps", SINK_KEY)
    assert not (await client.range(COUNT)).kvs
    assert not (await replays.replay()).is_complete


@pytest_twisted.ensureDeferred
async def test_records_of_stopped_nodes_are_taken_over(replays: _Replays) -> None:
    """The new node has kept them from the moment the former one doesn't, for as long as that one
    would have; a node that runs again and has rejected more is still named.
    """
    client, now = replays.world.storage.client, replays.world.storage.now
    await _keeps(replays, "former", 9 * _HOUR)
    await _keeps(replays, "again", 2 * _HOUR, at=-_HOUR)
    await client.put(f"{KEPT}{SINK_KEY}/unreadable", b"{")
    kept = KeptRecords(at=now, until=now + 2 * _HOUR)
    names = ("former", "again", "unreadable", "absent")
    noted = await note_found(client, "new", {(name, SINK_KEY): kept for name in names})
    assert noted == {SINK_KEY: now + 9 * _HOUR}
    assert await _stopped(replays) == ["again", "new", "unreadable"]
    new = await client.get(f"{KEPT}{SINK_KEY}/new")
    assert new is not None and decode(KeptRecords, new.value).until == now + 9 * _HOUR


@pytest_twisted.ensureDeferred
async def test_records_of_which_nothing_is_noted(replays: _Replays) -> None:
    """The former version has noted nothing about them; the node notes what it has found."""
    client, now = replays.world.storage.client, replays.world.storage.now
    kept = KeptRecords(at=now, until=now + _HOUR)
    until = {SINK_KEY: now + _HOUR}
    assert await note_found(client, "new", {("new", SINK_KEY): kept}) == until
    assert await note_found(client, "other", {("absent", SINK_KEY): kept}) == until
    assert await _stopped(replays) == ["new", "other"]


@pytest_twisted.ensureDeferred
async def test_a_late_note_does_not_undo_a_newer_one(
    replays: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction without an answer is repeated, and etcd may apply the first one much later."""
    client = replays.world.storage.client
    await _keeps(replays, "keeps", _HOUR)
    commit = client.commit
    late: list[tuple[Any, ...]] = []

    async def lost_once(*args: Any) -> Any:
        if late:
            return await commit(*args)
        late.append(args)
        raise EtcdUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(client, "commit", lost_once)
        await note_kept(client, "keeps", {SINK_KEY: KeptRecords()})
    assert await _stopped(replays) == []
    await _keeps(replays, "keeps", _HOUR)
    await commit(*late[0])
    assert await _stopped(replays) == ["keeps"]


@pytest_twisted.ensureDeferred
async def test_a_count_that_can_not_be_read(replays: _Replays) -> None:
    """It stays as it is, and the node stores its other counts."""
    client, other = replays.world.storage.client, attrs.evolve(SINK_KEY, sink_id="other")
    await client.put(f"{COUNT}{SINK_KEY}/one", b"{")
    one = RejectedCount(count=1)
    for _ in range(2):
        await add_counts(client, "one", {SINK_KEY: one, other: one})
    assert await rejected_counts(client, SINK_KEY) == {}
    assert await rejected_counts(client, other) == {other: {"one": RejectedCount(count=2)}}


@pytest_twisted.ensureDeferred
async def test_a_mapping_that_changes_meanwhile(
    replays: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the former mapping are never stored."""
    replays.keep(b'{"a":"old","b":"new"}')
    prepare = replays.target.prepare
    changes = [_table("b")]

    async def change(source: Any, sink: Any, at: Any, *, token: str | None) -> Any:
        if changes and token is None:
            table = changes.pop()
            await replays.world.do(
                "update_sink", SINK_KEY, "", lambda sink: attrs.evolve(sink, table=table)
            )
        return await prepare(source, sink, replays.world.storage.tick(), token=token)

    monkeypatch.setattr(replays.target, "prepare", change)
    assert (await replays.replay()).stored == 1
    assert await replays.stored() == ["new"]


@pytest_twisted.ensureDeferred
async def test_a_disabled_sink(replays: _Replays) -> None:
    """The replay is refused, and the records are kept."""
    (id,) = replays.keep(b'{"a":"1"}')
    await replays.world.do("disable_sink", SINK_KEY)
    with pytest.raises(UserError, match="the sink is disabled"):
        await replays.replay()
    assert (await replays.kept(), await replays.left_over()) == ([id], [])


@pytest_twisted.ensureDeferred
async def test_many_records_are_stored_in_several_files(
    replays: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replay that takes too long reports that there are more records."""
    monkeypatch.setattr(replay_module, "RECORDS_AT_ONCE", 2)
    values = replays.keep_values(5)
    assert (await replays.replay()).stored == 5
    assert len(replays.target.staged) == 3
    assert await replays.stored() == sorted(values)
    replays.keep_values(1)
    monkeypatch.setattr(replay_module, "REPLAY_SECONDS", 0.0)
    outcome = await replays.replay()
    assert (outcome.replayed, outcome.is_cut) == (0, True)
    assert str(outcome).endswith("; there are more records; replay again to continue.")


class _SlowClock:
    """The reactor, with a clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def seconds(self) -> float:
        self.now += 1.0
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest.fixture
def slow(replays: _Replays, monkeypatch: pytest.MonkeyPatch) -> _Replays:
    """Replays that have time for one record each."""
    monkeypatch.setattr(rendering_module, "RECORDS_AT_ONCE", 1)
    monkeypatch.setattr(replay_module, "REPLAY_SECONDS", 2.0)
    monkeypatch.setattr(replays.replayer, "_reactor", _SlowClock())
    return replays


async def _seen(replays: _Replays, selection: Selection = ALL) -> tuple[list[str], bool]:
    """Ids of the records that one replay maps, and whether it is cut."""
    outcome = await replays.replay(selection)
    return [result["id"] for result in outcome.results], outcome.is_cut


@pytest_twisted.ensureDeferred
async def test_the_next_replay_continues_where_one_was_cut(slow: _Replays) -> None:
    """Even if every record is rejected again; the last one that ends lets the next begin again."""
    ids = [*slow.keep(b"{}", b"{}", b"{}"), *slow.keep(b"{}", b"{}", node="two")]
    for round_ in range(2):
        seen = [await _seen(slow) for _ in ids]
        assert [found for found, _ in seen] == [[id] for id in ids], round_
        assert [is_cut for _, is_cut in seen] == [True] * 4 + [False], round_
    assert await slow.kept() == ids


@pytest_twisted.ensureDeferred
async def test_a_replay_that_continues_asks_nodes_that_did_not_answer(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those before the position; the outcome names them until they answer."""
    (one,) = slow.keep(b"{}")
    two = slow.keep(b"{}", b"{}", b"{}", b"{}", node="two")
    slow.nodes.away.add("one")
    monkeypatch.setattr(replay_module, "REPLAY_SECONDS", 3.0)  # the node takes some time, too
    for id in two[:2]:
        outcome = await slow.replay()
        assert [result["id"] for result in outcome.results] == [id]
        assert (outcome.is_cut, [node.node_id for node in outcome.nodes]) == (True, ["one"])
    slow.nodes.away.clear()
    monkeypatch.setattr(replay_module, "REPLAY_SECONDS", 2.0)
    assert await _seen(slow) == ([one], True)
    assert await _seen(slow) == ([two[2]], True)
    outcome = await slow.replay()
    assert ([result["id"] for result in outcome.results], outcome.is_complete) == (two[3:], True)


@pytest_twisted.ensureDeferred
async def test_a_replay_that_continues_asks_for_newer_records(slow: _Replays) -> None:
    """Also the nodes that were read to the end: it is complete only when they have nothing new."""
    (one,) = slow.keep(b"{}")
    two = slow.keep(b"{}", b"{}", node="two")
    assert await _seen(slow) == ([one], True)
    assert await _seen(slow) == ([two[0]], True)
    newer = slow.keep(b"{}", b"{}")
    assert await _seen(slow) == ([two[1]], True)
    assert await _seen(slow) == ([newer[0]], True)
    outcome = await slow.replay()
    assert ([result["id"] for result in outcome.results], outcome.is_complete) == (newer[1:], True)


@pytest_twisted.ensureDeferred
async def test_a_node_that_has_stopped_since_it_was_read(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have rejected more records."""
    slow.keep(b"{}")
    slow.keep(b"{}", b"{}", node="two")
    for _ in range(2):
        assert (await slow.replay()).is_cut
    await _keeps(slow, "one", _HOUR)
    monkeypatch.delitem(slow.nodes.files, "one")
    outcome = await slow.replay()
    assert (outcome.is_cut, [node.node_id for node in outcome.nodes]) == (False, ["one"])
    assert not outcome.is_complete


@pytest_twisted.ensureDeferred
async def test_a_replay_that_can_not_store_its_end(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one begins with the oldest record, not where the one before it was cut."""
    ids = slow.keep(b"{}", b"{}")
    assert await _seen(slow) == ([ids[0]], True)

    async def without_etcd(*_: object) -> None:
        """Store nothing."""

    with monkeypatch.context() as patched:
        patched.setattr(slow.replayer, "_release", without_etcd)
        assert (await _seen(slow))[0] == [ids[1]]
    await slow.clean_up()
    assert (await _seen(slow))[0] == [ids[0]]


@pytest_twisted.ensureDeferred
async def test_a_replay_that_fails_keeps_the_position(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one continues where the one before it was cut."""
    ids = slow.keep(b"{}", b"{}")
    assert await _seen(slow) == ([ids[0]], True)

    async def fail(_: SinkKey) -> Any:
        raise UserError("no luck")

    with monkeypatch.context() as patched:
        patched.setattr(slow.replayer, "_definitions", fail)
        with pytest.raises(UserError, match="no luck"):
            await slow.replay()
    assert (await _seen(slow))[0] == [ids[1]]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("ending", ["before", "cut", "failed"])
async def test_a_replay_after_a_takeover_begins_with_the_oldest_record(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The records that were taken over may be before the position, also that of a replay that was
    running meanwhile.
    """
    ids = slow.keep(b"{}", b"{}", b"{}")
    assert await _seen(slow) == ([ids[0]], True)
    client, now = slow.world.storage.client, slow.world.storage.now
    definitions = slow.replayer._definitions

    async def take_over(sink: SinkKey) -> Any:
        kept = KeptRecords(at=now, until=now + _HOUR)
        await note_found(client, "one", {("gone", sink): kept})
        if ending == "failed":
            raise UserError("no luck")
        return await definitions(sink)

    with monkeypatch.context() as patched:
        patched.setattr(slow.replayer, "_definitions", take_over)
        if ending == "before":
            await take_over(SINK_KEY)
        elif ending == "cut":
            assert await _seen(slow) == ([ids[1]], True)
        else:
            with pytest.raises(UserError, match="no luck"):
                await slow.replay()
    assert await _seen(slow) == ([ids[0]], True)
    assert await _seen(slow) == ([ids[1]], True)


@pytest_twisted.ensureDeferred
async def test_a_position_of_an_earlier_version(slow: _Replays) -> None:
    """It doesn't say where the nodes end that are done, so the replay begins again."""
    ids = slow.keep(b"{}", b"{}")
    await slow.replay()
    client = slow.world.storage.client
    (kv,) = (await client.range(POSITION)).kvs
    position = attrs.evolve(decode(ReplayPosition, kv.value), ends=None)
    await client.put(kv.key, encode(position))
    assert await _seen(slow) == ([ids[0]], True)


@pytest_twisted.ensureDeferred
async def test_another_replay_begins_with_the_oldest_record(slow: _Replays) -> None:
    """With another selection, or after a change of the sink."""
    ids = slow.keep(b"{}", b"{}", b"{}")
    assert await _seen(slow) == ([ids[0]], True)
    assert await _seen(slow, Selection(until=2**50)) == ([ids[0]], True)
    assert await _seen(slow, Selection(until=2**50)) == ([ids[1]], True)
    assert await _seen(slow) == ([ids[0]], True)
    await slow.world.rename()
    assert await _seen(slow) == ([ids[0]], True)


@pytest_twisted.ensureDeferred
async def test_a_node_of_an_earlier_version_tells_no_positions(
    slow: _Replays, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next replay continues with the records that it was asked for together."""
    monkeypatch.setattr(replay_module, "RECORDS_AT_ONCE", 2)
    ids = slow.keep(b"{}", b"{}", b"{}")
    ask = slow.nodes.ask

    async def without_cursors(*args: Any, **members: Any) -> Asked:
        asked = await ask(*args, **members)
        assert asked.answer is not None
        asked.answer.pop("cursors", None)
        return asked

    monkeypatch.setattr(slow.nodes, "ask", without_cursors)
    assert await _seen(slow) == ([ids[0]], True)
    monkeypatch.setattr(rendering_module, "RECORDS_AT_ONCE", 2)
    assert await _seen(slow) == (ids[:2], True)
    assert await _seen(slow) == (ids[2:], True)
    # To ask for newer records, it can only begin with those that it was last asked for.
    monkeypatch.setattr(replay_module, "REPLAY_SECONDS", 9.0)
    assert await _seen(slow) == (ids[2:], False)


@pytest_twisted.ensureDeferred
async def test_positions_are_forgotten_after_a_day(slow: _Replays) -> None:
    """Nobody may ever continue the replay."""
    slow.keep(b"{}", b"{}")
    await slow.replay()
    client = slow.world.storage.client
    await slow.replayer.forget_old_positions()
    assert len((await client.range(POSITION)).kvs) == 1
    slow.world.storage.now += timedelta(days=1, seconds=1)
    await slow.replayer.forget_old_positions()
    assert not (await client.range(POSITION)).kvs


@pytest_twisted.ensureDeferred
async def test_a_proposed_mapping_is_tested(replays: _Replays) -> None:
    """Nothing is stored, and the records are kept."""
    ids = replays.keep(b'{"c":"1"}', b"{}")
    mapping = _table("c").mapping.mapping
    (good, bad), unavailable = await replays.replayer.test(SINK_KEY, mapping, ALL)
    assert unavailable == []
    assert good.view() == {
        "id": ids[0],
        "accepted": True,
        "row": {"columns": [{"name": "v", "value": "1"}]},
    }
    assert (bad.view()["accepted"], bad.view()["column"]) == (False, "v")
    assert (await replays.stored(), await replays.kept()) == ([], ids)
