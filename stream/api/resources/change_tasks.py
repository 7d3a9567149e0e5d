"""Changes that are made in a background task, and what is told to the project about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from stream.api.http.call import Call, Identity
from stream.api.http.errors import as_user_error
from stream.api.resources.views import Urls, task_view
from stream.authority import ProjectAuthority, SourceChange
from stream.definition.change import Change
from stream.definition.key import SinkKey, SourceKey
from stream.definition.live import LiveDefinitions
from stream.definition.repository import Definitions
from stream.etcd import Lock, Session
from stream.storage.store.opening import DefinitionChanges
from stream.task.executor import TASK_SECONDS, TaskExecutor, TaskRun

__all__ = ["ChangeTasks", "SourceEvents", "sinks_lock"]

T = TypeVar("T")

PATIENCE_SECONDS = 5.0
"""How long a request waits for the task before it; most changes take a fraction of a second."""

ChangeBody = Callable[[Change, Definitions], Awaitable[T]]
Work = Callable[[TaskRun], Awaitable[object]]


async def sinks_lock(session: Session, source: SourceKey) -> Lock:
    """Held while a sink of *source* is made or changed, since that may make a table."""
    return await session.lock(f"api.source.sinks.{source}", timeout=TASK_SECONDS)


class ChangeTasks:
    """Starts a task for a call; its type is that of the operation."""

    def __init__(
        self,
        executor: TaskExecutor,
        changes: DefinitionChanges,
        live: LiveDefinitions,
        urls: Urls,
    ) -> None:
        self._executor = executor
        self._changes = changes
        self._live = live
        self._urls = urls

    async def apply(self, identity: Identity, key: SourceKey | SinkKey, body: ChangeBody[T]) -> T:
        """Make a change at once, for the caller and with the caller's token.

        :param key: of what is changed; the next read on this node finds it changed.
        """
        result = await self._changes.run(identity.by, body, token=identity.token.value)
        await self._live.settle(key.source_key if isinstance(key, SinkKey) else key)
        return result

    async def change(
        self, call: Call, key: SourceKey | SinkKey, result: str, body: ChangeBody[Any]
    ) -> dict[str, Any]:
        """Make a change in a task; the answer is the task as it starts.

        :param key: of what is changed: it is locked, and named in the outputs.
        :param result: the text of the task after success.
        """
        return await self.work(call, key, result, lambda run: self.apply(call.identity, key, body))

    async def work(
        self,
        call: Call,
        key: SourceKey | SinkKey,
        result: str,
        work: Work,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> dict[str, Any]:
        """Do any *work* in a task; the other parameters are those of `change`.

        :param patience: seconds to wait while another task has the object.
        """

        async def body(run: TaskRun) -> str:
            try:
                await work(run)
            except Exception as problem:
                told = as_user_error(problem)
                if told is None or told is problem:
                    raise
                raise told from problem
            run.outputs = self.outputs(key)
            return result

        project, _, object_id = str(key).partition("/")
        task = await self._executor.start(
            project_id=int(project),
            type=call.operation.task,
            object_id=object_id,
            object_key=str(key),
            body=body,
            patience=patience,
        )
        return task_view(task, self._urls)

    def outputs(self, key: SourceKey | SinkKey) -> dict[str, Any]:
        """Where to find what a task was about."""
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
    """Tells the project what became of a source.

    Events are sent on the side: they neither delay a task nor make it fail.
    """

    def __init__(self, reactor: Any, authority: ProjectAuthority) -> None:
        self._reactor = reactor
        self._authority = authority

    def around(self, call: Call, key: SourceKey, name: str, verb: str, work: Work) -> Work:
        """*work* followed by an event about its success or failure.

        :param name: of the source.
        :param verb: what is done to it: ``create``.
        """

        async def reported(run: TaskRun) -> None:
            started = self._reactor.seconds()
            problem: Exception | None = None
            try:
                await work(run)
            except Exception as error:
                problem = error
                raise
            finally:
                change = SourceChange(
                    key=key,
                    name=name,
                    verb=verb,
                    seconds=self._reactor.seconds() - started,
                    error=problem,
                )
                self._authority.report(call.identity.token, change)

        return reported
