"""Tests of the single file; `make test-bundle` builds it first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of the single file unless it is built."""
    for item in items:
        if _HERE in item.path.parents and "single_file" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.bundle)


@pytest.fixture(scope="session")
def single_file() -> Path:
    """The single file that `make build-stream-service` built."""
    path = _ROOT / os.environ.get("BUILD_TARGET_PATH", "target/stream/service")
    assert path.is_file(), "run `make build-stream-service` first"
    return path
