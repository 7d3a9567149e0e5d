"""The page about errors has the names and statuses of the code."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.docs.blocks import ROOT
from tests.docs.errors import COMPUTED, collect, modules

_ROW = re.compile(r"^\| `(?P<name>[\w.]+)` \| (?P<statuses>[\d, ]+) \|", re.MULTILINE)


def _listed() -> dict[str, set[int]]:
    """Return each name on the page, with the statuses of all its rows."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for row in _ROW.finditer((ROOT / "docs" / "errors.md").read_text(encoding="utf-8")):
        found[row["name"]] |= set(map(int, row["statuses"].split(", ")))
    return dict(found)


def test_names() -> None:
    """The page has exactly the names in the code."""
    assert set(_listed()) == set(collect(modules()).statuses)


def test_statuses() -> None:
    """Each name has the statuses that the code has next to the name."""
    listed = _listed()
    for name, statuses in collect(modules()).statuses.items():
        assert not statuses or listed[name] == statuses, name


def test_computed_names() -> None:
    """Names that are computed are listed one by one."""
    assert collect(modules()).computed == set(COMPUTED)


def test_what_is_found() -> None:
    """Classes with inherited statuses, calls, faults and strings with a prefix are found, and no
    other names.
    """
    found = collect(
        {
            "a.py": """
class Busy(UserError):
    status = 503
    name = "busy"
class Busier(Busy):
    name = "busier"
class Service:
    name = "service"
UserError("x", name="plain")
Busier("x", name="one" if x else "two")
NestedError("x", [], status=422, name=code or "other")
Fault("fault", "x")
"stream.in.literal", "stream.api.http.server", _PREFIX + ("left" if x == "y" else "right")
Parameter(name="parameter")
"""
        }
    )
    assert found.statuses == {
        "busy": {503},
        "busier": {503},
        "plain": {400},
        "one": {503},
        "two": {503},
        "fault": {400},
        "literal": set(),
        "left": set(),
        "right": set(),
    }
    assert found.computed == {("a.py", "code or 'other'")}
