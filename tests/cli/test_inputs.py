"""Inputs of a push: compressed, damaged, binary or growing ones."""

from __future__ import annotations

import gzip
import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stream.cli.push.inputs import Input
from stream.cli.push.records import InputFault

_LINES = b"".join(b'{"id":%d}\n' % number for number in range(50_000))
_COMPRESSED = {
    "plain": _LINES,
    "gzip": gzip.compress(_LINES[:300_000], 1) + gzip.compress(_LINES[300_000:], 1),
    "zstd": zstandard.compress(_LINES[:300_000]) + zstandard.compress(_LINES[300_000:]),
}


def _input(path: Path, content: bytes, name: str = "records") -> Input:
    (path / name).write_bytes(content)
    return Input(str(path / name))


@pytest.mark.parametrize("offset", [0, 7, 299_999, 300_001, len(_LINES)])
@pytest.mark.parametrize("kind", _COMPRESSED)
def test_parts(kind: str, offset: int, tmp_path: Path) -> None:
    """The content can be read from any offset."""
    given = _input(tmp_path, _COMPRESSED[kind])
    assert given.size == len(_COMPRESSED[kind])
    parts = list(given.parts(offset))
    assert b"".join(parts) == _LINES[offset:]
    assert all(0 < len(part) <= 1024 * 1024 for part in parts)
    assert given.position == given.size
    given.close()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (_COMPRESSED["gzip"][:-30], "is truncated"),
        (_COMPRESSED["gzip"][:5000] + b"x" * 5000, "damaged"),
        (_COMPRESSED["zstd"][:-30], "is truncated"),
        (_COMPRESSED["zstd"] + b"x" * 5000, "damaged"),
        (b'{"id":1}\n\0', "binary"),
        (gzip.compress(b"\0" * 100, mtime=0), "binary"),
        ('{"id":1}'.encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04\0", "binary"),
    ],
)
def test_faults(content: bytes, fault: str, tmp_path: Path) -> None:
    """Faults are reported."""
    given = _input(tmp_path, content)
    given.format()
    with pytest.raises(InputFault, match=fault):
        list(given.parts())


def test_a_truncated_input(tmp_path: Path) -> None:
    """A push can't be resumed with an input that is shorter than before."""
    with pytest.raises(InputFault, match="shorter"):
        list(_input(tmp_path, _COMPRESSED["gzip"]).parts(len(_LINES) + 1))


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.csv", b"[1", "csv"),
        ("a.CSV.gz", b"a,b", "csv"),
        ("a.ndjson", b"[1]", "ndjson"),
        ("a.json", b"\xef\xbb\xbf \n[1]", "json"),
        ("a.json", b'{"a":1}\n{"a":2}', "ndjson"),
        ("a.json.gz", gzip.compress(b"[1]", mtime=0), "json"),
        ("a.zst", zstandard.compress(b" [1]"), "json"),
        ("a", b"", "ndjson"),
    ],
)
def test_formats(name: str, content: bytes, format: str, tmp_path: Path) -> None:
    """The format is derived from the file name, otherwise from the content."""
    assert _input(tmp_path, content, name).format() == format


def test_the_same_file(tmp_path: Path) -> None:
    """A file that has grown is the same file; one with another beginning is not."""
    head = _input(tmp_path, b"one\n").head
    assert _input(tmp_path, b"one\ntwo\n").has_head(head)
    assert not _input(tmp_path, b"two\n").has_head(head)
    assert not _input(tmp_path, b"one").has_head(head)
    given = _input(tmp_path, b"one\ntwo\n")
    given.has_head(head)
    assert b"".join(given.parts()) == b"one\ntwo\n"


def test_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without data returns an empty part, so that pending records can be sent."""
    reading, writing = os.pipe()
    standard: Any = io.TextIOWrapper(os.fdopen(reading, "rb"))
    monkeypatch.setattr("sys.stdin", standard)
    os.write(writing, b"1\n")
    given = Input("-")
    assert (given.size, given.head, given.format()) == (None, "", "ndjson")
    parts = given.parts(ticks=0.01)
    assert next(parts) == b"1\n"
    assert next(parts) == b""

    def write() -> None:
        os.write(writing, b"2\n")
        os.close(writing)

    written = threading.Thread(target=write)
    written.start()
    assert b"".join(parts) == b"2\n"
    written.join()
    standard.close()


def test_a_missing_file(tmp_path: Path) -> None:
    """The error is that of the operating system."""
    with pytest.raises(OSError, match="No such file"):
        Input(str(tmp_path / "none"))
