"""The standard streams of a command: questions to a person, and commands without a terminal.

A standard stream is ``None`` if it was closed before the command started.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

__all__ = ["answered", "confirm", "input_bytes", "is_terminal"]


def is_terminal(stream: Any) -> bool:
    """Return whether *stream* is a terminal."""
    return stream is not None and bool(stream.isatty())


def input_bytes() -> BinaryIO:
    """Return the standard input. Raises OSError if there is none."""
    if sys.stdin is None:
        raise OSError(errno.EBADF, "There is no standard input")
    return sys.stdin.buffer


@contextmanager
def answered(advice: str) -> Iterator[None]:
    """Return the context of a question.

    Raises click.UsageError: the input has ended; *advice* is the message.
    """
    if sys.stdin is None:
        raise click.UsageError(advice)
    try:
        yield
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            raise click.UsageError(advice) from None
        raise


def confirm(question: str) -> None:
    """Ask *question*, and end the command unless the answer is yes."""
    with answered("Without a terminal there can be no confirmation: use --yes."):
        if click.confirm(question, err=True):
            return
    click.echo("Nothing was changed.", err=True)
    raise click.exceptions.Exit(1)
