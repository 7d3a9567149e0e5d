"""Errors that prevent a task from starting or from succeeding."""

from __future__ import annotations

from stream.errors import UserError

__all__ = ["ObjectExists", "TaskAlreadyRunning", "TaskNotFound", "TaskTimeout", "TooManyTasks"]


class TaskAlreadyRunning(Exception):
    """Another task holds the lock of the object.

    :ivar object_key: key of the object.
    """

    def __init__(self, object_key: str) -> None:
        super().__init__(f'task already running "{object_key}"')
        self.object_key = object_key


class ObjectExists(Exception):
    """The object that a task would create already exists.

    :ivar object_key: key of the object.
    """

    def __init__(self, object_key: str) -> None:
        super().__init__(f'there is already a "{object_key}"')
        self.object_key = object_key


class TaskNotFound(UserError):
    """There is no such task in the project."""

    status = 404
    name = "taskNotFound"

    def __init__(self, task_id: str) -> None:
        super().__init__(f'task "{task_id}" not found in the project')


class TaskTimeout(Exception):
    """The task exceeded its time limit."""

    def __init__(self) -> None:
        super().__init__("task timeout exceeded")


class TooManyTasks(UserError):
    """The node is busy or stopping; the call may be retried later."""

    status = 503
    name = "serviceUnavailable"
