"""The errors of the client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "BufferFull",
    "ClientError",
    "DeliveryFailed",
    "ServiceError",
    "TaskFailed",
    "Unreachable",
    "service_error",
]

_LONGEST_TEXT = 500


class ClientError(Exception):
    """The base of all errors of the client. The message says what is wrong and what to do."""


class Unreachable(ClientError):
    """There was no answer, because the connection failed or timed out."""


class ServiceError(ClientError):
    """The service answered with an error.

    :ivar status: the HTTP status.
    :ivar name: the machine-readable name, such as ``stream.api.sourceNotFound``; empty if the
        answer has none.
    :ivar message: the message of the service.
    :ivar explanations: further messages: details, hints, and each fault.
    :ivar retry_after: seconds after which the service asks the client to retry, if it does.
    """

    def __init__(
        self,
        status: int,
        name: str,
        message: str,
        explanations: Sequence[str] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__("\n".join((message, *explanations)))
        self.status = status
        self.name = name
        self.message = message
        self.explanations = tuple(explanations)
        self.retry_after = retry_after


class TaskFailed(ClientError):
    """A task ended with an error.

    :ivar task_id: id of the task.
    """

    def __init__(self, task_id: str, message: str) -> None:
        super().__init__(message)
        self.task_id = task_id


class BufferFull(ClientError):
    """The producer's buffer is full; the record was not accepted."""


class DeliveryFailed(ClientError):
    """Records can't be sent, and a retry would not help: for example, the URL is wrong."""


def service_error(status: int, document: Any, retry_after: float | None = None) -> ServiceError:
    """Return the error for an answer whose body is *document*: a JSON value, or text.

    The error has a message whatever the body is.
    """
    if not isinstance(document, Mapping):
        text = str(document or "").strip()
        if not text or text[:1] == "<":
            text = "The response doesn't come from a Stream service; check the URL."
        return ServiceError(
            status, "", f"HTTP status {status}. {text[:_LONGEST_TEXT]}", (), retry_after
        )
    message = str(document.get("message") or f"HTTP status {status}.")
    explanations = [str(document[name]) for name in ("detail", "hint") if document.get(name)]
    faults = document.get("errors")
    for fault in faults if isinstance(faults, list) else ():
        if isinstance(fault, Mapping):
            place = f"{fault['param']}: " if fault.get("param") else ""
            detail = f" {fault['detail']}" if fault.get("detail") else ""
            text = f"{place}{fault.get('message', '')}{detail}"
            if str(fault.get("message", "")) not in message or detail:
                explanations.append(text)
    param = document.get("param")
    if param and str(param) not in message:
        explanations.insert(0, f"The parameter is {param}.")
    if document.get("exceptionId"):
        explanations.append(f"See the log of the service for details: {document['exceptionId']}")
    return ServiceError(status, str(document.get("error", "")), message, explanations, retry_after)
