"""A hook of MkDocs that marks cells of tables for the style sheet.

Names are broken between their words, never inside one; cells with much text are wide on a phone.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["marked", "on_page_content"]

_LONGEST = 24
_MUCH_TEXT = 40
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_CODE = re.compile(r"<code>([^<]*)</code>")
_CHARACTER = re.compile(r"&#?\w+;|.", re.DOTALL)
_BEHIND = re.compile(r"([/._:=?]+)(?=[\w{<&(*])")


def marked(html: str) -> str:
    """The page with marks in its tables: short names get the class ``name``, which isn't broken.

    Longer ones may be broken behind a separator. Cells with much text get the class ``long``.
    """
    return _CELL.sub(_cell, html)


def _cell(cell: re.Match[str]) -> str:
    found = _CODE.sub(_code, cell[0])
    is_long = len(_CHARACTER.findall(_TAG.sub("", found))) > _MUCH_TEXT
    return found.replace("<td", '<td class="long"', 1) if is_long else found


def _code(code: re.Match[str]) -> str:
    length = len(_CHARACTER.findall(code[1]))
    if length <= _LONGEST and not re.search(r"\s", code[1]):
        return f'<code class="name">{code[1]}</code>'
    breakable = _BEHIND.sub(r"\1<wbr>", code[1])
    return f"<code>{breakable}</code>"


def on_page_content(html: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return marked(html)
