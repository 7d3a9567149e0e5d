"""The order of tasks: the keys of the lists, and their repair."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from stream.etcd import EtcdClient
from stream.task.entity import TASK_PREFIX, Task, task_id
from stream.task.listing import LISTING_PREFIX, ListingRepair, TaskListing, listing_keys
from stream.task.store import TaskStore
from stream.values.codec import encode
from stream.values.utctime import from_timestamp

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


async def _put(etcd: EtcdClient, task: Task, *, is_listed: bool = True) -> Task:
    await etcd.put(task.key, encode(task))
    for key in listing_keys(task.project_id, task.task_id) if is_listed else ():
        await etcd.put(key, task.task_id.encode())
    return task


async def _newest(etcd: EtcdClient, source: str = "", limit: int = 100, before: int = 0) -> Any:
    return await TaskListing(etcd).newest(123, 456, source, limit=limit, before=before)


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.integers(0, 10**12)), min_size=2, max_size=9))
def test_keys_sort_from_the_newest(tasks: list[tuple[str, int]]) -> None:
    """The type of a task has no effect; tasks of the same millisecond have different keys."""
    made = [_task("456/s", at / 1000, type) for type, at in tasks]
    keys = {listing_keys(123, task.task_id)[0]: task.created_at for task in made}
    assert len(keys) == len({task.task_id for task in made})
    in_order = [keys[key] for key in sorted(keys)]
    assert in_order == sorted(in_order, reverse=True)


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
    assert listing_keys(123, task_id) == ()


@ensure
async def test_pages_of_a_branch_and_of_a_source(etcd: EtcdClient) -> None:
    """A page has only the tasks of its branch or source, the newest first."""
    for other in (_task("456/s", 9, project=12), _task("45/s", 9), _task("456/st/k", 0)):
        await _put(etcd, other)
    tasks = [
        await _put(etcd, _task("456/s/k", number + 1, TYPES[number % 3])) for number in range(7)
    ]
    ids = [task.task_id for task in reversed(tasks)]
    found: list[str] = []
    before = 0
    while page := (await _newest(etcd, "s", 3, before)).ids:
        found += page
        listed = await _newest(etcd, "s", 3, before)
        assert listed.total == 7
        before = listed.last
    assert found == ids
    of_branch = await _newest(etcd)
    assert of_branch.ids[:-1] == tuple(ids) and of_branch.total == 8
    assert (await _newest(etcd, "s", 3, 1)).ids == ()
    assert (await _newest(etcd, "s", 3, 10**30)).ids == tuple(ids[:3])


@ensure
async def test_a_deleted_task_is_not_listed(etcd: EtcdClient) -> None:
    """The record and its keys are deleted in one transaction."""
    task = await _put(etcd, _task("456/s/k", 1))
    await TaskStore(etcd).delete(task)
    assert not (await etcd.range("task/")).kvs and not (await etcd.range(LISTING_PREFIX)).kvs


@ensure
async def test_a_repair(etcd: EtcdClient) -> None:
    """It adds tasks of another service and removes keys of deleted ones; a second repair does
    nothing.
    """
    kept = await _put(etcd, _task("456/s", 1))
    gone = await _put(etcd, _task("456/s/k", 2))
    await etcd.delete(gone.key)
    added = [await _put(etcd, _task("456/t/k", 3 + n), is_listed=False) for n in range(60)]
    await etcd.put(f"{TASK_PREFIX}_system_/cleanup", b"{}")
    listing = TaskListing(etcd)
    assert await listing.repair() == 2 * len(added) + 2
    expected = [task.task_id for task in [*reversed(added), kept]]
    assert (await _newest(etcd)).ids == tuple(expected)
    assert (await _newest(etcd, "t")).total == 60
    assert await listing.repair() == 0


@ensure
async def test_a_repair_although_the_numbers_agree(etcd: EtcdClient) -> None:
    """A thorough repair finds a task that is missing while the key of a deleted one is left, as an
    older version leaves them.
    """
    gone = await _put(etcd, _task("456/s/k", 1))
    await etcd.delete(gone.key)
    added = await _put(etcd, _task("456/s", 2), is_listed=False)
    listing = TaskListing(etcd)
    assert await listing.repair() == 0
    assert await listing.repair(thorough=True) == 4
    for source in ("", "s"):
        assert (await _newest(etcd, source)).ids == (added.task_id,)


@ensure
async def test_records_that_are_never_listed(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are counted, so that the next repair compares only numbers."""
    await etcd.put(f"{TASK_PREFIX}_system_/cleanup", b"{}")
    await _put(etcd, _task("456/s", 1))
    listing = TaskListing(etcd)
    assert await listing.repair() == 0
    read: list[str] = []
    ranged = EtcdClient.range

    async def counted(client: EtcdClient, prefix: str, **options: Any) -> Any:
        read.append(prefix)
        return await ranged(client, prefix, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EtcdClient, "range", counted)
        assert await listing.repair() == 0
        assert not read
        await _put(etcd, _task("456/s", 2), is_listed=False)
        assert await listing.repair() == 2
        assert read


@ensure
async def test_a_task_that_is_deleted_during_a_repair(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task isn't listed afterwards."""
    task = await _put(etcd, _task("456/s", 1), is_listed=False)
    get_many = EtcdClient.get_many

    async def deleting(client: EtcdClient, keys: Any, **options: Any) -> Any:
        found = await get_many(client, keys, **options)
        await etcd.delete(task.key)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(EtcdClient, "get_many", deleting)
        assert await TaskListing(etcd).repair() == 0
    assert not (await etcd.range(LISTING_PREFIX)).kvs


class _Listing:
    """A listing that counts its repairs, each of which ends when the test says so."""

    def __init__(self) -> None:
        self.repairs: list[Deferred[int]] = []
        self.thorough: list[bool] = []
        self.cancelled = 0

    async def repair(self, *, thorough: bool = False) -> int:
        self.repairs.append(Deferred())
        self.thorough.append(thorough)
        try:
            return await self.repairs[-1]
        except CancelledError:
            self.cancelled += 1
            raise


def test_repairs_at_the_start_and_at_each_interval() -> None:
    """Repairs are thorough until one has succeeded; a stop ends a repair."""
    listing, clock = _Listing(), Clock()
    service = ListingRepair(clock, listing, 3600.0)  # type: ignore[arg-type]
    service.startService()
    listing.repairs[0].errback(ValueError("etcd is gone"))
    clock.advance(3600)
    listing.repairs[1].callback(3)
    clock.advance(3600)
    service.stopService()
    clock.advance(3600)
    assert listing.thorough == [True, True, False] and listing.cancelled == 1


@ensure
async def test_a_stop_before_the_numbers_are_known(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop is no failure of the repair: nothing is logged."""

    async def unanswered(client: EtcdClient, key: str, **options: Any) -> Any:
        return await Deferred()

    monkeypatch.setattr(EtcdClient, "read", unanswered)
    service = ListingRepair(Clock(), TaskListing(etcd), 3600.0)
    with capturedLogs() as logs:
        service.startService()
        service.stopService()
    assert logs == []
