"""Uncompressed files of the original with a row that was torn when its writer was killed."""

from __future__ import annotations

import errno
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.model.entity import LocalSlice
from stream.storage.reader.slice_files import check_files
from stream.storage.volumes.torn_rows import _found, drop_torn_rows, whole_rows
from stream.storage.volumes.unfinished import life_path

ROWS = b'"1","a"\n"2","b ""quoted"", and\nmore"\n'
AFTER = b'"3","c"\n"4","d"\n'


def content(data: bytes) -> bytes:
    """Return the readable content of a file."""
    return b"".join(data[start:end] for start, end in whole_rows(data))


@pytest.mark.parametrize("torn", [b'"9', b'"9","x', b'"9","x""y', b'"9",', b'"9","x\ny'])
def test_rows_after_a_torn_one_are_read(torn: bytes) -> None:
    """The row may be torn anywhere, and may also be the first or the last."""
    assert content(ROWS + torn + AFTER) == ROWS + AFTER
    assert content(torn + AFTER + ROWS) == AFTER + ROWS
    assert content(ROWS + torn + AFTER + torn + ROWS) == ROWS + AFTER + ROWS
    assert content(ROWS + torn) == ROWS


def test_files_that_are_not_torn() -> None:
    """Other files are one part or none."""
    assert whole_rows(ROWS) == [(0, len(ROWS))]
    assert whole_rows(b"") == whole_rows(b'"a') == []
    assert whole_rows(b'"a"\n"b"\n') == [(0, 8)]


_CELLS = st.text(alphabet='ab,\n"', max_size=6)


@given(st.lists(st.tuples(_CELLS, _CELLS, _CELLS), max_size=8), st.data())
def test_a_file_without_a_torn_row_is_not_changed(
    rows: list[tuple[str, ...]], data: st.DataObject
) -> None:
    """The values and the data after the last row have no effect."""
    quoted = [",".join('"' + c.replace('"', '""') + '"' for c in row) + "\n" for row in rows]
    whole = "".join(quoted).encode()
    assert content(whole) == whole
    if rows:
        tail = data.draw(st.integers(0, len(quoted[0].encode()) - 1))
        assert content(whole + quoted[0].encode()[:tail]).startswith(whole)


_PATTERNS = [
    re.compile(_VALUE + rb"(?:," + _VALUE + rb")" + count + rb"+\n")
    for _VALUE in [rb'"[^"]*+(?:""[^"]*+)*+"']
    for count in (rb"{0}", rb"{1}", rb"{2}", rb"*")
]


@given(st.text(alphabet='a,\n""""', max_size=40), st.integers(0, 5), st.sampled_from(_PATTERNS))
def test_the_search_agrees_with_a_regular_expression(
    text: str, position: int, rows: re.Pattern[bytes]
) -> None:
    """The search finds the same row in fewer steps."""
    found = rows.search(text.encode(), position)
    assert _found(text.encode(), position, rows) == (found.span() if found else (-1, -1))


class _BadDisk(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        raise OSError(errno.EIO, "Input/output error")


def test_an_unreadable_file_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file isn't mapped to memory, since an unreadable page would kill the process."""
    path = tmp_path / "slice-node.csv"
    path.write_bytes(ROWS + b'"9","x' + AFTER)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda found, *_, **__: _BadDisk(found))
        assert drop_torn_rows(path) is None
    assert path.read_bytes() == ROWS + b'"9","x' + AFTER
    assert drop_torn_rows(path) is not None


def test_the_file_is_replaced_and_kept(tmp_path: Path) -> None:
    """The file is replaced once, and only if this service has never opened it."""
    path = tmp_path / "dir" / "slice-node.csv"
    path.parent.mkdir()
    path.write_bytes(ROWS + b'"9","x' + AFTER)
    local = LocalSlice(dir="dir", filename_prefix="slice", filename_extension="csv", is_empty=False)
    checked = check_files(tmp_path, local, "none")
    assert checked.rows == 4
    assert b"".join(checked.chunks()()) == ROWS + AFTER == path.read_bytes()
    assert checked.finished == (path.name,)
    [kept] = checked.damaged
    assert (path.parent / kept).read_bytes() == ROWS + b'"9","x' + AFTER
    assert drop_torn_rows(path) is None
    path.write_bytes(ROWS + b'"9","x' + AFTER)
    life_path(path).write_text("1\n")
    assert check_files(tmp_path, local, "none").finished == ()
