"""Blocking work with a connection in a thread, which another thread can cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

__all__ = ["Attempt", "Work"]

T = TypeVar("T")

Work = Callable[[psycopg.Connection, Callable[[], bool]], T]
"""A function that uses a connection, and ends when the given function says that it is cancelled."""

CANCEL_SECONDS = 10.0
"""Time limit for the server to accept the cancellation of a statement."""


class Attempt:
    """A single piece of work that can be cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = threading.Event()
        self._has_ended = threading.Event()
        self._connection: psycopg.Connection | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Enclose the work. Raises InterruptedError if the work is already cancelled."""
        try:
            if self._given_up.is_set():
                raise InterruptedError("the work was cancelled before it began")
            yield
        finally:
            self._has_ended.set()

    @contextmanager
    def using(self, connection: psycopg.Connection) -> Iterator[None]:
        """Enclose the use of *connection*. Raises InterruptedError as `running` does."""
        with self._lock:
            self._connection = connection
        try:
            if self._given_up.is_set():
                raise InterruptedError("the work was cancelled while it connected")
            yield
        finally:
            with self._lock:  # a closed connection must not be cancelled
                self._connection = None

    def is_given_up(self) -> bool:
        """Whether the work was cancelled."""
        return self._given_up.is_set()

    def give_up(self) -> bool:
        """Cancel the work; return whether it may still run."""
        self._given_up.set()
        return not self._has_ended.is_set()

    def cancel(self) -> None:
        """Cancel the running statement, if any; blocks. Raises `psycopg.Error`."""
        with self._lock:
            if self._connection is not None:
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)
