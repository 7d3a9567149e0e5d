"""The operation that shows a task, for polling."""

from __future__ import annotations

from typing import Any

from stream.api.http.call import Call, Handler, StartedTask
from stream.api.resources.awaited_tasks import source_of
from stream.api.resources.views import Urls, task_view
from stream.definition.live import LiveDefinitions
from stream.task.abandoned import AbandonedTasks
from stream.task.store import TaskStore

__all__ = ["Tasks"]


class Tasks:
    """The operation that shows a task."""

    def __init__(
        self,
        *,
        store: TaskStore,
        abandoned: AbandonedTasks,
        live: LiveDefinitions,
        urls: Urls,
    ) -> None:
        self._store = store
        self._abandoned = abandoned
        self._live = live
        self._urls = urls

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"GetTask": self.get}

    async def get(self, call: Call) -> Any:
        """Return a task; one whose node has ended is shown as failed."""
        project = call.identity.info.project_id
        task = await self._store.get(project, call.parameters["taskId"])
        task = await self._abandoned.settle(task)
        if task.is_finished:
            # Another node may have run the task: the caller's next read must find its changes.
            source = source_of(task)
            if source is not None:
                await self._live.settle(source)
        return StartedTask(task, task_view(task, self._urls))
