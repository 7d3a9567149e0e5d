"""One file on disk, and disks that fail."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.storage.network.interface import NoSpace, WriterUnavailable, WrongOffset
from stream.storage.writer import disk
from stream.storage.writer.disk import DiskFile, open_disk_file

_NAME = "123/456/s/k/file/slice/slice-node.csv"


def _open(root: Path, **options: Any) -> DiskFile:
    defaults: dict[str, Any] = {"resume": -1, "compression": "none", "reserve": 0}
    return open_disk_file(root / _NAME, root, **{**defaults, **options})


def test_appends_follow_one_another(tmp_path: Path) -> None:
    """Each append tells the new length, and the bytes are there."""
    file = _open(tmp_path)
    assert file.append(0, b'"a"\n') == 4
    assert file.append(4, b'"b"\n') == 8
    file.sync()
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n"b"\n'


def test_a_repeated_append_changes_nothing(tmp_path: Path) -> None:
    """The bytes are there already: the answer is the same, the file too."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    file.append(4, b'"b"\n')
    assert file.append(0, b'"a"\n') == 4
    assert file.append(4, b'"b"\n') == 8
    file.close()
    assert (tmp_path / _NAME).stat().st_size == 8


@pytest.mark.parametrize(("offset", "data"), [(5, b"x"), (0, b"other"), (2, b"longer than it")])
def test_another_offset_is_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    """A gap, or other bytes where some are, are a mistake; the true length is told."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    with pytest.raises(WrongOffset) as refused:
        file.append(offset, data)
    assert refused.value.length == 4
    file.close()


def test_space_is_reserved_and_given_back(tmp_path: Path) -> None:
    """A new file takes blocks ahead; its size doesn't show them, and closing returns them."""
    file = _open(tmp_path, reserve=1024 * 1024)
    file.append(0, b'"a"\n')
    assert (tmp_path / _NAME).stat().st_size == 4
    file.close()
    assert (tmp_path / _NAME).stat().st_blocks * 512 < 64 * 1024


def test_a_torn_tail_is_cut_when_the_file_is_opened(tmp_path: Path) -> None:
    """Without knowledge of what was acknowledged, the last whole part decides."""
    member = gzip.compress(b'"a"\n')
    path = tmp_path / _NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(member + member[:10])
    file = _open(tmp_path, compression="gzip")
    assert file.length == len(member)
    file.append(len(member), member)
    file.close()
    assert gzip.decompress(path.read_bytes()) == b'"a"\n"a"\n'


@pytest.mark.parametrize(("resume", "length"), [(0, 0), (4, 4), (8, 8), (99, 8)])
def test_what_was_acknowledged_decides_if_known(tmp_path: Path, resume: int, length: int) -> None:
    """The file is cut to it, and never grows by it."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n"b"\n')
    file.close()
    again = _open(tmp_path, resume=resume)
    assert again.length == length
    again.close()


def _failing(error: int) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    return fail


def test_a_full_disk_keeps_nothing_of_the_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file stays usable: what fits later is appended where the refused one would have been."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    real = os.pwrite
    written: list[int] = []

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if written:
            raise OSError(errno.ENOSPC, "full")
        written.append(real(descriptor, bytes(data)[:2], offset))
        return 2

    monkeypatch.setattr(disk.os, "pwrite", half)
    with pytest.raises(NoSpace):
        file.append(4, b'"b"\n')
    monkeypatch.undo()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n'
    assert file.append(4, b'"c"\n') == 8
    file.close()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system may take only a part at a time."""
    real = os.pwrite
    monkeypatch.setattr(disk.os, "pwrite", lambda d, data, at: real(d, bytes(data)[:3], at))
    file = _open(tmp_path)
    assert file.append(0, b"0123456789") == 10
    monkeypatch.undo()
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_failing_disk_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After an error nothing more is acknowledged through the same descriptor."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    monkeypatch.setattr(disk.os, call, _failing(errno.EIO))
    with pytest.raises(WriterUnavailable):
        file.append(4, b'"b"\n')
        file.sync()
    monkeypatch.undo()
    with pytest.raises(WriterUnavailable, match="given up"):
        file.append(4, b'"b"\n')
    with pytest.raises(WriterUnavailable, match="given up"):
        file.sync()
    file.close()


def test_new_directories_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first acknowledgement every new entry on the way to the file is synced."""
    synced: list[Path] = []
    monkeypatch.setattr(disk, "sync_directory", synced.append)
    _open(tmp_path).close()
    expected = [tmp_path]
    for part in Path(_NAME).parent.parts:
        expected.append(expected[-1] / part)
    assert synced == expected
    synced.clear()
    _open(tmp_path).close()
    assert synced == []


def test_a_file_that_can_not_be_opened_is_told(tmp_path: Path) -> None:
    """The reason is part of the error."""
    (tmp_path / "123").write_text("in the way")
    with pytest.raises(WriterUnavailable, match="cannot open the slice file"):
        _open(tmp_path)
