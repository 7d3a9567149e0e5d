"""A scripted server of the standard library for the duration of a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TypeVar

__all__ = ["serving"]

T = TypeVar("T", bound=ThreadingHTTPServer)


@contextmanager
def serving(server: T) -> Iterator[T]:
    """Run *server* in a thread, and close it at the end of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
