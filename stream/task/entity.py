"""The stored form of tasks. The order of attributes is the order of the JSON members."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from stream.errors import NestedError, UserError, sentence
from stream.values.codec import Record, field
from stream.values.utctime import NO_TIME, format_time, to_nanoseconds

__all__ = ["LOCK_PREFIX", "TASK_PREFIX", "Task", "TaskFailure", "finished", "task_id"]

TASK_PREFIX = "task/"
LOCK_PREFIX = "runtime/lock/task/"

_UNKNOWN_NAME = "unknownError"
_UNKNOWN_TEXT = "Unknown error"


@attrs.frozen
class TaskFailure(Record):
    """The message for the user about a failure.

    :ivar message: the message, a sentence.
    :ivar exception_id: ID with which the failure was logged.
    :ivar status: HTTP status for a caller that waits for the task; 0 if unknown.
    """

    name: str = _UNKNOWN_NAME
    message: str = _UNKNOWN_TEXT
    exception_id: str = ""
    status: int = field(default=0, omit_empty=True)

    @property
    def is_known(self) -> bool:
        """Return whether the message explains the failure; after an internal error, it doesn't."""
        return self.name != _UNKNOWN_NAME

    @classmethod
    def of(cls, problem: BaseException, exception_id: str) -> TaskFailure:
        """Return the message for an error; only a `UserError` has a message for the user."""
        if not isinstance(problem, UserError):
            return cls(_UNKNOWN_NAME, _UNKNOWN_TEXT, exception_id)
        message = (
            problem.sentences() if isinstance(problem, NestedError) else sentence(problem.message)
        )
        return cls(problem.name, message, problem.exception_id or exception_id, problem.status)


@attrs.frozen(kw_only=True)
class Task(Record):
    """A task with its state and its result.

    :ivar task_id: ID that is unique in the project: type, object, time and a random ending.
    :ivar node: ID of the node that runs the task.
    :ivar lock: key of the lock that the task holds while it runs.
    :ivar result: result of a successful task, a sentence.
    :ivar error: error of a failed task, for operators.
    :ivar user_error: error of a failed task, for the user.
    :ivar outputs: outputs of the task, by name.
    :ivar duration: duration in nanoseconds; set when the task has ended.
    """

    project_id: int
    task_id: str
    type: str = ""
    created_at: datetime = NO_TIME
    finished_at: datetime | None = None
    node: str = ""
    lock: str = ""
    result: str = field(default="", omit_empty=True)
    error: str = field(default="", omit_empty=True)
    user_error: TaskFailure | None = None
    outputs: dict[str, Any] | None = None
    duration: int | None = None

    @property
    def key(self) -> str:
        """The etcd key of the record."""
        return f"{TASK_PREFIX}{self.project_id}/{self.task_id}"

    @property
    def is_finished(self) -> bool:
        """Return whether the task has succeeded or failed."""
        return self.finished_at is not None

    @property
    def is_successful(self) -> bool:
        """Return whether the task has ended without an error."""
        return self.is_finished and self.user_error is None and not self.error

    @property
    def status(self) -> str:
        """``processing``, ``success`` or ``error``."""
        if not self.is_finished:
            return "processing"
        return "success" if self.is_successful else "error"


def task_id(type: str, object_id: str, created_at: datetime, ending: str) -> str:
    """Return the ID of a task.

    :param object_id: branch, source and sink, joined by slashes.
    :param ending: random text that distinguishes tasks of the same millisecond.
    """
    return f"{type}/{object_id}/{format_time(created_at)}_{ending}"


def finished(
    task: Task,
    at: datetime,
    *,
    result: str = "",
    error: str = "",
    failure: TaskFailure | None = None,
    outputs: dict[str, Any] | None = None,
) -> Task:
    """Return *task* as it is stored after it has ended."""
    began = at if task.created_at == NO_TIME else task.created_at
    duration = to_nanoseconds(at) - to_nanoseconds(began)
    return attrs.evolve(
        task,
        finished_at=at,
        result=result,
        error=error,
        user_error=failure,
        outputs=None if outputs is None else dict(sorted(outputs.items())),
        duration=max(duration, 0),
    )
