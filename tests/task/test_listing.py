"""The order of tasks in memory: which tasks are listed, and when they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from stream.etcd import EtcdClient
from stream.task.entity import TASK_PREFIX, Task, task_id
from stream.task.listing import FORMER_LISTING_PREFIX, TaskListing, place_of
from stream.task.store import TaskStore
from stream.values.codec import encode
from stream.values.utctime import from_timestamp
from tests.waiting import mirrored

ensure = pytest_twisted.ensureDeferred

TYPES = ("api.create.source", "api.update.sink", "replay")


def _task(where: str, second: float, type: str = TYPES[0], project: int = 123) -> Task:
    created = from_timestamp(second)
    return Task(
        project_id=project,
        task_id=task_id(type, where, created, "abcde"),
        type=type,
        created_at=created,
    )


async def _put(etcd: EtcdClient, task: Task) -> Task:
    await etcd.put(task.key, encode(task))
    return task


@asynccontextmanager
async def _started(etcd: EtcdClient) -> AsyncIterator[TaskListing]:
    listing = TaskListing(etcd)
    await listing.startService()
    try:
        yield listing
    finally:
        await listing.stopService()


async def _newest(listing: TaskListing, source: str = "", limit: int = 100, before: int = 0) -> Any:
    return await listing.newest(123, 456, source, limit=limit, before=before)


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 10**12)), min_size=2, max_size=9))
def test_places_are_in_the_order_of_time(tasks: list[tuple[str, int]]) -> None:
    """The type of a task has no effect; tasks of the same millisecond have different places."""
    made = [_task("456/s", at / 1000, type) for type, at in tasks]
    places = {place_of(task.task_id): task.created_at for task in made}
    assert len(places) == len({task.task_id for task in made})
    in_order = [places[place] for place in sorted(places)]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "x",
        "type/456",
        "type/456/s/",
        "type/456/s/yesterday_abcde",
        "2000-01-01T00:00:00.000Z_x",
        "type/2000-01-01T00:00:00.000Z_x",
        "type/456/s/1969-12-31T23:59:59.000Z_x",
    ],
)
def test_ids_that_are_not_listed(task_id: str) -> None:
    """Unlisted ids contain neither their place nor their time of creation."""
    assert place_of(task_id) == 0


@pytest.mark.parametrize("is_early", [True, False], ids=["before the start", "after the start"])
@ensure
async def test_pages_of_a_branch_and_of_a_source(etcd: EtcdClient, is_early: bool) -> None:
    """A page has only the tasks of its branch or source, the newest first."""
    others = [_task("456/s", 9, project=12), _task("45/s", 9), _task("456/st/k", 0.5)]
    tasks = [_task("456/s/k", number + 1, TYPES[number % 3]) for number in range(7)]
    ids = [task.task_id for task in reversed(tasks)]
    for task in (*others, *reversed(tasks)) if is_early else ():
        await _put(etcd, task)
    async with _started(etcd) as listing:
        for task in () if is_early else (*others, *reversed(tasks)):
            await _put(etcd, task)
        found: list[str] = []
        before = 0
        while page := (await _newest(listing, "s", 3, before)).ids:
            found += page
            listed = await _newest(listing, "s", 3, before)
            assert listed.total == 7
            before = listed.last
        assert found == ids
        of_branch = await _newest(listing)
        assert of_branch.ids[:-1] == tuple(ids) and of_branch.total == 8
        assert (await _newest(listing, "s", 3, 1)).ids == ()
        assert (await _newest(listing, "s", 3, 10**30)).ids == tuple(ids[:3])
        assert (await _newest(listing, "none")).ids == ()


@ensure
async def test_each_write_is_seen_at_once(etcd: EtcdClient) -> None:
    """A page contains each task that was written before it, once, also one of another node."""
    async with _started(etcd) as listing:
        for number in range(1, 20):
            task = await _put(etcd, _task("456/s", number))
            await _put(etcd, task)  # it has ended
            page = await _newest(listing)
            assert page.ids[0] == task.task_id and page.total == number
        await TaskStore(etcd).delete(task.key)
        assert (await _newest(listing)).total == 18
        async for task in TaskStore(etcd).all():
            await TaskStore(etcd).delete(task.key)
        assert await _newest(listing) == await _newest(listing, "s")
        assert (await _newest(listing)).total == 0


@ensure
async def test_records_that_are_never_listed(etcd: EtcdClient) -> None:
    """They are counted, so that a page doesn't wait for them."""
    await etcd.put(f"{TASK_PREFIX}123/cleanup", b"{}")
    await etcd.put(f"{TASK_PREFIX}_system_/cleanup/456/x", b"{}")
    async with _started(etcd) as listing:
        await etcd.put(f"{TASK_PREFIX}123/other", b"no record")
        task = await _put(etcd, _task("456/s", 1))
        with capturedLogs() as logs:
            assert (await _newest(listing)).ids == (task.task_id,)
        assert not [entry for entry in logs if entry["log_namespace"] == "stream.task.listing"]


@ensure
async def test_nothing_but_records_is_stored(etcd: EtcdClient) -> None:
    """The keys by which an earlier version found the newest tasks are deleted at the start."""
    former = f"{FORMER_LISTING_PREFIX}branch/123/456/1"
    await etcd.put(former, b"x")
    task = await _put(etcd, _task("456/s", 1))
    async with _started(etcd) as listing:
        assert (await _newest(listing)).ids == (task.task_id,)
        assert await etcd.get(former) is None


@ensure
async def test_the_keys_are_read_without_the_records(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of many tasks would take long to load."""
    options: list[Any] = []
    ranged = EtcdClient.range

    async def noted(client: EtcdClient, prefix: str, **given: Any) -> Any:
        options.append(given)
        return await ranged(client, prefix, **given)

    monkeypatch.setattr(EtcdClient, "range", noted)
    async with _started(etcd):
        assert options == [{"keys_only": True}]


@ensure
async def test_a_watch_that_is_silent(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page waits some time for missing tasks, and then has those that are known."""
    task = await _put(etcd, _task("456/s", 1))
    async with _started(etcd) as listing:
        read = EtcdClient.read

        async def one_more(client: EtcdClient, key: str, **given: Any) -> Any:
            found = await read(client, key, **given)
            return attrs.evolve(found, count=found.count + 1, revision=found.revision + 1)

        waited: list[float] = []

        def later(reactor: Any, seconds: float) -> Deferred[None]:
            waited.append(seconds)
            ended: Deferred[None] = Deferred()
            ended.callback(None)
            return ended

        monkeypatch.setattr(EtcdClient, "read", one_more)
        monkeypatch.setattr("stream.task.listing.deferLater", later)
        monkeypatch.setattr("stream.task.listing._SETTLE_SECONDS", 0.01)
        with capturedLogs() as logs:
            assert (await _newest(listing)).ids == (task.task_id,)
        assert waited[0] < 0.01
        own = [entry for entry in logs if entry["log_namespace"] == "stream.task.listing"]
        assert [entry["prefix"] for entry in own] == ["task/123/"]


@ensure
async def test_a_memory_that_is_newer_than_the_count(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that arrives between the count and its answer is no reason to wait."""
    async with _started(etcd) as listing:
        read = EtcdClient.read
        task = _task("456/s", 1)

        async def overtaken(client: EtcdClient, key: str, **given: Any) -> Any:
            found = await read(client, key, **given)
            if given.get("count_only"):
                await mirrored(listing._keys, await etcd.put(task.key, encode(task)))
            return found

        def later(*_: Any) -> None:
            pytest.fail("the page waits")

        monkeypatch.setattr(EtcdClient, "read", overtaken)
        monkeypatch.setattr("stream.task.listing.deferLater", later)
        assert (await _newest(listing)).ids == (task.task_id,)
