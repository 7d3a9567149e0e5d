"""Shared parts of pictures: colors for light and dark, boxes, arrows, texts."""

from __future__ import annotations

from html import escape

__all__ = ["arrow", "box", "picture", "text"]

_STYLE = """
    .p{fill:#fff}
    .c{fill:#e0f2f1;stroke:#00695c;stroke-width:1.5}
    .o{fill:#eceff1;stroke:#607d8b;stroke-width:1.5}
    .l{fill:none;stroke:#00695c;stroke-width:2}
    .b{fill:none;stroke:#b26a00;stroke-width:2;stroke-dasharray:5 4}
    .g{fill:none;stroke:#cfd8dc;stroke-width:1}
    .h{fill:#00695c}.w{fill:#b26a00}text{fill:#102027;text-anchor:middle}.n{font-weight:600}
    .s{font-size:13px;fill:#455a64}.left{text-anchor:start}
    @media (prefers-color-scheme: dark){
    .p{fill:#1e2129}.c{fill:#12403c;stroke:#4db6ac}.o{fill:#2b3038;stroke:#90a4ae}
    .l{stroke:#4db6ac}.b{stroke:#ffb74d}.g{stroke:#455a64}.h{fill:#4db6ac}.w{fill:#ffb74d}text{fill:#eceff1}.s{fill:#b0bec5}}"""


def picture(
    width: int,
    height: int,
    title: str,
    description: str,
    parts: list[str],
    *,
    is_small: bool = False,
) -> str:
    """Return a whole SVG document, with a final newline.

    :param is_small: whether the picture isn't enlarged to the width of the page.
    """
    size = f'width="{width}" height="{height}" ' if is_small else ""
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size}viewBox="0 0 {width} {height}" \
font-family="system-ui, sans-serif" font-size="15" role="img" aria-labelledby="t d">
  <title id="t">{escape(title)}</title>
  <desc id="d">{escape(description)}</desc>
  <defs>
    <marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto"><path class="h" d="M0 0 10 5 0 10z"/></marker>
    <marker id="w" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto"><path class="w" d="M0 0 10 5 0 10z"/></marker>
  </defs>
  <style>{_STYLE}
  </style>
  <rect class="p" width="{width}" height="{height}" rx="8"/>
{chr(10).join(f"  {part}" for part in parts)}
</svg>
"""


def text(x: float, y: float, content: str, kind: str = "") -> str:
    """Return a line of text in a picture.

    :param kind: classes: ``n`` bold, ``s`` small, ``left`` aligned.
    """
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str = "c") -> str:
    """Return a box in a picture.

    :param kind: ``c`` for components, ``o`` for others.
    """
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
    )


def arrow(path: str, *, back: bool = False) -> str:
    """Return an arrow in a picture.

    :param path: SVG path.
    :param back: whether it is a transition back.
    """
    line, head = ("b", "w") if back else ("l", "a")
    return f'<path class="{line}" marker-end="url(#{head})" d="{path}"/>'
