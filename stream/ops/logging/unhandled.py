"""Logging of errors that no code handles, redacted like all other lines.

Python reports some errors only to hooks: errors of a thread's function, and errors that have no
caller, such as those in `__del__`, in callbacks of C code and in callbacks of the garbage
collector. The default hooks print a traceback to stderr, in lines that have no level and in which
secrets aren't masked. Twisted logs errors of Deferreds that no code handles.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from stream.values.redaction import hide_secrets

__all__ = ["log_unhandled"]

_log = Logger()

_MAX_CHARS = 200


def log_unhandled() -> None:
    """Log unhandled errors from now on."""
    sys.unraisablehook = _unraisable
    threading.excepthook = _of_thread


def _unraisable(unraisable: Any, /) -> None:
    error = unraisable.exc_value or unraisable.exc_type()
    try:
        _log.failure(
            "{what}: {where}",
            _failure(error),
            what=unraisable.err_msg or "an error was ignored in",
            # As text, because the object may be about to be freed, and mustn't be kept.
            where=_shown(unraisable.object),
        )
    except Exception:  # the log itself may be what fails
        sys.__unraisablehook__(unraisable)


def _of_thread(args: Any, /) -> None:
    if args.exc_type is SystemExit:
        return
    try:
        _log.failure(
            "the thread {thread} has failed",
            _failure(args.exc_value or args.exc_type()),
            thread=args.thread.name if args.thread is not None else "unknown",
        )
    except Exception:
        threading.__excepthook__(args)


def _failure(error: BaseException) -> Failure:
    return Failure(error, type(error), error.__traceback__)


def _shown(value: object) -> str:
    """Return a short text for an object whose own `repr` may fail."""
    if value is None:
        return "unknown"
    try:
        return hide_secrets(repr(value))[:_MAX_CHARS]
    except Exception:
        return type(value).__name__
