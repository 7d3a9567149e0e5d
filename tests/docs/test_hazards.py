"""The tests and modules named in the page of hazards exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "hazards.md").read_text()
_ROWS = [line for line in _PAGE.splitlines() if re.match(r"\| (?!Hazard )", line)]
_NAMED = sorted(set(re.findall(r"`(tests/\S+\.py)::(\w+)`", _PAGE)))
_MODULES = sorted(set(re.findall(r"\| `(stream\.[\w.]+)` \|", _PAGE)))


@cache
def _functions(path: str) -> frozenset[str]:
    tree = ast.parse((_ROOT / path).read_text())
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize(("path", "name"), _NAMED)
def test_the_named_test_exists(path: str, name: str) -> None:
    """The test exists in the named module."""
    assert name in _functions(path)


def test_every_hazard_has_a_test_and_a_module() -> None:
    """Every row names a test and a module."""
    assert len(_ROWS) > 50
    for row in _ROWS:
        assert "::test_" in row, row
        assert row.count("|") == 5, row
    for module in _MODULES:
        assert (_ROOT / f"{module.replace('.', '/')}.py").exists(), module
