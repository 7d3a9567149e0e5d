"""The values in ``docs/mapping.md``; ``python -m tests.docs.mapping`` writes them."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from stream.errors import UserError, sentence
from stream.mapping.columns import Column, Mapping, column_from_plain
from stream.mapping.render import compile_renderer
from stream.record.context import RecordContext
from stream.record.headers import RecordHeaders
from tests.docs.blocks import ROOT
from tests.templates.inprocess import row

__all__ = ["PAGE", "filled"]

PAGE = ROOT / "docs" / "mapping.md"
_BODY = re.compile(r'^\{"user".*\}$', re.MULTILINE)
_HEAD = re.compile(r"^\| (?P<kind>column|template) \| cell \|$")
_ROW = re.compile(r"^\| `(?P<source>[^`]+)` \| ?.*\|$")
_ROW_BYTES = 1024 * 1024


def filled(page: str) -> str:
    """Return *page* with the cell of each column and template, computed from the record that it
    shows.
    """
    body = _BODY.search(page)
    assert body is not None, "the page shows no record"
    headers = ((b"Content-Type", b"application/json"), (b"X-Request-Id", b"7f3"))
    record = RecordContext(1714557600123, "203.0.113.7", RecordHeaders(headers), body[0].encode())
    lines = []
    kind = ""
    for line in page.split("\n"):
        head = _HEAD.match(line)
        kind = head["kind"] if head else kind if line.startswith("|") else ""
        found = _ROW.match(line)
        if kind and found:
            column = _column(kind, found["source"])
            line = f"| `{found['source']}` | {_shown(column, record)} |"
        lines.append(line)
    return "\n".join(lines)


def _column(kind: str, source: str) -> Column:
    plain: dict[str, Any] = (
        json.loads(source)
        if kind == "column"
        else {"type": "template", "template": {"language": "jsonnet", "content": source}}
    )
    return column_from_plain({"name": "c", **plain})


def _shown(column: Column, record: RecordContext) -> str:
    """Return the cell as a CSV parser gets it, or the reason why there is none, in Markdown."""
    try:
        text = row(compile_renderer(Mapping((column,)), _ROW_BYTES), record).decode()
    except UserError as error:
        return f"refused: {sentence(str(error))}".replace("\n", " ")
    if not text.strip("\n"):
        return "NULL"  # an empty text has quotes
    [[cell]] = csv.reader([text])
    return f"`{cell}`".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
