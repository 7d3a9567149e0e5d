"""Names in tables of the site."""

from __future__ import annotations

import pytest

from tools.site import marked


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
