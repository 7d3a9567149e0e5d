"""A hook of MkDocs: it marks table cells for the style sheet, and shows pictures in two schemes.

Names are broken between their words, never inside one; cells with much text are wide on a phone. A
picture is shown in the colors of the page, which a reader can change, whatever the system's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["marked", "on_page_content", "on_post_build", "variants", "with_variants"]

_LONGEST = 24
_MUCH_TEXT = 40
_CELL = re.compile(r"<td\b.*?</td>", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_CODE = re.compile(r"<code>([^<]*)</code>")
_CHARACTER = re.compile(r"&#?\w+;|.", re.DOTALL)
_BEHIND = re.compile(r"([/._:=?]+)(?=[\w{<&(*])")
_PICTURE = re.compile(r'(<img\b[^>]*\bsrc=")([^":]*)\.(svg|webp)("[^>]*>)')
_IN_THE_DARK = re.compile(r"@media \(prefers-color-scheme: dark\)\s*\{((?:[^{}]*\{[^{}]*\})*)\s*\}")


def marked(html: str) -> str:
    """Return the page with marks in its tables.

    Short names get the class ``name`` and aren't broken. Longer names may be broken after a
    separator. Cells with much text get the class ``long``.
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


def variants(drawing: str) -> dict[str, str]:
    """Return the light and the dark variant of a drawing, by name.

    Both ignore the colors of the system.
    """
    return {
        "light": _IN_THE_DARK.sub("", drawing),
        "dark": _IN_THE_DARK.sub(r"\1", drawing),
    }


def with_variants(html: str, screenshots: frozenset[str]) -> str:
    """Return the page with both variants of each picture, of which the theme hides one.

    :param screenshots: paths of pictures, without a suffix, that have a dark variant. A page that
        shows the variant itself has each once.
    """

    def twice(picture: re.Match[str]) -> str:
        before, name, kind, after = picture.groups()
        if kind == "svg":
            light, dark = f"{name}-light.svg", f"{name}-dark.svg"
        elif name in screenshots and f"{name}-dark.webp" not in html:
            light, dark = f"{name}.webp", f"{name}-dark.webp"
        else:
            return picture[0]
        return f"{before}{light}#only-light{after}{before}{dark}#only-dark{after}"

    return _PICTURE.sub(twice, html)


def on_page_content(html: str, page: Any, config: Any, **_: Any) -> str:
    """Mark the cells of a page. MkDocs calls this for each page."""
    folder = Path(config["docs_dir"], page.file.src_uri).parent
    dark = folder.rglob("*-dark.webp")
    screenshots = frozenset(
        found.relative_to(folder).as_posix().removesuffix("-dark.webp") for found in dark
    )
    return with_variants(marked(html), screenshots)


def on_post_build(config: Any, **_: Any) -> None:
    """Write the drawings in both color schemes. MkDocs calls this when all pages are written."""
    for drawing in Path(config["docs_dir"]).rglob("*.svg"):
        place = Path(config["site_dir"], drawing.relative_to(config["docs_dir"]))
        for name, content in variants(drawing.read_text(encoding="utf-8")).items():
            place.with_stem(f"{place.stem}-{name}").write_text(content, encoding="utf-8")
