"""The order of tasks: keys in etcd by which the newest tasks of a branch or a source are found.

Note [Order of tasks]: the keys of records begin with type and object, as in the original service,
so no range of keys holds the newest tasks of a branch. etcd can sort by creation, but then it reads
all records of the range, whatever the limit is. So each task has two short keys more, one for its
branch and one for its source, whose order is that of time reversed. They are written and deleted
with the record, in its transaction, and their names follow from its id. `TaskListing.repair`
writes those of tasks that another service or an older version has written, and deletes those of
tasks that it has deleted. Some records of the original service belong to no branch; they are never
listed.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from stream.concurrency.together import together
from stream.etcd import AtomicTxn, EtcdClient, KeyValue, RangeResult, atomic
from stream.task.entity import TASK_PREFIX
from stream.values.utctime import parse_time, to_nanoseconds

__all__ = ["LISTING_PREFIX", "ListedPage", "ListingRepair", "TaskListing", "listing_keys"]

_log = Logger(namespace="stream.task.listing")

LISTING_PREFIX = "runtime/order/task/"
_OF_BRANCHES = f"{LISTING_PREFIX}branch/"
_OF_SOURCES = f"{LISTING_PREFIX}source/"

_DIGITS = 21
_LAST = 10**_DIGITS - 1
_IN_A_MILLISECOND = 10**6
_TIME_LENGTH = len("2000-01-01T00:00:00.000Z")
_PAGE = 500
_TASKS_PER_TRANSACTION = 25
"""A transaction has a condition and two writes for each task."""


def listing_keys(project_id: int | str, task_id: str) -> tuple[str, ...]:
    """Return the keys that list a task; none if its id doesn't say its branch and its time."""
    _, *where = task_id.split("/")
    if len(where) < 2:
        return ()
    last = where.pop()
    try:
        created = to_nanoseconds(parse_time(last[:_TIME_LENGTH])) // 10**6
    except ValueError:
        return ()
    if created < 0:
        return ()
    place = created * _IN_A_MILLISECOND + zlib.crc32(task_id.encode()) % _IN_A_MILLISECOND
    name = _name(place)
    branch = f"{_OF_BRANCHES}{project_id}/{where[0]}/{name}"
    if len(where) == 1:
        return (branch,)
    return branch, f"{_OF_SOURCES}{project_id}/{where[0]}/{where[1]}/{name}"


def _name(place: int) -> str:
    return f"{_LAST - place:0{_DIGITS}d}"


@attrs.frozen
class ListedPage:
    """Some tasks of a branch or a source, the newest first.

    :ivar ids: ids of tasks.
    :ivar total: number of tasks on all pages.
    :ivar last: place of the last task on the page; 0 if there is none.
    """

    ids: tuple[str, ...]
    total: int
    last: int


class TaskListing:
    """The keys that list tasks; see Note [Order of tasks].

    :param client: started.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._unlisted = 0

    async def newest(
        self, project_id: int, branch_id: int, source_id: str, *, limit: int, before: int
    ) -> ListedPage:
        """Return the newest tasks of a branch, or of its source *source_id* unless that is empty.

        :param before: only tasks before this place, the end of the previous page; 0 for all.
        """
        prefix = (
            f"{_OF_SOURCES}{project_id}/{branch_id}/{source_id}/"
            if source_id
            else f"{_OF_BRANCHES}{project_id}/{branch_id}/"
        )
        after = _name(min(before, _LAST)) if before else ""
        reading = [self._client.range(prefix, limit=limit, start_after=after)]
        if after:
            # etcd counts the keys of a range one by one: none is counted twice.
            end = f"{after}\0"
            reading.append(self._client.range(prefix, end=end, limit=1, keys_only=True))
        parts: list[RangeResult] = await together(*reading)
        page, total = parts[0], sum(part.count for part in parts)
        last = _LAST - int(page.kvs[-1].key.removeprefix(prefix)) if page.kvs else 0
        return ListedPage(tuple(kv.value.decode() for kv in page.kvs), total, last)

    async def repair(self, *, thorough: bool = False) -> int:
        """Make the listing complete, if it isn't; return the number of keys written or deleted.

        Numbers are compared first, which is nearly always all that happens.

        :param thorough: whether keys are compared even if their numbers agree. An older version may
            have deleted as many tasks as it has written.
        """
        tasks, listed = await together(
            *(self._client.read(prefix, count_only=True) for prefix in (TASK_PREFIX, _OF_BRANCHES))
        )
        if tasks.count - self._unlisted == listed.count and not thorough:
            return 0
        changed = unlisted = 0
        async for kvs in self._pages(TASK_PREFIX, keys_only=True):
            wanted = {
                (project, id): listing_keys(project, id)
                for project, _, id in (
                    kv.key.removeprefix(TASK_PREFIX).partition("/") for kv in kvs
                )
            }
            unlisted += sum(not keys for keys in wanted.values())
            changed += await self._add(wanted)
        self._unlisted = unlisted
        for prefix in (_OF_BRANCHES, _OF_SOURCES):
            async for kvs in self._pages(prefix):
                changed += await self._forget(prefix, kvs)
        return changed

    async def _pages(
        self, prefix: str, *, keys_only: bool = False
    ) -> AsyncIterator[Sequence[KeyValue]]:
        after = ""
        while True:
            page = await self._client.range(
                prefix, limit=_PAGE, start_after=after, keys_only=keys_only
            )
            if page.kvs:
                yield page.kvs
                after = page.kvs[-1].key.removeprefix(prefix)
            if not page.more:
                return

    async def _add(self, wanted: Mapping[tuple[str, str], Sequence[str]]) -> int:
        """List those tasks that aren't.

        :param wanted: the keys that list each task.
        """
        keys = [key for each in wanted.values() for key in each]
        stored, _ = await self._client.get_many(keys, keys_only=True)
        missing = [
            task for task, keys in wanted.items() if any(stored[key] is None for key in keys)
        ]
        changed = 0
        for start in range(0, len(missing), _TASKS_PER_TRANSACTION):
            some = missing[start : start + _TASKS_PER_TRANSACTION]
            changed += await atomic(self._client, partial(_put_listed, tasks=some))
        return changed

    async def _forget(self, prefix: str, kvs: Sequence[KeyValue]) -> int:
        """Delete those keys whose task is gone."""
        records = {kv.key: _record_of(prefix, kv) for kv in kvs}
        found, _ = await self._client.get_many([*records.values()], keys_only=True)
        gone = [key for key, record in records.items() if found[record] is None]
        for key in gone:
            await self._client.delete(key)
        return len(gone)


class ListingRepair(Service):
    """Repairs the listing of tasks: thoroughly at the start, and at each interval.

    :param interval: seconds between repairs.
    """

    name = "task.listing"

    def __init__(self, reactor: Any, listing: TaskListing, interval: float) -> None:
        self._listing = listing
        self._interval = interval
        self._loop = LoopingCall(self._run)
        self._loop.clock = reactor
        self._is_thorough = True
        self._running: Deferred[int] | None = None

    def startService(self) -> None:
        super().startService()
        self._loop.start(self._interval)

    def stopService(self) -> None:
        """Stop without waiting: what is missing is repaired by the next start."""
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()

    async def _run(self) -> None:
        self._running = Deferred.fromCoroutine(self._listing.repair(thorough=self._is_thorough))
        try:
            changed = await self._running
        except CancelledError:
            return
        except Exception as error:
            _log.warn("cannot repair the listing of tasks: {error}", error=str(error))
        else:
            self._is_thorough = False
            if changed:
                _log.info("repaired the listing of tasks, {count} keys", count=changed)
        finally:
            self._running = None


def _record_of(prefix: str, kv: KeyValue) -> str:
    """Return the key of the record that a key lists."""
    project = kv.key.removeprefix(prefix).partition("/")[0]
    return f"{TASK_PREFIX}{project}/{kv.value.decode()}"


async def _put_listed(txn: AtomicTxn, tasks: Sequence[tuple[str, str]]) -> int:
    """List *tasks*, unless their records were deleted meanwhile."""
    records = {f"{TASK_PREFIX}{project}/{id}": (project, id) for project, id in tasks}
    stored = await txn.get_many([*records])
    changed = 0
    for record, task in records.items():
        if stored[record] is not None:
            for key in listing_keys(*task):
                txn.put(key, task[1].encode())
                changed += 1
    return changed
