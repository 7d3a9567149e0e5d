"""Files of the original service with unfinished streams."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.volumes import unfinished
from stream.storage.volumes.damage import recover
from stream.storage.volumes.unfinished import (
    Finished,
    finish_streams,
    is_of_original,
    life_path,
    unfinished_rows,
)

NAME = ".slice-node.csv.gz"


def rows(start: int, count: int) -> bytes:
    """Return rows, some with a line feed or a quote in a value."""
    cells = (b'"%d","a ""quoted""\nline"\n' % number for number in range(start, start + count))
    return b"".join(cells)


def stream(*flushes: bytes, tail: bytes = b"", finished: bool = False) -> bytes:
    """Return a stream in the format of the original: a marker after each flush.

    :param tail: data that was compressed but not flushed.
    """
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    data = b""
    for flush in flushes:
        data += packer.compress(flush) + packer.flush(zlib.Z_SYNC_FLUSH)
    if finished:
        return data + packer.compress(tail) + packer.flush()
    if tail:
        whole = data + packer.compress(tail) + packer.flush()
        return whole[: len(data) + (len(whole) - len(data)) // 2]
    return data


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def names(path: Path) -> list[str]:
    """Return the names in the directory of the file."""
    return [entry.name for entry in path.parent.iterdir()]


def content(path: Path) -> bytes:
    """Return the content as any gzip reader decompresses it."""
    return gzip.decompress(path.read_bytes())


def test_a_killed_node(path: Path) -> None:
    """The file has exactly the flushed rows, and any gzip reader can decompress it."""
    path.write_bytes(stream(rows(0, 3), rows(3, 4), tail=rows(7, 5000)))
    assert unfinished_rows(path) == 7
    assert finish_streams(path) == Finished(7, None)
    assert content(path) == rows(0, 7)
    assert names(path) == [NAME]
    assert finish_streams(path) is None and unfinished_rows(path) == 0


def test_a_restarted_node(path: Path) -> None:
    """The second stream of the node starts after the marker of the first."""
    path.write_bytes(
        stream(rows(0, 2)) + stream(rows(2, 2), finished=True) + stream(rows(4, 1), tail=rows(5, 9))
    )
    assert finish_streams(path) == Finished(3, None)
    assert content(path) == rows(0, 5)


@given(st.integers(0, 400), st.integers(1, 300), st.integers(1, 40))
def test_a_killed_writer(
    tmp_path_factory: pytest.TempPathFactory, tail: int, torn: int, count: int
) -> None:
    """After a torn end, the next stream may look like a continuation of the first; its rows are
    kept.
    """
    path = tmp_path_factory.mktemp("torn") / NAME
    first = stream(rows(0, 50))
    unflushed = stream(rows(0, 50), tail=rows(50, 100 + tail))[len(first) :][:torn]
    second = stream(rows(1000, count), rows(2000, 3))
    path.write_bytes(first + unflushed + second)
    finished = finish_streams(path)
    assert finished is not None and finished.rows == 50 + count + 3
    assert content(path) == rows(0, 50) + rows(1000, count) + rows(2000, 3)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1f\x8b",
        stream(rows(0, 1))[:10],
        stream(rows(0, 5), finished=True),
        gzip.compress(rows(0, 5)) * 2,
        gzip.compress(rows(0, 5)) + gzip.compress(rows(5, 5))[:-9],
        b"no gzip at all",
    ],
    ids=["empty", "two-bytes", "header", "finished", "groups", "torn-group", "something-else"],
)
def test_files_that_need_no_repair(path: Path, data: bytes) -> None:
    """The file is unchanged: all acknowledged rows in it can be read."""
    path.write_bytes(data)
    assert finish_streams(path) is None and unfinished_rows(path) == 0
    assert path.read_bytes() == data


def test_damage_between_readable_rows(path: Path) -> None:
    """Readable data on both sides is kept, and the original file is quarantined."""
    first = bytearray(stream(rows(0, 2), rows(2, 2000)))
    end_of_first_flush = bytes(first).index(b"\x00\x00\xff\xff") + 4
    first[end_of_first_flush : end_of_first_flush + 40] = bytes([0x07]) * 40
    whole = bytes(first) + stream(rows(4000, 2))
    path.write_bytes(whole)
    finished = finish_streams(path)
    assert finished is not None and finished.kept is not None
    assert finished.kept.read_bytes() == whole
    assert content(path) == rows(0, 2) + rows(4000, 2)


def test_an_interrupted_repair(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is unchanged, no other file remains, and the next attempt succeeds."""
    data = stream(rows(0, 3))
    path.write_bytes(data)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "sync_file", full)
        with pytest.raises(OSError, match="No space"):
            finish_streams(path)
    assert path.read_bytes() == data and names(path) == [NAME]
    path.with_name(f".{NAME}.finished").write_bytes(b"of a process that was killed")
    assert finish_streams(path) == Finished(3, None)
    assert names(path) == [NAME]


def test_the_owner_of_a_file(path: Path) -> None:
    """A file that this service has opened has a note."""
    path.write_bytes(b"")
    assert is_of_original(path)
    life_path(path).write_text("7\n")
    assert not is_of_original(path)


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 30), max_size=3), st.booleans()), min_size=1, max_size=4
    ),
    st.integers(0, 40),
)
def test_any_history(
    tmp_path_factory: pytest.TempPathFactory, lives: Sequence[tuple[list[int], bool]], tail: int
) -> None:
    """After any kills and stops of the node, the rows are the flushed ones."""
    path = tmp_path_factory.mktemp("any") / NAME
    data, number, flushed = b"", 0, b""
    for index, (counts, finished) in enumerate(lives):
        flushes = []
        for count in counts:
            flushes.append(rows(number, count))
            number += count
        is_last = index == len(lives) - 1
        if not flushes and not finished:
            continue  # its writer has truncated the file to the flushed data, which is empty
        torn = rows(number, tail) if is_last and not finished and tail else b""
        data += stream(*flushes, finished=finished, tail=torn)
        flushed += b"".join(flushes)
    path.write_bytes(data)
    finish_streams(path)
    with path.open("rb", buffering=0) as file:
        found = recover(file, "gzip")
        file.seek(0)
        read = b"".join(
            file.read(end - start) for start, end in found.parts if not file.seek(start) < 0
        )
    assert (gzip.decompress(read) if read else b"") == flushed
    assert not found.is_damaged
