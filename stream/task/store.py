"""Reads the records of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import attrs

from stream.definition.stored import read_stored
from stream.etcd import EtcdClient
from stream.task.entity import LOCK_PREFIX, TASK_PREFIX, Task
from stream.task.errors import TaskNotFound
from stream.task.listing import FORMER_LISTING_PREFIX, TaskListing
from stream.values.codec import decode

__all__ = ["TaskPage", "TaskStore"]

_PAGE = 200


@attrs.frozen
class TaskPage:
    """Some tasks of a branch, the newest first.

    :ivar total: number of tasks on all pages.
    :ivar last: place of the last task on the page; 0 if there is none.
    """

    tasks: tuple[Task, ...]
    total: int
    last: int


class TaskStore:
    """The records of tasks in etcd.

    :param client: etcd client, already started.

    :ivar listing: the order of the records, which must be started before `newest` is called.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self.listing = TaskListing(client)

    async def get(self, project_id: int, task_id: str) -> Task:
        """Return the task of this project. Raises `TaskNotFound` or `UnreadableRecord`."""
        stored = await self._client.get(f"{TASK_PREFIX}{project_id}/{task_id}")
        if stored is None:
            raise TaskNotFound(task_id)
        return read_stored(Task, stored)

    async def newest(
        self, project_id: int, branch_id: int, source_id: str, *, limit: int, before: int = 0
    ) -> TaskPage:
        """Return the newest tasks of a branch, or of its source *source_id* if that isn't empty.

        The cost grows with *limit*, not with the number of tasks; see Note [Order of tasks] in
        `stream.task.listing`. Records that can't be read are skipped.

        :param before: place where the previous page ended, before which the tasks must be.
        """
        page = await self.listing.newest(
            project_id, branch_id, source_id, limit=limit, before=before
        )
        stored, _ = await self._client.get_many(
            [f"{TASK_PREFIX}{project_id}/{task_id}" for task_id in page.ids]
        )
        tasks = []
        for record in stored.values():
            if record is None:
                continue  # deleted since the page was read
            try:
                tasks.append(decode(Task, record.value))
            except ValueError:
                continue  # written by a newer version of the service
        return TaskPage(tuple(tasks), page.total, page.last)

    async def is_running(self, object_key: str) -> bool:
        """Return whether a task is working on an object."""
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

    async def delete_former_listing(self) -> None:
        """Delete the keys by which earlier versions of this service list tasks.

        During an upgrade, nodes of such a version may write them again.
        """
        await self._client.delete_prefix(FORMER_LISTING_PREFIX)

    async def delete(self, key: str) -> None:
        """Delete the record of a task, given its key."""
        await self._client.delete(key)
