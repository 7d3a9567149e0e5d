"""The commands in the documentation: fenced blocks, and what is printed below them.

A block of the language ``sh`` is to be run. A block ``text`` straight after it is what it prints;
``…`` stands for anything there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["ROOT", "Block", "blocks", "matches", "pages"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)(?P<rest>.*)$")


@attrs.frozen
class Block:
    """:ivar line: number of its first line in the page.
    :ivar printed: what the block after it says that it prints, if there is one.
    """

    page: str
    line: int
    language: str
    text: str
    printed: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """All pages of the documentation, the README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of *page* that have commands."""
    found: list[Block] = []
    for block, is_next in _fenced(page):
        if block.language == "text" and is_next and found:
            found[-1] = attrs.evolve(found[-1], printed=block.text)
        elif block.language == "sh":
            found.append(block)
    return found


def matches(expected: str, output: str) -> bool:
    """Whether *output* is what a page shows, in which ``…`` stands for anything."""
    parts = (re.escape(part.strip(" ")) for part in expected.strip().split("…"))
    return re.fullmatch(r"\s*" + r".*".join(parts) + r"\s*", output, re.DOTALL) is not None


def _fenced(page: Path) -> Iterator[tuple[Block, bool]]:
    """Each block, and whether nothing but blank lines is between it and the one before."""
    name = str(page.relative_to(ROOT))
    opened: tuple[int, str] | None = None
    content: list[str] = []
    is_next = False
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if opened is not None:
                content.append(line)
            elif line.strip():
                is_next = False
        elif opened is None:
            opened, content = (number + 1, fence["language"]), []
        else:
            start, language = opened
            yield Block(name, start, language, "\n".join(content)), is_next
            opened, is_next = None, language == "sh"
