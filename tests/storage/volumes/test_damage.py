"""Reading of files that a disk has damaged, and their quarantine."""

from __future__ import annotations

import errno
import gzip
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stream.storage.volumes.damage import Recovered, recover
from stream.storage.volumes.quarantine import link_quarantined, quarantine, repair

_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def _rows(index: int) -> bytes:
    return b'"%d","%s"\n' % (index, random.Random(index).randbytes(40).hex().encode()) * 3


def _taken(file: bytes, found: Recovered) -> bytes:
    return b"".join(file[start:end] for start, end in found.parts)


@given(
    st.sampled_from(sorted(_COMPRESSORS)),
    st.integers(min_value=2, max_value=6),
    st.data(),
)
def test_only_the_damaged_part_is_missing(
    compression: str, count: int, data: st.DataObject
) -> None:
    """One flipped bit loses at most one part; all others are found, once each."""
    parts = [_COMPRESSORS[compression](_rows(index)) for index in range(count)]
    hit = data.draw(st.integers(min_value=0, max_value=count - 2))
    bit = data.draw(st.integers(min_value=0, max_value=len(parts[hit]) * 8 - 1))
    broken = bytearray(parts[hit])
    broken[bit // 8] ^= 1 << bit % 8
    file = b"".join([*parts[:hit], bytes(broken), *parts[hit + 1 :]])
    found = recover(io.BytesIO(file), compression)
    others = b"".join(parts[:hit] + parts[hit + 1 :])
    # A bit without a checksum (a time in a header) damages nothing.
    assert _taken(file, found) in (others, file)
    if _taken(file, found) == others:
        assert found.is_damaged
        assert found.rows == 3 * (count - 1)


@pytest.mark.parametrize("compression", sorted(_COMPRESSORS))
def test_a_torn_end_is_not_damage(compression: str) -> None:
    """A crash leaves an incomplete part or zeros, and no acknowledged data is missing."""
    part = _COMPRESSORS[compression](_rows(1))
    for end in (part[:-1], part[: len(part) // 2], bytes(4096), b""):
        found = recover(io.BytesIO(part + end), compression)
        assert (found.parts, found.is_damaged) == (((0, len(part)),), False)


def test_an_uncompressed_file_is_read_up_to_a_hole() -> None:
    """After a hole the beginnings of rows are unknown."""
    found = recover(io.BytesIO(b'"a"\n' + bytes(8) + b'"b"\n'), "none")
    assert (found.parts, found.rows, found.is_damaged) == (((0, 4),), 1, True)
    assert not recover(io.BytesIO(b'"a"\n"b'), "none").is_damaged


def test_a_gzip_file_in_a_value() -> None:
    """A gzip file inside a producer's value isn't a part of the slice."""
    inner = gzip.compress(b"not a row")
    broken = bytearray(gzip.compress(inner * 3, 0) + gzip.compress(_rows(1)))
    broken[20] ^= 0xFF
    assert recover(io.BytesIO(bytes(broken)), "gzip").rows == 3


class BadSector(io.BytesIO):
    """A file that can't be read at one offset of the disk."""

    bad = range(0)

    def read(self, size: int | None = -1, /) -> bytes:
        position, wanted = self.tell(), 1 << 60 if size is None or size < 0 else size
        if position < self.bad.stop and position + wanted > self.bad.start:
            raise OSError(errno.EIO, "input/output error")
        return super().read(size)


def test_a_bad_sector_loses_only_its_parts() -> None:
    """Parts after it are found; errors other than those of the medium are passed on."""
    parts = [
        gzip.compress(os.urandom(60_000).hex().encode().join([b'"', b'"\n'])) for _ in range(9)
    ]
    file = BadSector(b"".join(parts))
    start = len(parts[0]) * 4
    file.bad = range(start - start % 4096, start - start % 4096 + 4096)
    found = recover(file, "gzip")
    assert found.is_damaged
    assert found.rows >= 4
    assert found.parts[-1][1] == len(b"".join(parts))


def test_a_damaged_file_is_repaired_and_quarantined(tmp_path: Path) -> None:
    """No other files remain, and the mode is kept."""
    path = tmp_path / "slice-n.csv"
    path.write_bytes(b"good bad good")
    path.chmod(0o600)
    with path.open("rb") as file:
        kept = repair(path, file, [(0, 5), (9, 13)])
    assert path.read_bytes() == b"good good"
    assert kept.read_bytes() == b"good bad good"
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slice-n.csv", "slice-n.csv.damaged"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_failed_repair_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The damaged file is kept."""
    path = tmp_path / "slice-n.csv"
    path.write_bytes(b"good bad good")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, call, fail)
    with path.open("rb") as file, pytest.raises(OSError, match="full"):
        repair(path, file, [(0, 5)])
    assert [p.name for p in tmp_path.iterdir()] == ["slice-n.csv"]
    assert path.read_bytes() == b"good bad good"


def test_names_of_quarantined_files_are_unique(tmp_path: Path) -> None:
    """Each file has its own name, and a file quarantined twice has one."""
    path = tmp_path / "slice"
    path.write_text("1")
    assert link_quarantined(path) == link_quarantined(path) == tmp_path / "slice.damaged"
    assert quarantine(path) == tmp_path / "slice.damaged-2"
    path.mkdir()
    assert quarantine(path) == tmp_path / "slice.damaged-3"
    path.symlink_to("nowhere")
    assert quarantine(path).is_symlink()
    assert not os.path.lexists(path)
