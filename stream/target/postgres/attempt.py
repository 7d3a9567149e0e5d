"""Work with a connection in a thread, which can be given up from outside of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

__all__ = ["Attempt", "Work"]

T = TypeVar("T")

Work = Callable[[psycopg.Connection, Callable[[], bool]], T]
"""Uses a connection, and ends when the function that it gets says that it was given up."""

CANCEL_SECONDS = 10.0
"""How long the server may take to accept that a statement is cancelled."""


class Attempt:
    """One piece of work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._has_ended = threading.Event()
        self._connection: psycopg.Connection | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """The context of the work. Raises InterruptedError if it was given up before."""
        try:
            if self._given_up.is_set():
                raise InterruptedError("the work was given up before it began")
            yield
        finally:
            self._has_ended.set()

    @contextmanager
    def using(self, connection: psycopg.Connection) -> Iterator[None]:
        """The context in which *connection* is open. Raises InterruptedError as `running`."""
        with self._lock:
            self._connection = connection
        try:
            if self._given_up.is_set():
                raise InterruptedError("the work was given up while it connected")
            yield
        finally:
            with self._lock:  # nobody may cancel on a connection that is closed
                self._connection = None

    def is_given_up(self) -> bool:
        """Return whether nobody waits for the work any more."""
        return self._given_up.is_set()

    def give_up(self) -> bool:
        """Nobody waits for the work any more; whether it may still run."""
        self._given_up.set()
        return not self._has_ended.is_set()

    def cancel(self) -> None:
        """Cancel the statement that runs, if any; blocks. Raises `psycopg.Error`."""
        with self._lock:
            if self._connection is not None:
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)
