"""Reading the records of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import attrs
from twisted.internet.defer import Deferred, gatherResults

from stream.definition.stored import read_stored
from stream.etcd import EtcdClient, RangeResult
from stream.etcd.request import require_prefix
from stream.task.entity import LOCK_PREFIX, TASK_PREFIX, Task
from stream.task.errors import TaskNotFound
from stream.values.codec import decode

__all__ = ["TaskPage", "TaskStore"]

_PAGE = 200


@attrs.frozen
class TaskPage:
    """Some tasks of a branch, the newest first.

    :ivar total: how many there are, on all pages.
    :ivar last: the place that the page ends with; 0 if it is empty.
    """

    tasks: tuple[Task, ...]
    total: int
    last: int


class TaskStore:
    """The records of tasks in etcd.

    :param client: started.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def get(self, project_id: int, task_id: str) -> Task:
        """Return the task of this project. Raises `TaskNotFound` or `UnreadableRecord`."""
        stored = await self._client.get(f"{TASK_PREFIX}{project_id}/{task_id}")
        if stored is None:
            raise TaskNotFound(task_id)
        return read_stored(Task, stored)

    async def newest(
        self, project_id: int, types: Iterable[str], within: str, *, limit: int, before: int = 0
    ) -> TaskPage:
        """The newest tasks of *types* about what is *within* a branch or a source.

        Ids begin with the type and end with the time, so etcd is asked for the newest of each type.
        Only the chosen ones are sent whole: what this process holds is bounded by *limit*. etcd
        itself reads all records of the branch, since it sorts them by their creation. Records that
        can't be read are left out.

        :param within: the number of a branch, or of a branch with the id of a source.
        :param before: only tasks before this place, the end of the page before.
        """
        found: list[RangeResult] = await gatherResults(
            [
                Deferred.fromCoroutine(
                    self._newest_keys(f"{TASK_PREFIX}{project_id}/{type}/{within}/", limit, before)
                )
                for type in types
            ],
            consumeErrors=True,
        )
        kvs = [kv for each in found for kv in each.kvs]
        kvs.sort(key=lambda kv: kv.create_revision, reverse=True)
        del kvs[limit:]
        stored, _ = await self._client.get_many([kv.key for kv in kvs])
        tasks = []
        for record in stored.values():
            if record is None:
                continue  # deleted meanwhile
            try:
                tasks.append(decode(Task, record.value))
            except ValueError:
                continue  # written by a newer version of the service
        last = kvs[-1].create_revision if kvs else 0
        return TaskPage(tuple(tasks), sum(each.count for each in found), last)

    async def _newest_keys(self, prefix: str, limit: int, before: int) -> RangeResult:
        """The keys that were made last. A record that is written again keeps its place."""
        # 0 would be no bound.
        options = {"max_create_revision": max(1, before - 1)} if before else {}
        return await self._client.read(
            require_prefix(prefix),
            limit=limit,
            sort_order="DESCEND",
            sort_target="CREATE",
            keys_only=True,
            **options,
        )

    async def is_running(self, object_key: str) -> bool:
        """Return whether a task works on an object."""
        return await self._client.get(f"{LOCK_PREFIX}{object_key}") is not None

    async def all(self) -> AsyncIterator[Task]:
        """Iterate over the tasks of all projects, read page by page."""
        after = ""
        while True:
            page = await self._client.range(TASK_PREFIX, limit=_PAGE, start_after=after)
            for stored in page.kvs:
                after = stored.key
                try:
                    yield decode(Task, stored.value)
                except ValueError:
                    continue  # written by a newer version of the service
            if not page.more:
                return

    async def delete(self, task: Task) -> None:
        """Delete the record of a task."""
        await self._client.delete(task.key)
