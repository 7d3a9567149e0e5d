"""The alert rules in the runbook's index; ``python -m tests.docs.runbook`` updates it."""

from __future__ import annotations

from typing import Any

import yaml

from tests.docs.blocks import ROOT

__all__ = ["FOLDER", "INDEX", "RULES", "replace_table", "rules", "table_of"]

RULES = ROOT / "provisioning" / "monitoring" / "alerts.yaml"
FOLDER = ROOT / "docs" / "runbook"
INDEX = FOLDER / "index.md"
_SEVERITIES = ("critical", "warning")
_HEAD = "| alert | severity | fires when |\n|---|---|---|\n"


def rules() -> list[dict[str, Any]]:
    """Return all alert rules, in the order of the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def table_of(alerts: list[dict[str, Any]]) -> str:
    """Return the index of *alerts*, the critical ones first."""
    ordered = sorted(alerts, key=lambda rule: _SEVERITIES.index(rule["labels"]["severity"]))
    return _HEAD + "".join(map(_row, ordered))


def replace_table(page: str, table: str) -> str:
    """Return *page* with *table* instead of its own."""
    start = page.index(_HEAD)
    end = page.index("\n\n", start) + 1
    return page[:start] + table + page[end:]


def _row(rule: dict[str, Any]) -> str:
    name, severity = rule["alert"], rule["labels"]["severity"]
    expression = " ".join(rule["expr"].split()).replace("|", "\\|")
    for_how_long = f", for {rule['for']}" if "for" in rule else ""
    return f"| [{name}]({name}.md) | {severity} | `{expression}`{for_how_long} |\n"


if __name__ == "__main__":
    INDEX.write_text(replace_table(INDEX.read_text(), table_of(rules())))
