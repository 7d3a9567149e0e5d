"""The files of a slice in an upload, after a writer found a damaged one."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

import pytest

from stream.storage.model.entity import LocalSlice
from stream.storage.reader.slice_files import FileInUse, check_files
from stream.storage.writer.disk import open_disk_file

_LOCAL = LocalSlice("123/456/s/k/file/slice", "slice", "csv.gz")
_PARTS = [gzip.compress(b'"%d"\n' % index) for index in range(3)]


def _damaged() -> bytes:
    middle = bytearray(_PARTS[1])
    middle[-6] ^= 0xFF
    return _PARTS[0] + bytes(middle) + _PARTS[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / _LOCAL.dir
    made.mkdir(parents=True)
    return made


def _uploaded(volume: Path) -> bytes:
    return gzip.decompress(b"".join(check_files(volume, _LOCAL, "gzip").chunks()()))


def test_new_records_follow_the_valid_ones_of_a_damaged_file(
    tmp_path: Path, directory: Path
) -> None:
    """A source that reconnects continues, and only damaged data is missing in the upload."""
    path = directory / "slice-n.csv.gz"
    path.write_bytes(_damaged())
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    assert file.quarantined == directory / "slice-n.csv.gz.damaged"
    file.append(file.length, gzip.compress(b'"new"\n'))
    file.close()
    assert file.quarantined.read_bytes() == _damaged()
    assert _uploaded(tmp_path) == b'"0"\n"2"\n"new"\n'
    again = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    assert again.quarantined is None
    again.close()


def test_hidden_files_are_uploaded(tmp_path: Path, directory: Path) -> None:
    """Files with both kinds of names are read, and keep their names."""
    (directory / "slice-a.csv.gz").write_bytes(_PARTS[0])
    (directory / ".slice-b.csv.gz").write_bytes(_PARTS[1])
    for _ in range(2):
        assert sorted(_uploaded(tmp_path).splitlines()) == [b'"0"', b'"1"']


def test_a_file_that_is_open_for_writing(tmp_path: Path, directory: Path) -> None:
    """The file isn't treated as finished, whatever the states in etcd: rows may still arrive."""
    path = directory / "slice-n.csv.gz"
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    file.append(0, gzip.compress(b'"early"\n'))
    with pytest.raises(FileInUse, match="slice-n"):
        check_files(tmp_path, _LOCAL, "gzip")
    file.append(file.length, gzip.compress(b'"late"\n'))
    file.close()
    assert _uploaded(tmp_path) == b'"early"\n"late"\n'


def test_a_repaired_file_can_be_in_use(tmp_path: Path, directory: Path) -> None:
    """The repaired file is another one than the opened file."""
    path = directory / "slice-n.csv.gz"
    path.write_bytes(_damaged())
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    with pytest.raises(FileInUse):
        check_files(tmp_path, _LOCAL, "gzip")
    file.close()
    assert _uploaded(tmp_path) == b'"0"\n"2"\n'


def test_a_file_damaged_after_its_last_record(tmp_path: Path, directory: Path) -> None:
    """The upload is always the same, and the original is quarantined once."""
    (directory / "slice-n.csv.gz").write_bytes(_damaged())
    for _ in range(2):
        found = check_files(tmp_path, _LOCAL, "gzip")
        assert (found.rows, found.damaged, found.cut) == (2, ("slice-n.csv.gz.damaged",), ())
        assert found.size == len(b"".join(found.chunks()()))
        assert _uploaded(tmp_path) == b'"0"\n"2"\n'
    assert len(list(directory.iterdir())) == 2


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_another_kind_of_file(tmp_path: Path, directory: Path, kind: str) -> None:
    """A directory, a link or a FIFO is quarantined by reader and writer, and doesn't block them."""
    path = directory / "slice-n.csv.gz"
    (directory / "slice-m.csv.gz").write_bytes(_PARTS[0])

    def place() -> None:
        if kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(path)

    place()
    found = check_files(tmp_path, _LOCAL, "gzip")
    assert (found.rows, found.damaged) == (1, ("slice-n.csv.gz.damaged",))
    place()
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    assert (file.length, file.quarantined) == (0, directory / "slice-n.csv.gz.damaged-2")
    file.append(0, _PARTS[1])
    file.close()
    assert _uploaded(tmp_path) == b'"0"\n"1"\n'
    assert not (tmp_path / "elsewhere").exists()


def _unfinished(*rows: bytes) -> bytes:
    """Return a stream that the original service has flushed but not finished."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packer.compress(row) + packer.flush(zlib.Z_SYNC_FLUSH) for row in rows)


def test_files_of_the_original_are_finished(tmp_path: Path, directory: Path) -> None:
    """Files of a killed node are uploaded with every flushed row, and logged once."""
    path = directory / ".slice-n.csv.gz"
    path.write_bytes(_unfinished(b'"0"\n', b'"1"\n') + _unfinished(b'"2"\n'))
    (directory / "slice-n.csv.gz").write_bytes(_PARTS[1])
    checked = check_files(tmp_path, _LOCAL, "gzip")
    assert (checked.finished, checked.rows, checked.damaged) == ((path.name,), 4, ())
    assert sorted(_uploaded(tmp_path).splitlines()) == [b'"0"', b'"1"', b'"1"', b'"2"']
    assert check_files(tmp_path, _LOCAL, "gzip").finished == ()


def test_a_file_of_the_original_is_continued(tmp_path: Path, directory: Path) -> None:
    """The stream is finished before this service writes to it; its own files are truncated as
    usual.
    """
    path = directory / "slice-n.csv.gz"
    path.write_bytes(_unfinished(b'"0"\n'))
    file = open_disk_file(path, tmp_path, life=1, resume=-1, compression="gzip", reserve=0)
    file.append(file.length, gzip.compress(b'"new"\n'))
    file.append(file.length, _unfinished(b'"torn"\n'))
    file.close()
    again = open_disk_file(path, tmp_path, life=2, resume=-1, compression="gzip", reserve=0)
    again.close()
    assert _uploaded(tmp_path) == b'"0"\n"new"\n'
