from __future__ import annotations

from urllib.parse import unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from stream.values.url import path_of, quoted_path

PARTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(PARTS, min_size=1))
def test_round_trip(parts: list[str]) -> None:
    """Parsing a built URL returns its parts, and the URL is ASCII."""
    url = urlsplit("https://host" + path_of(*parts))
    assert url.path.isascii()
    assert not any(char.isspace() for char in url.path)
    assert (url.query, url.fragment) == ("", "")
    assert [unquote(part) for part in url.path.split("/")[1:]] == parts


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip_of_a_path(path: str) -> None:
    """Slashes are kept, and other characters are encoded as in a part."""
    assert quoted_path(path).isascii()
    assert unquote(quoted_path(path)) == path
