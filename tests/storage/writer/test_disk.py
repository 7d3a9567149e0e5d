"""One file on disk, and disks that fail."""

from __future__ import annotations

import errno
import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.storage.network.interface import (
    ContentConflict,
    Fenced,
    NoSpace,
    SliceSealed,
    WriterUnavailable,
    WrongOffset,
)
from stream.storage.volumes.unfinished import life_path
from stream.storage.writer import disk
from stream.storage.writer.disk import DiskFile, open_disk_file

_NAME = "123/456/s/k/file/slice/slice-node.csv"


def _open(root: Path, **options: Any) -> DiskFile:
    defaults: dict[str, Any] = {"life": 1, "resume": -1, "compression": "none", "reserve": 0}
    return open_disk_file(root / _NAME, root, **{**defaults, **options})


def test_appends_are_sequential(tmp_path: Path) -> None:
    """Each append returns the new length, and the bytes are stored."""
    file = _open(tmp_path)
    assert file.append(0, b'"a"\n') == 4
    assert file.append(4, b'"b"\n') == 8
    file.sync()
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n"b"\n'


def test_a_file_in_use_is_not_opened(tmp_path: Path) -> None:
    """The file isn't truncated before its other user has closed it."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    with pytest.raises(WriterUnavailable, match="in use"):
        _open(tmp_path, resume=0)
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n'
    _open(tmp_path, resume=0).close()


def test_a_repeated_append_changes_nothing(tmp_path: Path) -> None:
    """The bytes are already stored: the answer is the same, and so is the file."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    file.append(4, b'"b"\n')
    assert file.append(0, b'"a"\n') == 4
    assert file.append(4, b'"b"\n') == 8
    file.close()
    assert (tmp_path / _NAME).stat().st_size == 8


def test_a_file_stays_with_python_code_until_that_has_met_the_error(tmp_path: Path) -> None:
    """An append that writes nothing isn't the repetition of one that compiled code failed to write.

    Otherwise compiled code would write again, and leave bytes of the failed append behind its own.
    """
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    assert file.place_of([(4, b"x")]) is not None
    (tmp_path / _NAME).write_bytes(b'"a"\n"b')
    file.meet(errno.ENOSPC, 0)
    assert file.append(0, b'"a"\n') == 4
    assert file.place_of([(4, b"x")]) is None
    with pytest.raises(NoSpace):
        file.append(4, b'"b"\n')
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n'
    assert file.place_of([(4, b"x")]) is not None
    file.close()


def test_a_sync_that_failed_in_compiled_code_is_not_repeated(tmp_path: Path) -> None:
    """Appends that need no sync don't make the file usable for compiled code."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    file.promise()
    file.meet(0, errno.EIO)
    file.append(4, b'"b"\n')
    assert file.place_of([(8, b"x")]) is None
    with pytest.raises(WriterUnavailable):
        file.sync()
    assert file.broken
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n'
    file.close()


@pytest.mark.parametrize(("offset", "data"), [(5, b"x"), (2, b"longer than it"), (-1, b"x")])
def test_another_offset_is_refused(tmp_path: Path, offset: int, data: bytes) -> None:
    """A gap and an overlap are errors, which contain the actual length."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    with pytest.raises(WrongOffset) as refused:
        file.append(offset, data)
    assert refused.value.length == 4
    file.close()


def test_other_bytes_at_a_stored_offset_are_refused(tmp_path: Path) -> None:
    """Stored data isn't overwritten, and the file can still be used."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    file.append(4, b'"b"\n')
    with pytest.raises(ContentConflict):
        file.append(0, b'"x"\n')
    assert file.append(8, b'"c"\n') == 12
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n"b"\n"c"\n'


def test_space_is_reserved_and_released(tmp_path: Path) -> None:
    """A new file reserves blocks beyond its size, and closing releases them."""
    file = _open(tmp_path, reserve=1024 * 1024)
    file.append(0, b'"a"\n')
    assert (tmp_path / _NAME).stat().st_size == 4
    file.close()
    assert (tmp_path / _NAME).stat().st_blocks * 512 < 64 * 1024


def test_a_torn_tail_is_truncated_at_the_opening(tmp_path: Path) -> None:
    """Without the acknowledged length, the file is truncated after the last complete part."""
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
def test_the_acknowledged_length_takes_precedence(tmp_path: Path, resume: int, length: int) -> None:
    """The file is truncated to it, and never extended."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n"b"\n')
    file.close()
    again = _open(tmp_path, resume=resume)
    assert again.length == length
    again.close()


class FaultyDisk:
    """Replaces `os` in the module under test: some calls fail, or do less than requested.

    :ivar calls: the calls in order.
    """

    def __init__(self, **faults: Callable[..., Any]) -> None:
        self._faults = faults
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real):
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            return self._faults.get(name, real)(*arguments, **options)

        return call


def _failing(error: int, *, after: int = 0) -> Callable[..., Any]:
    """Fail once the first *after* calls have written two bytes each."""
    left = [after]

    def fail(descriptor: int, buffers: Any = None, offset: int = 0) -> int:
        if left[0]:
            left[0] -= 1
            return os.pwrite(descriptor, bytes(buffers[0])[:2], offset)
        raise OSError(error, os.strerror(error))

    return fail


def _use(monkeypatch: pytest.MonkeyPatch, **faults: Callable[..., Any]) -> FaultyDisk:
    faulty = FaultyDisk(**faults)
    monkeypatch.setattr(disk, "os", faulty)
    return faulty


def test_a_full_disk_stores_nothing_of_the_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file can still be used: a smaller append is stored at the offset of the refused one."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    _use(monkeypatch, pwritev=_failing(errno.ENOSPC, after=1))
    with pytest.raises(NoSpace):
        file.append(4, b'"b"\n')
    monkeypatch.undo()
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n'
    assert file.append(4, b'"c"\n') == 8
    file.close()


def test_appends_that_fit_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that doesn't fit is refused because of space, the rest because of
    their offset.
    """
    file = _open(tmp_path)
    room = 8

    def limited(descriptor: int, buffers: Any, offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)[: max(0, room - offset)]
        if not data:
            raise OSError(errno.ENOSPC, "full")
        return os.pwrite(descriptor, data, offset)

    _use(monkeypatch, pwritev=limited)
    results = file.append_many([(0, b"aaa\n"), (4, b"bbb\n"), (8, b"ccc\n"), (12, b"d\n")])
    assert results[:2] == [4, 8]
    assert isinstance(results[2], NoSpace)
    assert isinstance(results[3], WrongOffset)
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b"aaa\nbbb\n"


def test_a_full_disk_that_can_not_be_truncated_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content at the end of the file is then unknown."""
    file = _open(tmp_path)
    _use(monkeypatch, pwritev=_failing(errno.ENOSPC), ftruncate=_failing(errno.EIO))
    with pytest.raises(WriterUnavailable):
        file.append(0, b'"b"\n')
    monkeypatch.undo()
    with pytest.raises(WriterUnavailable, match="was abandoned"):
        file.append(0, b'"b"\n')
    file.close()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system may write only a part, which can end within an append."""
    _use(
        monkeypatch,
        pwritev=lambda d, buffers, at: os.pwrite(d, b"".join(map(bytes, buffers))[:3], at),
    )
    file = _open(tmp_path)
    assert file.append_many([(0, b"01234"), (5, b""), (5, b"5"), (6, b"6789")]) == [5, 5, 6, 10]
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b"0123456789"


def test_very_many_appends_are_written_together(tmp_path: Path) -> None:
    """The appends exceed the limit of one system call."""
    file = _open(tmp_path)
    appends = [(index * 5, b"%04d\n" % index) for index in range(3000)]
    assert file.append_many(appends) == [(index + 1) * 5 for index in range(3000)]
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b"".join(data for _, data in appends)


@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_a_failing_disk_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After an error no append is acknowledged through the same descriptor."""
    file = _open(tmp_path)
    file.append(0, b'"a"\n')
    _use(monkeypatch, **{call: _failing(errno.EIO)})
    with pytest.raises(WriterUnavailable):
        file.append(4, b'"b"\n')
        file.sync()
    monkeypatch.undo()
    with pytest.raises(WriterUnavailable, match="was abandoned"):
        file.append(4, b'"b"\n')
    with pytest.raises(WriterUnavailable, match="was abandoned"):
        file.sync()
    file.close()


def test_after_a_failed_sync_acknowledged_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows acknowledged in cache mode are kept, and all others are truncated."""
    file = _open(tmp_path)
    file.append(0, b"a\n")
    file.sync()
    file.append(2, b"b\n")
    file.promise()
    file.append(4, b"c\n")
    _use(monkeypatch, fdatasync=_failing(errno.EIO))
    with pytest.raises(WriterUnavailable, match="cannot sync"):
        file.sync()
    monkeypatch.undo()
    assert (tmp_path / _NAME).read_bytes() == b"a\nb\n"
    file.close()


def test_a_repeated_append_that_can_not_be_compared_ends_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored bytes are unknown, so the file is abandoned."""
    file = _open(tmp_path)
    file.append(0, b"a\n")
    _use(monkeypatch, pread=_failing(errno.EIO))
    with pytest.raises(WriterUnavailable):
        file.append(0, b"a\n")
    assert file.broken
    file.close()


def test_a_refused_file_accepts_nothing(tmp_path: Path) -> None:
    """Rows queued when the slice is sealed aren't written."""
    file = _open(tmp_path)
    file.append(0, b"a\n")
    file.refuse(SliceSealed("sealed"))
    with pytest.raises(SliceSealed):
        file.append(2, b"b\n")
    with pytest.raises(SliceSealed):
        file.append(0, b"a\n")
    file.close()


def test_directory_entries_are_synced_before_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its directories are synced, even if another process created them.

    That process may have been killed before it synced them.
    """
    synced: list[Path] = []

    def note(path: Path) -> None:
        assert (tmp_path / _NAME).exists()
        synced.append(path)

    monkeypatch.setattr(disk, "sync_directory", note)
    expected = list((tmp_path / _NAME).parents)
    expected = expected[: expected.index(tmp_path) + 1]
    for _ in range(2):
        _open(tmp_path).close()
        assert synced == expected
        synced.clear()


def test_existing_data_is_synced_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that wrote the data may have been killed before a sync."""
    path = tmp_path / _NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(b'"a"\n')
    faulty = _use(monkeypatch)
    file = _open(tmp_path)
    assert (file.length, "fsync" in faulty.calls) == (4, True)
    file.close()


def test_a_parent_removed_meanwhile_is_created_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cleanup may remove an empty directory just before a child is created."""
    real = Path.mkdir
    removed: list[Path] = []

    def interfering(path: Path, *arguments: Any, **options: Any) -> None:
        if path.name == "slice" and not removed:
            removed.append(path.parent)
            path.parent.rmdir()
        real(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", interfering)
    file = _open(tmp_path)
    assert removed
    file.append(0, b"a\n")
    file.close()


def test_modes_of_files_and_directories(tmp_path: Path) -> None:
    """Only the owner may write, only the group may read."""
    _open(tmp_path).close()
    assert stat.S_IMODE((tmp_path / _NAME).stat().st_mode) & ~0o600 == 0
    assert stat.S_IMODE((tmp_path / _NAME).parent.stat().st_mode) & ~0o700 == 0


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """A slice file is a file of the volume itself, so the link is quarantined."""
    path = tmp_path / _NAME
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    file = _open(tmp_path)
    file.append(0, b"a\n")
    file.close()
    assert path.read_bytes() == b"a\n"
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_can_not_be_opened(tmp_path: Path) -> None:
    """The error contains the reason."""
    (tmp_path / "123").write_text("in the way")
    with pytest.raises(WriterUnavailable, match="cannot open the slice file"):
        _open(tmp_path)


def test_no_space_for_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is specific, so that the source uses another volume instead of a retry."""
    _use(monkeypatch, open=_failing(errno.ENOSPC))
    with pytest.raises(NoSpace):
        _open(tmp_path)


def test_a_reservation_that_fails_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every file system can reserve space."""
    monkeypatch.setattr(disk, "_libc", object())
    file = _open(tmp_path, reserve=1024 * 1024)
    assert file.append(0, b"a\n") == 2
    file.close()


def test_another_life_continues_after_the_readable_data(tmp_path: Path) -> None:
    """The other life can't truncate the rows of the former life by sending a length."""
    file = _open(tmp_path, life=5)
    file.append(0, b'"a"\n"b"\n"tor')
    file.close()
    for other in (4, 6):
        with pytest.raises(Fenced):
            _open(tmp_path, life=other, resume=4)
    assert (tmp_path / _NAME).read_bytes() == b'"a"\n"b"\n"tor'
    again = _open(tmp_path, life=6)
    assert again.length == 8
    again.close()
    with pytest.raises(Fenced):
        _open(tmp_path, life=5, resume=4)
    own = _open(tmp_path, life=6, resume=4)
    assert own.length == 4
    own.close()


def test_a_life_is_recorded_before_its_file_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The life is recorded only if another life had the file; a file without a record belongs to no
    life.
    """
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        os.fsync(descriptor)

    monkeypatch.setattr(disk, "os", FaultyDisk(fsync=fsync))
    noted = life_path(Path(_NAME)).name
    for _ in range(2):
        _open(tmp_path, life=5).close()
    assert synced.count(f"{noted}.new") == 1
    path = (tmp_path / _NAME).with_name(noted)
    assert path.read_text() == "5\n"
    (tmp_path / _NAME).write_bytes(b'"a"\n"b"\n')
    path.unlink()
    with pytest.raises(Fenced):
        _open(tmp_path, life=5, resume=4)


def test_a_system_without_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are stored without fdatasync(), for example on macOS."""
    monkeypatch.delattr("os.fdatasync")
    file = _open(tmp_path)
    assert file.append(0, b"abc") == 3
    assert file.sync()
    file.close()
    assert (tmp_path / _NAME).read_bytes() == b"abc"
