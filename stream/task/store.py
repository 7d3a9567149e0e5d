"""Reading the records of tasks."""

from __future__ import annotations

from collections.abc import AsyncIterator

from stream.definition.stored import read_stored
from stream.etcd import EtcdClient
from stream.task.entity import LOCK_PREFIX, TASK_PREFIX, Task
from stream.task.errors import TaskNotFound
from stream.values.codec import decode

__all__ = ["TaskStore"]

_PAGE = 200


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
