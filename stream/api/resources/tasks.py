"""The operations that show tasks, for polling and as a list."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from stream.api.http.call import Call, Handler, StartedTask
from stream.api.resources.awaited_tasks import Arrivals
from stream.api.resources.views import Urls, listed_task_view, page_view, task_view
from stream.task.abandoned import AbandonedTasks
from stream.task.store import TaskStore

__all__ = ["Tasks"]


class Tasks:
    """The operations that show tasks."""

    def __init__(
        self,
        *,
        store: TaskStore,
        abandoned: AbandonedTasks,
        arrivals: Arrivals,
        urls: Urls,
    ) -> None:
        self._store = store
        self._abandoned = abandoned
        self._arrivals = arrivals
        self._urls = urls

    def handlers(self) -> dict[str, Handler]:
        """The operations of this resource, by id."""
        return {"GetTask": self.get, "ListTasks": self.list}

    async def get(self, call: Call) -> Any:
        """Return a task; one whose node has ended is shown as failed."""
        project = call.identity.info.project_id
        task = await self._store.get(project, call.parameters["taskId"])
        task = await self._abandoned.settle(task)
        if task.is_finished:
            await self._arrivals.of(task)
        return StartedTask(task, task_view(task, self._urls))

    async def list(self, call: Call) -> Any:
        """Return the newest tasks of a branch or of one of its sources."""
        parameters, branch = call.parameters, call.branch
        source, after, limit = (parameters[name] for name in ("sourceId", "afterId", "limit"))
        page = await self._store.newest(
            branch.project_id, branch.branch_id, source, limit=limit, before=after
        )
        settled = await gatherResults(
            [Deferred.fromCoroutine(self._abandoned.settle(task)) for task in page.tasks],
            consumeErrors=True,
        )
        return {
            "projectId": branch.project_id,
            "branchId": branch.branch_id,
            "page": page_view(
                limit, page.total, str(after) if after else "", str(page.last) if page.last else ""
            ),
            "tasks": [listed_task_view(task, self._urls) for task in settled],
        }
