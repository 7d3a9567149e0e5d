from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.python.threadpool import ThreadPool


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    """A small started pool."""
    started = ThreadPool(0, 2)
    started.start()
    yield started
    started.stop()
