"""Requests that are refused while they are read, before anything is known of their route."""

from __future__ import annotations

from stream.errors import UserError
from stream.values.bytesize import ByteSize

__all__ = ["BodyTooLarge", "HeaderTooLarge", "MalformedRequest", "UnknownExpectation"]


class MalformedRequest(UserError):
    """Not HTTP, or HTTP that two servers could read in two ways."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"malformed HTTP request: {reason}")


class UnknownExpectation(UserError):
    """An ``Expect`` header that asks for something else than ``100-continue``."""

    status = 417
    name = "expectationFailed"

    def __init__(self) -> None:
        super().__init__('the only supported expectation is "100-continue"')


class HeaderTooLarge(UserError):
    status = 413
    name = "headerTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f'request header size is over the maximum "{ByteSize(limit)}"')


class BodyTooLarge(UserError):
    status = 413
    name = "bodyTooLarge"

    def __init__(self, limit: int) -> None:
        super().__init__(f'request body size is over the maximum "{ByteSize(limit)}"')
