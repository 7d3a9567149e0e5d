"""The page that lists all settings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from stream.settings import LEAVES
from stream.settings.ignored import IGNORED_SETTINGS
from stream.settings.tree import LEAVES_BY_KEY
from tools.reference.settings import main, reference

ROOT = Path(__file__).parents[3]
_STORED = ROOT / "stream" / "storage" / "model" / "encoding.py"
"""A module that copies all settings into the records of slices, also those without effect."""


def test_the_page_is_up_to_date() -> None:
    """The page equals the output of `make docs-settings`."""
    assert (ROOT / "docs" / "settings.md").read_text() == reference()


def test_every_setting_is_listed_once() -> None:
    """Each key and each variable has its row."""
    rows = [line for line in reference().split("\n") if line.startswith("| `")]
    for leaf in LEAVES:
        own = [row for row in rows if row.startswith(f"| `{leaf.key}`<br>`{leaf.env}` |")]
        assert len(own) == 1, leaf.key
        assert own[0].count(" | ") == 4, own


def test_the_columns_of_a_row() -> None:
    """A row has type, default, range, who may change the setting, and whether it has an effect."""
    lines = reference().split("\n")
    assert (
        "| `source.http.requestTimeout`<br>`STREAM_SOURCE_HTTP_REQUEST_TIMEOUT` "
        "| duration | `30s` | required; 1s … 60s |"
    ) in "\n".join(lines)
    assert any(
        "storage.level.staging.upload.trigger.count" in x and "*source, sink*" in x for x in lines
    )
    assert any("kcpInputBuffer" in x and "*No effect: " in x for x in lines)
    secret = next(x for x in lines if "`sandbox.token`" in x)
    assert "sandbox-token" not in secret
    assert "**Secret.**" in secret


def test_the_lowest_allowed_value_is_allowed() -> None:
    """Zero counts as missing if the setting is required, whatever its other bounds are."""
    bounded = [leaf for leaf in LEAVES if leaf.rule.argument("min") is not None]
    for leaf in bounded:
        (row,) = [x for x in reference().split("\n") if x.startswith(f"| `{leaf.key}`<br>")]
        shown = re.search(r"(\d+) … \d+ \||at least (\d+) \|", row)
        if shown is not None:
            lowest = int(shown[1] or shown[2])
            assert leaf.rule.violation(lowest) is None, leaf.key
            assert leaf.rule.violation(lowest - 1) is not None, leaf.key
    assert len(bounded) > 20


def test_written_to_a_file(tmp_path: Path) -> None:
    """The command writes the page."""
    main(str(tmp_path / "settings.md"))
    assert (tmp_path / "settings.md").read_text() == reference()


def test_unused_settings_are_marked() -> None:
    """A setting that no code uses is in the list of settings without effect, which all exist."""
    assert set(IGNORED_SETTINGS) <= set(LEAVES_BY_KEY)
    asked_for = set()
    for path in (ROOT / "stream").rglob("*.py"):
        if path.parent.name != "settings":
            tree = ast.parse(path.read_text())
            asked_for |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    silent = {leaf.key for leaf in LEAVES if leaf.path[-1] not in asked_for}
    kms = {key for key in silent if key.startswith("encryption.")}
    assert silent - kms <= set(IGNORED_SETTINGS)


def test_marked_settings_are_unused() -> None:
    """The search for uses includes the section's name, since names of settings are ambiguous."""
    read = set()
    for path in (ROOT / "stream").rglob("*.py"):
        if path.parent.name != "settings" and path != _STORED:
            read |= _read(ast.parse(path.read_text()))
    pairs = {leaf.path[-2:] for leaf in LEAVES if len(leaf.path) > 1}
    assert len(read & pairs) > len(pairs) / 4, "the search finds used settings"
    assert [key for key in IGNORED_SETTINGS if LEAVES_BY_KEY[key].path[-2:] in read] == []


def _read(tree: ast.AST) -> set[tuple[str, ...]]:
    """Return the last two names of each attribute, with variables replaced by their value."""
    last = {
        target.id: node.value.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            below = node.value
            if isinstance(below, ast.Attribute):
                found.add((below.attr, node.attr))
            elif isinstance(below, ast.Name):
                found.add((last.get(below.id, below.id), node.attr))
    return found
