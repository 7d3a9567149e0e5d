"""Changes in background tasks, and the events about them that projects get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import attrs

from stream.api.http.call import Call, Identity, StartedTask
from stream.api.http.errors import as_user_error
from stream.api.resources.views import Urls, task_view
from stream.authority import ProjectAuthority, SourceChange
from stream.definition.change.making import Author, DefinitionChange, DefinitionChanges
from stream.definition.key import SinkKey, SourceKey
from stream.storage.store.prepared import PreparedFile
from stream.task.executor import TaskExecutor, TaskRun

__all__ = ["ChangeTasks", "SourceEvent", "SourceEvents"]

T = TypeVar("T")

Report = Callable[[dict[str, Any]], Awaitable[None]]
"""Reports what a task has done so far."""

PATIENCE_SECONDS = 5.0
"""How long a request waits for the previous task; most changes take a fraction of a second."""


@attrs.frozen
class SourceEvent:
    """The event about a finished change of a source, for the project's event log.

    :ivar verb: the kind of change, for example ``create``.
    :ivar name: name of the source.
    """

    verb: str
    name: str


class ChangeTasks:
    """Makes changes of definitions for a call, directly or in a task."""

    def __init__(
        self,
        executor: TaskExecutor,
        changes: DefinitionChanges[PreparedFile],
        events: SourceEvents,
        urls: Urls,
    ) -> None:
        self._executor = executor
        self._changes = changes
        self._events = events
        self._urls = urls

    async def apply(self, call: Call, change: DefinitionChange[T]) -> T:
        """Make *change* now, for the caller and with the caller's token."""
        return await self._changes.make(change, _author(call.identity))

    async def start(
        self,
        call: Call,
        change: DefinitionChange[Any],
        result: str,
        *,
        event: SourceEvent | None = None,
        patience: float = PATIENCE_SECONDS,
        absent: str | None = None,
    ) -> StartedTask:
        """Make *change* in a task of the operation's type.

        The changed object is locked until the task ends, and the outputs of the task name it.

        :param result: result text of the task if it succeeds.
        :param event: sent to the project when the task ends.
        :param patience: seconds to wait while another task has the object locked.
        :param absent: see `TaskExecutor.start`.
        :returns: the task as it starts.
        """
        key = change.key

        async def body(run: TaskRun) -> str:
            def written() -> None:
                run.outputs = self._outputs(key)

            try:
                with self._events.about(call.identity, change, event):
                    await self._changes.make(change, _author(call.identity), written)
            except Exception as problem:
                shown = as_user_error(problem)
                if shown is None or shown is problem:
                    raise
                raise shown from problem
            return result

        project, _, object_id = str(key).partition("/")
        task = await self._executor.start(
            project_id=int(project),
            type=call.operation.task,
            object_id=object_id,
            object_key=str(key),
            body=body,
            patience=patience,
            absent=absent,
        )
        return StartedTask(task, task_view(task, self._urls))

    async def start_other(
        self, call: Call, key: SourceKey | SinkKey, work: Callable[[Report], Awaitable[str]]
    ) -> StartedTask:
        """Start work that doesn't change a definition, in a task as in `start`.

        :param work: gets a function that reports outputs while the work runs; returns the result
            text of the task.
        """

        async def body(run: TaskRun) -> str:
            where = self._outputs(key)
            run.outputs = where

            async def report(outputs: dict[str, Any]) -> None:
                await run.report(where | outputs)

            try:
                return await work(report)
            except Exception as problem:
                shown = as_user_error(problem)
                if shown is None or shown is problem:
                    raise
                raise shown from problem

        project, _, object_id = str(key).partition("/")
        task = await self._executor.start(
            project_id=int(project),
            type=call.operation.task,
            object_id=object_id,
            object_key=str(key),
            body=body,
            patience=PATIENCE_SECONDS,
        )
        return StartedTask(task, task_view(task, self._urls))

    def _outputs(self, key: SourceKey | SinkKey) -> dict[str, Any]:
        """Return the outputs that name the object of a task."""
        sink_id = key.sink_id if isinstance(key, SinkKey) else ""
        outputs: dict[str, Any] = {
            "url": self._urls.entity(key.branch_id, key.source_id, sink_id),
            "projectId": key.project_id,
            "branchId": key.branch_id,
            "sourceId": key.source_id,
        }
        if sink_id:
            outputs["sinkId"] = sink_id
        return outputs


class SourceEvents:
    """Sends the project an event about a source.

    Sending is independent of the task and can neither delay it nor make it fail.
    """

    def __init__(self, reactor: Any, authority: ProjectAuthority) -> None:
        self._reactor = reactor
        self._authority = authority

    @contextmanager
    def about(
        self, identity: Identity, change: DefinitionChange[Any], event: SourceEvent | None
    ) -> Iterator[None]:
        """Send *event*, if any, at the end of the ``with`` block, which makes *change*."""
        if event is None:
            yield
            return
        started = self._reactor.seconds()
        problem: Exception | None = None
        try:
            yield
        except Exception as error:
            problem = error
            raise
        finally:
            ended = SourceChange(
                key=change.source_key,
                name=event.name,
                verb=event.verb,
                seconds=self._reactor.seconds() - started,
                error=problem,
            )
            self._authority.report(identity.token, ended)


def _author(identity: Identity) -> Author:
    return Author(identity.by, identity.token.value)
