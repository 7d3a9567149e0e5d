"""Tasks, as they are polled."""

from __future__ import annotations

from typing import Any

from stream.api.call import Call, Handler
from stream.api.views import Urls, task_view
from stream.task.store import TaskStore

__all__ = ["Tasks"]


class Tasks:
    def __init__(self, *, store: TaskStore, urls: Urls) -> None:
        self._store = store
        self._urls = urls

    def handlers(self) -> dict[str, Handler]:
        return {"GetTask": self.get}

    async def get(self, call: Call) -> Any:
        project = call.identity.info.project_id
        task = await self._store.get(project, call.parameters["taskId"])
        return task_view(task, self._urls)
