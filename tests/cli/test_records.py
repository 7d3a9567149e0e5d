"""Records in streams of bytes, split at any position."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.cli.push.records import InputFault, Item, array_elements, csv_rows, ndjson_lines

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
_CUTS = st.lists(st.integers(0, 400), max_size=12)


def _parts(content: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    return (content[a:b] for a, b in pairwise(places) if a < b)


def _lines(content: bytes, cuts: list[int] = [], **options: Any) -> list[Item]:  # noqa: B006
    return [x for x in ndjson_lines(_parts(content, cuts), **options) if x is not None]


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda x: x.replace(b"\n", b"")), max_size=12),
    cuts=_CUTS,
)
def test_lines(lines: list[bytes], cuts: list[int]) -> None:
    """All lines that aren't blank are returned with their numbers, too large ones with a
    problem.
    """
    content = b"\n".join(lines)
    found = _lines(content, cuts, limit=8)
    expected = []
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if len(text) > 8:
            expected.append((number, b"", True))
        elif text.strip():
            expected.append((number, text.strip().replace(b"\r", b" "), False))
    assert [(item.place, item.record, bool(item.problem)) for item in found] == expected
    for item in found:
        assert item.end <= len(content)
        rest = _lines(content[item.end :], line=item.after, offset=item.end, limit=8)
        assert rest == [other for other in found if other.place > item.place]


def test_a_pause_in_a_pipe() -> None:
    """A pause is passed on, so that pending records can be sent."""
    assert list(ndjson_lines([b"1\n2", b"", b"\n"])) == [
        Item(1, b"1", 2, 2),
        None,
        Item(2, b"2", 4, 3),
    ]


@given(values=st.lists(_JSON, max_size=6), cuts=_CUTS, indent=st.sampled_from([None, 2]))
def test_arrays(values: list[Any], cuts: list[int], indent: int | None) -> None:
    """Elements are returned unchanged on one line; parsing can resume after each of them."""
    content = json.dumps(values, ensure_ascii=False, indent=indent).encode(errors="surrogatepass")
    found = list(array_elements(_parts(content, cuts)))
    assert [json.loads(item.record) for item in found] == values
    assert [item.place for item in found] == list(range(len(values)))
    assert all(b"\n" not in item.record for item in found)
    for item in found:
        rest = _parts(content[item.end :], cuts)
        again = array_elements(rest, index=item.after, offset=item.end, is_inside=True)
        assert list(again) == found[item.after :]


@pytest.mark.parametrize("cuts", [[], list(range(400))])
@pytest.mark.parametrize(
    ("content", "count", "fault"),
    [
        (b"", 0, "does not begin with"),
        (b'{"a":1}', 0, "does not begin with"),
        (b"[1 2]", 1, 'Element 1 (from 0), at byte 3: unexpected "2"'),
        (b"[1,2", 1, "unexpected the end"),
        (b"[1,", 1, "unexpected the end"),
        (b"[1,]", 1, "Element 1"),
        (b"[1] 2", 1, "after the end of the array, at byte 4"),
        (b'[{"a":1},{"b":}]' + b" " * 200, 1, "Element 1 (from 0), which begins at byte 9"),
        (b'["a\xff"]', 0, "not UTF-8"),
    ],
)
def test_broken_arrays(content: bytes, count: int, fault: str, cuts: list[int]) -> None:
    """Earlier elements are returned, and the fault has its position."""
    found = []
    with pytest.raises(InputFault) as raised:
        for item in array_elements(_parts(content, cuts)):
            found.append(item)  # noqa: PERF402
    assert len(found) <= max(count, 1)
    assert fault in str(raised.value)


def test_large_elements() -> None:
    """An element above the limit of sources is skipped with a problem; an endless one ends the
    parsing.
    """
    parts = [b'["', b"x" * 30, b'",1]']
    found = list(array_elements(parts, limit=20))
    assert [bool(item.problem) for item in found] == [True, False]
    endless = (b'["' if not number else b"x" * 30 for number in range(10**9))
    with pytest.raises(InputFault):
        list(array_elements(endless, limit=20))


def test_numbers() -> None:
    """Numbers are copied unchanged, even if Python can't represent them."""
    content = b"[1e400, 1.000, " + b"9" * 5000 + b"]"
    assert [item.record for item in array_elements([content])] == [
        b"1e400",
        b"1.000",
        b"9" * 5000,
    ]


@given(
    rows=st.lists(st.lists(st.text('ab,"\n é', max_size=5), min_size=2, max_size=2), max_size=6),
    cuts=_CUTS,
)
def test_csv(rows: list[list[str]], cuts: list[int]) -> None:
    """Rows become objects; parsing can resume after each of them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["x", "y"])
    writer.writerows(rows)
    content = text.getvalue().encode()
    header: list[str] = []
    found = list(csv_rows(_parts(content, cuts), take_header=header.extend))
    assert header == ["x", "y"]
    assert [json.loads(item.record) for item in found] == [{"x": x, "y": y} for x, y in rows]
    for number, item in enumerate(found, 1):
        rest = _parts(content[item.end :], cuts)
        again = csv_rows(rest, header=header, line=item.after, offset=item.end)
        assert list(again) == found[number:]


def test_lines_of_csv() -> None:
    """The line of a row is the one in which it begins."""
    content = b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n\r\n1,2,3\n4,5'
    found = list(csv_rows([content]))
    assert [(item.place, bool(item.problem)) for item in found] == [
        (2, False),
        (5, True),
        (6, False),
    ]
    assert found[0].record == b'{"a":"1","b":"x\\ny"}'


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a,\n1,2\n", "Column 2 of the header has no name"),
        (b"a,a\n1,2\n", 'the name "a" twice'),
        (b"\n", "names of the columns"),
        (b'a,b\n1,"x\n', "begins on line 2"),
        (b"a,b\n1,\xff\n", "not UTF-8"),
        (b"a\n" + b"x" * 5000, "larger than"),
    ],
)
def test_broken_csv(content: bytes, fault: str) -> None:
    """The error has the position of the fault."""
    with pytest.raises(InputFault) as raised:
        list(csv_rows(_parts(content, list(range(0, 400, 3))), limit=100))
    assert fault in str(raised.value)
