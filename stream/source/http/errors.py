"""Errors of requests that are refused while they are read, before their route is known."""

from __future__ import annotations

from stream.errors import UserError
from stream.record.errors import BodyTooLarge
from stream.values.bytesize import ByteSize

__all__ = [
    "BodyTooLarge",
    "HeaderTooLarge",
    "MalformedRequest",
    "Overloaded",
    "RequestTimeout",
    "TooManyHeaders",
    "UnfinishedRequest",
    "UnknownExpectation",
]


class MalformedRequest(UserError):
    """The request isn't HTTP, or is ambiguous."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"malformed HTTP request: {reason}")


class Overloaded(UserError):
    """The memory limit of the connections is reached; nothing of the request was stored."""

    status = 503
    name = "overloaded"

    def __init__(self) -> None:
        super().__init__("the unanswered requests have too many bytes at the moment")


class RequestTimeout(UserError):
    """The request did not arrive in time."""

    status = 408
    name = "requestTimeout"

    def __init__(self) -> None:
        super().__init__("the request did not arrive in time, so nothing of it was stored")


class UnfinishedRequest(UserError):
    """The client closed its side of the connection in the middle of a request."""

    name = "unfinishedRequest"

    def __init__(self) -> None:
        super().__init__("the request ended before it was complete, so nothing of it was stored")


class UnknownExpectation(UserError):
    """The ``Expect`` header isn't ``100-continue``."""

    status = 417
    name = "expectationFailed"

    def __init__(self) -> None:
        super().__init__('the only supported expectation is "100-continue"')


class HeaderTooLarge(UserError):
    """The head of the request is larger than the limit."""

    status = 413
    name = "headerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f'request header size is over the maximum "{ByteSize(limit)}"')


class TooManyHeaders(UserError):
    """The request has more header fields than allowed."""

    status = 413
    name = "headerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request has more than {limit} headers")
