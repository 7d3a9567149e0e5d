"""Errors that no code handles: they get into the log, redacted like all other lines.

Python reports some errors to hooks only: those of a thread's function, and those that have no
caller, such as errors in `__del__`, in callbacks of C code and of the garbage collector. The
default hooks print a traceback to stderr, in lines without a level, where secrets aren't known as
such. Errors of Deferreds that nobody handles are logged by Twisted.
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
    """Log such errors from now on."""
    sys.unraisablehook = _unraisable
    threading.excepthook = _of_thread


def _unraisable(unraisable: Any, /) -> None:
    error = unraisable.exc_value or unraisable.exc_type()
    try:
        _log.failure(
            "{what}: {where}",
            _failure(error),
            what=unraisable.err_msg or "an error was ignored in",
            # Its form, since the object may be about to end, and mustn't be kept.
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
    """Return a short text for an object, whose own form may fail."""
    if value is None:
        return "unknown"
    try:
        return hide_secrets(repr(value))[:_MAX_CHARS]
    except Exception:
        return type(value).__name__
