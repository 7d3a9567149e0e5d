"""A scripted server of the standard library, as long as a test needs it."""

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
    """*server*, answering in a thread of its own; closed at the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
