"""A deployment in a separate directory for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.browser import NAMES, find_chromium
from tests.e2e.processes import Deployment, deployment

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, which start real processes."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser."""
    found = find_chromium()
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed: nothing is tried in a browser")
    return found


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path) as deployed:
        yield deployed
