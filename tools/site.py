"""A hook of MkDocs: names in tables are broken between their words, never inside one."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["marked", "on_page_content"]

_LONGEST = 24
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_CODE = re.compile(r"<code>([^<]*)</code>")
_CHARACTER = re.compile(r"&#?\w+;|.", re.DOTALL)
_BEHIND = re.compile(r"([/._:=?]+)(?=[\w{<&(*])")


def marked(html: str) -> str:
    """The page with marks in its tables: short names get the class ``name``, which isn't broken.

    Longer ones may be broken behind a separator.
    """
    return _CELL.sub(lambda cell: _CODE.sub(_code, cell[0]), html)


def _code(code: re.Match[str]) -> str:
    length = len(_CHARACTER.findall(code[1]))
    if length <= _LONGEST and not re.search(r"\s", code[1]):
        return f'<code class="name">{code[1]}</code>'
    breakable = _BEHIND.sub(r"\1<wbr>", code[1])
    return f"<code>{breakable}</code>"


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return marked(html)
