from __future__ import annotations

from urllib.parse import unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from stream.values.url import path_of, quoted_path

PARTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(PARTS, min_size=1))
def test_parts_come_back(parts: list[str]) -> None:
    """Parsing returns the parts of any URL built from them, and the URL is plain ASCII."""
    url = urlsplit("https://host" + path_of(*parts))
    assert url.path.isascii()
    assert not any(char.isspace() for char in url.path)
    assert (url.query, url.fragment) == ("", "")
    assert [unquote(part) for part in url.path.split("/")[1:]] == parts


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_path_comes_back(path: str) -> None:
    """Slashes stay, all else is encoded as in a part."""
    assert quoted_path(path).isascii()
    assert unquote(quoted_path(path)) == path
