"""The page that lists all settings."""

from __future__ import annotations

import ast
from pathlib import Path

from stream.settings import LEAVES
from stream.settings.inert import INERT
from stream.settings.reference import main, reference
from stream.settings.tree import LEAVES_BY_KEY

ROOT = Path(__file__).parents[2]


def test_page_is_current() -> None:
    """The page in the repository is the one that the declarations give: `make docs-settings`."""
    assert (ROOT / "docs" / "settings.md").read_text() == reference()


def test_every_setting_is_listed_once() -> None:
    """Each key and each variable has its row."""
    rows = [line for line in reference().split("\n") if line.startswith("| `")]
    for leaf in LEAVES:
        own = [row for row in rows if row.startswith(f"| `{leaf.key}`<br>`{leaf.env}` |")]
        assert len(own) == 1, leaf.key
        assert own[0].count(" | ") == 4, own


def test_rows() -> None:
    """A row tells type, default, range, who may change it and what has no effect."""
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


def test_written_to_a_file(tmp_path: Path) -> None:
    """The command writes the page."""
    main(str(tmp_path / "settings.md"))
    assert (tmp_path / "settings.md").read_text() == reference()


def test_what_nothing_reads_is_said_to_have_no_effect() -> None:
    """A setting that no code asks for is among those without effect, and those exist."""
    assert set(INERT) <= set(LEAVES_BY_KEY)
    asked_for = set()
    for path in (ROOT / "stream").rglob("*.py"):
        if path.parent.name != "settings":
            tree = ast.parse(path.read_text())
            asked_for |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    silent = {leaf.key for leaf in LEAVES if leaf.path[-1] not in asked_for}
    kms = {key for key in silent if key.startswith("encryption.")}
    assert silent - kms <= set(INERT)
