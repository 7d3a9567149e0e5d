"""The values in the mapping reference."""

from __future__ import annotations

from stream.mapping.columns import COLUMN_TYPES
from stream.mapping.functions import FUNCTIONS
from stream.mapping.types import DATA_TYPES
from tests.docs.mapping import PAGE, filled


def test_values() -> None:
    """Each value is the one that the service renders: ``python -m tests.docs.mapping``."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled(page)


def test_completeness() -> None:
    """The reference has each type of column, each type of values, and each template function."""
    page = PAGE.read_text(encoding="utf-8")
    for kind in COLUMN_TYPES:
        assert f"| `{kind}` |" in page
    for function in FUNCTIONS:
        assert f"| `{function}(" in page
    for data_type in DATA_TYPES:
        assert f"`{data_type}`" in page
