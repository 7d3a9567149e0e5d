"""The mapping from exceptions to error answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import orjson
from twisted.internet.defer import FirstError, TimeoutError

from stream.errors import NestedError, UserError, explained, sentence
from stream.etcd import AtomicConflict, EtcdError, EtcdUnavailable, TxnTooLarge
from stream.ops.logging.ids import exception_id
from stream.task.entity import TaskFailure
from stream.task.errors import TaskAlreadyRunning

__all__ = ["ErrorAnswer", "as_user_error", "error_answer", "is_our_fault", "task_error"]

_PREFIX = "stream.api."
_EXCEPTION_PREFIX = "keboola-stream-api"
_SUPPORT = "Please contact our support support@keboola.com"
_RETRY_AFTER_SECONDS = 1


@attrs.frozen
class ErrorAnswer:
    """An error answer of the API.

    :ivar name: name of the error with its prefix.
    :ivar retry_after: seconds until a retry may succeed; 0 if a retry won't help.
    :ivar explanation: members that explain the error further; see `stream.errors.explained`.
    :ivar doc_url: the page about the operation; shown only with an explanation.
    """

    status: int
    name: str
    message: str
    exception_id: str | None = None
    retry_after: int = 0
    explanation: Mapping[str, Any] = attrs.field(factory=dict)
    doc_url: str = ""

    def plain(self) -> dict[str, Any]:
        """The members of the body."""
        body: dict[str, Any] = {
            "statusCode": self.status,
            "error": self.name,
            "message": self.message,
        }
        if self.exception_id is not None:
            body["exceptionId"] = self.exception_id
        if self.explanation:
            body |= self.explanation
            if self.doc_url:
                body["docUrl"] = self.doc_url
        return body

    def body(self) -> bytes:
        """The body of the answer: JSON, indented."""
        return orjson.dumps(self.plain(), option=orjson.OPT_INDENT_2) + b"\n"


def _unavailable(what: str) -> UserError:
    return UserError(
        f"{what} can't be reached at the moment, please try again later",
        status=503,
        name="serviceUnavailable",
    )


_USER_ERRORS: tuple[tuple[type[BaseException], UserError], ...] = (
    (EtcdUnavailable, _unavailable("the database of the service")),
    (
        AtomicConflict,
        UserError(
            "too many clients are changing the definition at the same time, please try again later",
            status=503,
            name="serviceUnavailable",
        ),
    ),
    (
        TxnTooLarge,
        UserError(
            "the change affects too many sinks at once, please first change some of them one by "
            "one",
            status=409,
            name="changeTooLarge",
        ),
    ),
    (
        TaskAlreadyRunning,
        UserError(
            "another task is still working on the same object, please try again when it has "
            "finished",
            status=409,
            name="taskAlreadyRunning",
        ),
    ),
    (TimeoutError, UserError("the request took too long", status=408, name="requestTimeout")),
)
"""Messages for failures that are caused neither by the user nor by a bug."""

_INTERNAL = (EtcdError,)
"""Expected failures that users can do nothing about."""


def as_user_error(problem: BaseException) -> UserError | None:
    """Return the error that the user gets for *problem*; ``None`` if it is a bug in the service."""
    if isinstance(problem, UserError):
        return _unavailable(problem.unreachable) if problem.unreachable else problem
    for kind, user_error in _USER_ERRORS:
        if isinstance(problem, kind):
            return user_error
    return None


def is_our_fault(problem: BaseException) -> bool:
    """Return whether the failure is logged with its traceback."""
    problem = _unwrapped(problem)
    return as_user_error(problem) is None


def _unwrapped(problem: BaseException) -> BaseException:
    """Return the first failure if *problem* is that of several concurrent operations."""
    if isinstance(problem, FirstError) and problem.subFailure.value is not None:
        return problem.subFailure.value
    return problem


def _generic(logged_as: str) -> str:
    """Return the message for a bug in the service: it has an exception id and no details."""
    return f"Application error. {_SUPPORT} with exception id ({logged_as}) attached."


def task_error(failure: TaskFailure) -> UserError:
    """Return the error of a task for a caller that has waited for it.

    A failure that the user didn't cause gets a generic message; its details are logged with the
    task.
    """
    if failure.is_known:
        return UserError(
            failure.message,
            status=failure.status or 500,
            name=failure.name,
            exception_id=failure.exception_id,
        )
    return UserError(
        _generic(failure.exception_id),
        status=500,
        name="panicError",
        exception_id=failure.exception_id,
    )


def error_answer(problem: BaseException, request_id: str, *, doc_url: str = "") -> ErrorAnswer:
    """Return the error answer for *problem*.

    :param doc_url: the page about the operation that failed.
    """
    problem = _unwrapped(problem)
    user_error = as_user_error(problem)
    if user_error is None:
        logged_as = exception_id(_EXCEPTION_PREFIX, request_id)
        return ErrorAnswer(
            500,
            _PREFIX + ("internalError" if isinstance(problem, _INTERNAL) else "panicError"),
            _generic(logged_as),
            logged_as,
        )
    message = (
        user_error.sentences()
        if isinstance(user_error, NestedError)
        else sentence(user_error.message)
    )
    shown_id = user_error.exception_id
    if shown_id is None and user_error.status >= 500:
        shown_id = exception_id(_EXCEPTION_PREFIX, request_id)
    return ErrorAnswer(
        user_error.status,
        user_error.name if "." in user_error.name else _PREFIX + user_error.name,
        message,
        shown_id,
        _RETRY_AFTER_SECONDS if user_error.status in (429, 503) else 0,
        explained(user_error, _PREFIX),
        doc_url,
    )
