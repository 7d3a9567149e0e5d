"""Keeps the order of tasks in memory, to find the newest tasks of a branch or a source.

Note [Order of tasks]: the keys of records begin with type and object, as in the original service,
so no range of keys contains just the newest tasks of a branch. etcd can sort by creation, but then
it reads all records of the range, even with a limit. Additional keys in etcd would be an index that
the original service neither writes nor deletes. So each API node watches the keys of all tasks,
whichever node or service writes them, and keeps their order in memory, which takes a few hundred
bytes per task. Some records of the original service belong to no branch; they are never listed.

Note [Late watch]: a watch is a few milliseconds late, but a caller must find each task that it
knows of. So before a page is returned, etcd is asked for the number of the project's tasks, and the
page waits until that many are known here or the memory is newer than the answer. This can miss a
new task only if an old task is deleted at the same time; the cleanup, which deletes tasks, runs
once an hour.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort

import attrs
from twisted.application.service import Service
from twisted.internet.task import deferLater
from twisted.logger import Logger

from stream.etcd import Batch, EtcdClient, KeyValue, Mirror
from stream.task.entity import TASK_PREFIX
from stream.values.backoff import Backoff
from stream.values.utctime import parse_time, to_nanoseconds

__all__ = ["FORMER_LISTING_PREFIX", "ListedPage", "TaskListing", "place_of"]

_log = Logger(namespace="stream.task.listing")

FORMER_LISTING_PREFIX = "runtime/order/task/"
"""Prefix of the keys by which an earlier version of this service found the newest tasks."""

_IN_A_MILLISECOND = 10**6
_TIME_LENGTH = len("2000-01-01T00:00:00.000Z")
_FIRST_DELAY = 0.002
_SETTLE_SECONDS = 2.0
"""Maximum seconds to wait for a change that hasn't arrived."""

Order = list[tuple[int, str]]
"""Places and IDs of tasks, the oldest first."""


def place_of(task_id: str) -> int:
    """Return the place of a task in the order; 0 if its ID contains no branch or no time."""
    _, *where = task_id.split("/")
    if len(where) < 2:
        return 0
    try:
        created = to_nanoseconds(parse_time(where[-1][:_TIME_LENGTH])) // 10**6
    except ValueError:
        return 0
    if created < 0:
        return 0
    return created * _IN_A_MILLISECOND + zlib.crc32(task_id.encode()) % _IN_A_MILLISECOND


@attrs.frozen
class ListedPage:
    """Some tasks of a branch or a source, the newest first.

    :ivar ids: IDs of the tasks.
    :ivar total: number of tasks on all pages.
    :ivar last: place of the last task on the page; 0 if there is none.
    """

    ids: tuple[str, ...]
    total: int
    last: int


class TaskListing(Service):
    """The order of all tasks; see Note [Order of tasks].

    The Deferred returned by startService fires when all keys are known.

    :param client: etcd client, already started.
    """

    name = "task.listing"

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._orders: dict[tuple[str, ...], Order] = {}
        self._counts: dict[str, int] = {}
        self._keys: Mirror[int] = Mirror(
            client, TASK_PREFIX, _place_of_key, on_change=self._changed, keys_only=True
        )

    async def startService(self) -> None:
        super().startService()
        await self._client.delete_prefix(FORMER_LISTING_PREFIX)
        await self._keys.startService()

    async def stopService(self) -> None:
        super().stopService()
        await self._keys.stopService()

    def count(self, project_id: int) -> int:
        """Return the number of tasks of a project, which may be a few milliseconds late."""
        return self._counts.get(str(project_id), 0)

    async def newest(
        self, project_id: int, branch_id: int, source_id: str, *, limit: int, before: int
    ) -> ListedPage:
        """Return the newest tasks of a branch, or of its source *source_id* if that isn't empty.

        :param before: place where the previous page ended, before which the tasks must be; 0 for
            all tasks.
        """
        await self._settle(str(project_id))
        where = (str(project_id), str(branch_id), *((source_id,) if source_id else ()))
        order = self._orders.get(where, [])
        end = bisect_left(order, (before, "")) if before else len(order)
        page = order[max(0, end - limit) : end]
        page.reverse()
        return ListedPage(
            tuple(task_id for _, task_id in page), len(order), page[-1][0] if page else 0
        )

    async def _settle(self, project: str) -> None:
        """Wait until all tasks of a project are known; see Note [Late watch]."""
        reactor = self._client.reactor
        deadline = reactor.seconds() + _SETTLE_SECONDS
        backoff = Backoff(_FIRST_DELAY, _SETTLE_SECONDS)
        prefix = f"{TASK_PREFIX}{project}/"
        while True:
            found = await self._client.read(prefix, count_only=True)
            is_newer = self._keys.revision >= found.revision
            if is_newer or found.count == self._counts.get(project, 0):
                return
            if reactor.seconds() >= deadline:
                _log.warn("updates for {prefix} from etcd are delayed", prefix=prefix)
                return
            await deferLater(reactor, backoff.next())

    def _changed(self, batch: Batch[int]) -> None:
        if batch.reset:
            self._orders.clear()
            self._counts.clear()
        for change in batch.changes:
            is_new = change.value is not None
            if is_new and change.previous is not None and not batch.reset:
                continue  # the record was written again
            place = change.value if change.value is not None else change.previous
            assert place is not None
            project, _, task_id = change.key.removeprefix(TASK_PREFIX).partition("/")
            self._count(project, 1 if is_new else -1)
            for where in _places(project, task_id) if place else ():
                if batch.reset:
                    self._orders.setdefault(where, []).append((place, task_id))
                elif is_new:
                    insort(self._orders.setdefault(where, []), (place, task_id))
                else:
                    self._remove(where, (place, task_id))
        if batch.reset:
            for order in self._orders.values():
                order.sort()

    def _count(self, project: str, difference: int) -> None:
        count = self._counts.get(project, 0) + difference
        if count:
            self._counts[project] = count
        else:
            self._counts.pop(project, None)

    def _remove(self, where: tuple[str, ...], task: tuple[int, str]) -> None:
        order = self._orders[where]
        del order[bisect_left(order, task)]
        if not order:
            del self._orders[where]


def _place_of_key(stored: KeyValue) -> int:
    return place_of(stored.key.removeprefix(TASK_PREFIX).partition("/")[2])


def _places(project: str, task_id: str) -> tuple[tuple[str, ...], ...]:
    """Return the lists that a task belongs to: its branch and, if it has one, its source."""
    _, branch, *rest = task_id.split("/")
    of_branch = (project, branch)
    return (of_branch,) if len(rest) == 1 else (of_branch, (project, branch, rest[0]))
