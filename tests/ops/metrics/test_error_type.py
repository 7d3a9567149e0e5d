"""Types of errors in metrics."""

from __future__ import annotations

import pytest
from twisted.internet import defer, error

from stream.errors import UserError
from stream.ops.metrics.error_type import error_type


class _Own(Exception):
    error_type = "storage_api_500"


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (None, ""),
        (defer.CancelledError(), "context_canceled"),
        (defer.TimeoutError(), "deadline_exceeded"),
        (TimeoutError(), "deadline_exceeded"),
        (error.TimeoutError(), "net_timeout"),
        (error.TCPTimedOutError(), "net_timeout"),
        (error.ConnectionRefusedError(), "net"),
        (error.ConnectionLost(), "net"),
        (error.DNSLookupError(), "net"),
        (UserError("x", name="sourceNotFound"), "sourceNotFound"),
        (_Own(), "storage_api_500"),
        (RuntimeError(), "other"),
    ],
)
def test_error_type(problem: BaseException | None, kind: str) -> None:
    """Each failure has its most specific type."""
    assert error_type(problem) == kind
