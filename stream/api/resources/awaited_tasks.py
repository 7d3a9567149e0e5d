"""The answer to a caller that waits for a task: the changed object or the error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson

from stream.api.http.call import Answer, Call, Handler, StartedTask, json_answer, json_body
from stream.api.http.errors import task_error
from stream.api.resources.views import Urls, task_view
from stream.definition.key import SourceKey
from stream.definition.live import LiveDefinitions
from stream.task.ends import TaskEnds
from stream.task.entity import LOCK_PREFIX, Task

__all__ = ["Arrivals", "AwaitedTasks", "source_of"]


def source_of(task: Task) -> SourceKey | None:
    """Return the source that the task is about, alone or with one of its sinks.

    ``None`` if the task doesn't name the source, because another service or an older version
    started it.
    """
    match task.lock.removeprefix(LOCK_PREFIX).split("/"):
        case [project, branch, source, *_] if project.isdecimal() and branch.isdecimal():
            return SourceKey(int(project), int(branch), source)
    return None


class Arrivals:
    """Waits until the changes of finished tasks are in this node's memory.

    The caller's next read must find them.

    :param node_id: ID of this node. Its own tasks have already waited before they ended, but not
        without limit; see Note [Late changes] of `stream.definition.live`.
    """

    def __init__(self, live: LiveDefinitions, node_id: str) -> None:
        self._live = live
        self._node_id = node_id

    async def of(self, task: Task) -> None:
        """Wait for the changes of a finished task."""
        source = source_of(task)
        if source is not None and (task.node != self._node_id or self._live.is_late):
            await self._live.settle(source)


class AwaitedTasks:
    """Answers callers that wait for the end of a task.

    :param handlers: handlers of all operations, by id; used to show the changed object.
    """

    def __init__(
        self,
        *,
        ends: TaskEnds,
        arrivals: Arrivals,
        urls: Urls,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._ends = ends
        self._arrivals = arrivals
        self._urls = urls
        self._handlers = handlers

    async def answer(self, call: Call, started: StartedTask) -> Answer | None:
        """Wait as long as *call* requests; return ``None`` if it can't wait.

        Raises UserError: the error of the task.
        """
        if not self._ends.has_room(started.task.project_id):
            return None
        task = await self._ends.wait(started.task, call.wait)
        return self._with_preference(call, await self._answer(call, task))

    async def _answer(self, call: Call, task: Task) -> Answer:
        outcome = call.operation.outcome
        if task.is_finished:
            await self._arrivals.of(task)
        if outcome is None or not task.is_finished:
            return self._shown(call, task_view(task, self._urls), call.operation.status)
        if task.user_error is not None:
            raise task_error(task.user_error)
        if not outcome.shows:
            return self._shown(call, task_view(task, self._urls), outcome.status)
        made = {
            name: value
            for name, value in (task.outputs or {}).items()
            if name in ("sourceId", "sinkId")
        }
        shown = attrs.evolve(call, parameters=call.parameters | made)
        answer = self._shown(call, await self._handlers[outcome.shows](shown), outcome.status)
        if outcome.status != 201:
            return answer
        return attrs.evolve(answer, headers=(("Location", (task.outputs or {})["url"]),))

    def _shown(self, call: Call, result: Any, status: int) -> Answer:
        """Return the *result* of a handler as JSON with *status*."""
        if call.unknown:
            plain = orjson.loads(result.body) if isinstance(result, Answer) else result
            result = plain | call.warnings
        body = result.body if isinstance(result, Answer) else json_body(result)
        return json_answer(body, status)

    def _with_preference(self, call: Call, answer: Answer) -> Answer:
        if not call.preference:
            return answer
        applied = ("Preference-Applied", call.preference)
        return attrs.evolve(answer, headers=(*answer.headers, applied))
