"""Deadlines whose errors say what took too long and what the limit was."""

from __future__ import annotations

from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.python.failure import Failure

__all__ = ["within"]

T = TypeVar("T")


def within(deferred: Deferred[T], seconds: float, reactor: Any, what: str) -> Deferred[T]:
    """Cancel *deferred* after *seconds*; it then fails with Twisted's ``TimeoutError``.

    The error of a plain ``addTimeout`` is ``(10.0, 'Deferred')``. This one is ``… took longer than
    10 s``.

    :param what: subject of that sentence, for example ``the upload of a slice``.
    """

    def timed_out(result: T | Failure, timeout: float) -> T | Failure:
        if isinstance(result, Failure):
            result.trap(CancelledError)
            raise TimeoutError(f"{what} took longer than {timeout:g} s")
        return result

    return deferred.addTimeout(seconds, reactor, timed_out)
