"""Options in the query of a source's URL."""

from __future__ import annotations

from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from stream.record.elements import batch_option
from stream.source.http.route import Ingest, find_route

_PIECES = st.sampled_from(
    [
        "batch",
        "verbose",
        "%62atch",
        "v%65rb%6Fse",
        "v%65rb%6fse",
        "batc",
        "batchx",
        "=",
        "&",
        "=true",
        "true",
        "+",
        "%20",
        "%zz",
        "é",
    ]
)


@given(st.lists(_PIECES, max_size=9).map("".join))
def test_options_are_parsed_like_any_query(query: str) -> None:
    """Options may be escaped, repeated or surrounded by other parameters."""
    target = b"/stream/1/my-source/secret?" + query.encode("latin-1")
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="replace"):
        options.setdefault(name, value)
    assert find_route(target) == Ingest(
        "1",
        "my-source",
        "secret",
        options.get("verbose") == "true",
        batch_option(options.get("batch")),
    )
