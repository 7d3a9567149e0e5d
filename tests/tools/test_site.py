"""Names in tables of the site, and the colors of its pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tools.site import marked, variants, with_variants


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<td><code>http-source</code></td>", '<td><code class="name">http-source</code></td>'),
        ("<td><code>a&lt;b&gt;</code></td>", '<td><code class="name">a&lt;b&gt;</code></td>'),
        (
            "<td>is <code>a</code>,\n<code>b c</code></td>",
            '<td>is <code class="name">a</code>,\n<code>b c</code></td>',
        ),
        (
            "<td><code>storage.level.local.sync.mode</code></td>",
            "<td><code>storage.<wbr>level.<wbr>local.<wbr>sync.<wbr>mode</code></td>",
        ),
        (
            "<td><code>GET /sources/{sourceId}</code></td>",
            "<td><code>GET /<wbr>sources/<wbr>{sourceId}</code></td>",
        ),
        (f"<td>{'a b ' * 11}</td>", f'<td class="long">{"a b " * 11}</td>'),
        ("<p><code>http-source</code></p>", "<p><code>http-source</code></p>"),
    ],
    ids=["name", "escaped", "blanks", "long", "route", "much text", "outside"],
)
def test_names(html: str, expected: str) -> None:
    assert marked(html) == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (
            '<p><img alt="A" src="a.svg" /></p>',
            '<p><img alt="A" src="a-light.svg#only-light" />'
            '<img alt="A" src="a-dark.svg#only-dark" /></p>',
        ),
        (
            '<img alt="A" src="c/a.webp" />',
            '<img alt="A" src="c/a.webp#only-light" />'
            '<img alt="A" src="c/a-dark.webp#only-dark" />',
        ),
        ('<img src="c/b.webp" />', '<img src="c/b.webp" />'),
        (
            '<img src="c/a.webp" /><img src="c/a-dark.webp" />',
            '<img src="c/a.webp" /><img src="c/a-dark.webp" />',
        ),
        ('<img src="https://example.com/a.svg" />', '<img src="https://example.com/a.svg" />'),
    ],
    ids=["drawing", "screenshot", "without a variant", "both on the page", "elsewhere"],
)
def test_pictures_have_two_variants(html: str, expected: str) -> None:
    """The page has the light and the dark variant of each picture, with the theme's markers."""
    assert with_variants(html, frozenset({"c/a"})) == expected


def test_variants_of_a_drawing() -> None:
    """Neither variant depends on the system's colors, and only the dark one has dark styles."""
    found = variants(
        "<style>.p{fill:#fff}@media (prefers-color-scheme: dark){.p{fill:#000}}</style>"
    )
    assert found == {
        "light": "<style>.p{fill:#fff}</style>",
        "dark": "<style>.p{fill:#fff}.p{fill:#000}</style>",
    }


@pytest.mark.parametrize(
    "drawing", sorted((ROOT / "docs").rglob("*.svg")), ids=lambda path: path.name
)
def test_drawings_have_variants(drawing: Path) -> None:
    """Each picture of the pages has different light and dark variants, and depends on no other
    file.
    """
    found = variants(drawing.read_text(encoding="utf-8"))
    assert found["light"] != found["dark"]
    assert not any("prefers-color-scheme" in content for content in found.values())
