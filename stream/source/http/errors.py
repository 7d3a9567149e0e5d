"""Errors of requests that are refused while being read, before their route is known."""

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
    """Not HTTP, or an ambiguous request."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"malformed HTTP request: {reason}")


class Overloaded(UserError):
    """The connections' memory limit is reached; nothing of the request was stored."""

    status = 503
    name = "overloaded"

    def __init__(self) -> None:
        super().__init__("the requests that wait for an answer have too many bytes at the moment")


class RequestTimeout(UserError):
    """A request did not arrive in time."""

    status = 408
    name = "requestTimeout"

    def __init__(self) -> None:
        super().__init__("the request did not arrive in time, nothing of it was stored")


class UnfinishedRequest(UserError):
    """A client ended its side in the middle of a request."""

    name = "unfinishedRequest"

    def __init__(self) -> None:
        super().__init__("the request ended before it was complete, nothing of it was stored")


class UnknownExpectation(UserError):
    """An ``Expect`` header other than ``100-continue``."""

    status = 417
    name = "expectationFailed"

    def __init__(self) -> None:
        super().__init__('the only supported expectation is "100-continue"')


class HeaderTooLarge(UserError):
    """The head of a request is larger than the limit."""

    status = 413
    name = "headerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f'request header size is over the maximum "{ByteSize(limit)}"')


class TooManyHeaders(UserError):
    """More header fields than a request may have."""

    status = 413
    name = "headerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request has more than {limit} headers")
