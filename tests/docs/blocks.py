"""The commands in the documentation: fenced blocks and their output.

A block of the language ``sh`` is run. A block ``text`` directly after it is its output. It is
shown as a reader sees it; what differs from run to run, such as times and ids, may differ from it.
In it ``…`` matches anything; a test lists the few that are left. A block of the language
``console`` has commands that can't be run here; the tests of the others list each with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = [
    "ROOT",
    "Block",
    "all_blocks",
    "blocks",
    "matches",
    "name_of",
    "normal",
    "pages",
    "section_of",
]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[a-z]*)(?P<rest>.*)$")
_INDENTED = re.compile(r" {4,}\S")
_VARYING = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>"),
        (r"\b20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?(_\w{5})?\b", "<time>"),
        (r"(?<=/)\w{48}\b", "<secret>"),
        (r'(?<="hash": ")\w+', "<hash>"),
        (r'(?<="nodeId": ")[^"]+', "<node>"),
        (r'(?<="compressedSize": )\d+', "<bytes>"),
        (r'(?<="uncompressedSize": )\d+', "<bytes>"),
        (r'(?<="duration": )\d+', "<milliseconds>"),
        (r'(?<="lastId": ")[1-9]\d*\b', "<id>"),
        (r'(?<="defaultValue": ")\d+s', "<seconds>"),
        (r"(?m)^id: .*", "id: <id>"),
        (r'(?<="tokenId": ")\w+', "<token>"),
        (r"(?m)^token \w+ of", "token <token> of"),
        (r"(?m)^\w+(?=  me  )", "<token>"),
        (r"\bstream [\d.]+, Python [\d.]+, Twisted [\d.]+", "<versions>"),
        (r"(?<=stored in )/\S+", "<path>"),
        (r"\d+\.\d s \(\d+ records/s\)", "<rate>"),
        (r"(?m) +$", ""),
        (r"(?<=\S) {2,}", "  "),
        (r"(?<=<time>  )[\w-]+(?=  stream\.in)", "<node>"),
        (r"(?<=<time>  )\w+(?=  never)", "<user>"),
        (r"(?<=success  )\d+", "<milliseconds>"),
    )
]
"""What differs from run to run, and the name that it gets: times, ids, secrets, sizes, blanks."""
_ITEM = re.compile(r"\s*(?:[-*]|\d+\.) ")


@attrs.frozen
class Block:
    """A block of code in a page.

    :ivar line: number of its first line in the page.
    :ivar language: "indented" for a block that has no fence.
    :ivar printed: the output in the block after it, if there is one.
    """

    page: str
    line: int
    language: str
    text: str
    printed: str | None = None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0]


def name_of(page: Path) -> str:
    """Return the path of *page* in the repository."""
    return str(page.relative_to(ROOT))


def pages() -> list[Path]:
    """Return all pages of the documentation, the README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of *page* that are run."""
    found: list[Block] = []
    for block, is_next in _fenced(page):
        if block.language == "text" and is_next and found:
            found[-1] = attrs.evolve(found[-1], printed=block.text)
        elif block.language == "sh":
            found.append(block)
    return found


def all_blocks(page: Path) -> list[Block]:
    """Return every block of *page* in any language."""
    return [*(block for block, _ in _fenced(page)), *_indented(page)]


def section_of(page: Path, block: Block) -> str:
    """Return the heading above *block*."""
    heading, is_fenced = "", False
    for line in page.read_text(encoding="utf-8").split("\n")[: block.line - 2]:
        if line.startswith("```"):
            is_fenced = not is_fenced
        elif line.startswith("#") and not is_fenced:
            heading = line.lstrip("# ")
    return heading


def matches(expected: str, output: str) -> bool:
    """Return whether *output* is what a page shows, apart from what differs from run to run.

    ``…`` in *expected* stands for anything.
    """
    parts = (re.escape(part.strip(" ")) for part in normal(expected).strip().split("…"))
    pattern = r"\s*" + r".*".join(parts) + r"\s*"
    return re.fullmatch(pattern, normal(output), re.DOTALL) is not None


def normal(output: str) -> str:
    """Return *output* with a name for each value that differs from run to run."""
    for pattern, name in _VARYING:
        output = pattern.sub(name, output)
    return output


def _fenced(page: Path) -> Iterator[tuple[Block, bool]]:
    """Yield each block, and whether only blank lines separate it from the previous one."""
    opened: tuple[int, str, str] | None = None
    content: list[str] = []
    is_next = False
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        fence = _FENCE.match(line)
        if fence is None:
            if opened is not None:
                content.append(line.removeprefix(opened[2]))
            elif line.strip():
                is_next = False
        elif opened is None:
            opened, content = (number + 1, fence["language"], fence["indent"]), []
        else:
            start, language, _ = opened
            yield Block(name_of(page), start, language, "\n".join(content)), is_next
            opened, is_next = None, language == "sh"


def _indented(page: Path) -> Iterator[Block]:
    """Yield the indented blocks of code."""
    is_fenced = False
    in_list = False
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
        if _FENCE.match(line):
            is_fenced = not is_fenced
        elif not is_fenced:
            if _ITEM.match(line):
                in_list = True
            elif line and not line.startswith(" "):
                in_list = False
            if _INDENTED.match(line) and not before.strip() and not in_list:
                yield Block(name_of(page), number, "indented", line.strip())
        before = line
