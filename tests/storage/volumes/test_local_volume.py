"""Volumes as directories: discovery, ids, locks."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from stream.errors import UserError
from stream.storage.volumes.local_volume import (
    FoundVolume,
    VolumeLock,
    find_volumes,
    is_drained,
    make_volume_id,
    name_volumes,
    read_volume_id,
)


def _volume(root: Path, type_: str = "hdd", label: str = "one") -> FoundVolume:
    path = root / type_ / label
    path.mkdir(parents=True)
    return FoundVolume(path, type_.lower(), label)


def test_volumes_are_at_the_second_level(tmp_path: Path) -> None:
    """The type is lower-cased, the label isn't; files and deeper directories are ignored."""
    _volume(tmp_path, "HDD", "B")
    _volume(tmp_path, "ssd", "a")
    (tmp_path / "hdd.txt").write_text("")
    (tmp_path / "ssd" / "a" / "deeper").mkdir()
    assert [(v.type, v.label) for v in find_volumes(str(tmp_path))] == [("hdd", "B"), ("ssd", "a")]


@pytest.mark.parametrize(
    ("path", "message"), [("empty", "no volume found in"), ("missing", "is not a directory")]
)
def test_a_path_without_volumes_is_refused(tmp_path: Path, path: str, message: str) -> None:
    """The error names the path and its expected content."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message) as refused:
        find_volumes(str(tmp_path / path))
    assert path in str(refused.value)


def test_the_id_is_created_once(tmp_path: Path) -> None:
    """The id has ten letters or digits and is permanent; surrounding blanks are ignored."""
    volume = _volume(tmp_path)
    assert read_volume_id(volume) is None
    made = make_volume_id(volume)
    assert len(made) == 10
    assert made.isalnum()
    assert make_volume_id(volume) == made
    assert stat.S_IMODE((volume.path / "volume-id").stat().st_mode) == 0o600
    (volume.path / "volume-id").write_text(" other\n")
    assert read_volume_id(volume) == "other"


def test_a_lock_excludes_the_same_kind(tmp_path: Path) -> None:
    """One writer and one reader may share a volume, and a released lock can be acquired again."""
    volume = _volume(tmp_path)
    writer = VolumeLock(volume, "writer", "one")
    reader = VolumeLock(volume, "reader", "one")
    with pytest.raises(UserError, match=r"cannot acquire writer lock .*: already locked"):
        VolumeLock(volume, "writer", "two")
    writer.release()
    VolumeLock(volume, "writer", "two").release()
    reader.release()
    assert list(volume.path.iterdir()) == []


def test_the_error_names_the_holder_of_a_lock(tmp_path: Path) -> None:
    """The description of a killed holder, which has left its file, is replaced."""
    volume = _volume(tmp_path)
    (volume.path / "writer.lock").write_text("an earlier holder with a much longer name" * 9)
    lock = VolumeLock(volume, "writer", "one")
    holder = f'node "one", process {os.getpid()} on host "{socket.gethostname()}"'
    with pytest.raises(UserError) as caught:
        VolumeLock(volume, "writer", "two")
    assert str(caught.value).endswith(f": already locked by {holder}")
    lock.release()


@pytest.mark.parametrize("content", [b"", b"\xff\n\x1b[0m"])
def test_an_unknown_holder_of_a_lock(tmp_path: Path, content: bytes) -> None:
    """A holder that has written no readable description is refused without one."""
    volume = _volume(tmp_path)
    lock = VolumeLock(volume, "writer", "one")
    (volume.path / "writer.lock").write_bytes(content)
    with pytest.raises(UserError, match=r": already locked$"):
        VolumeLock(volume, "writer", "two")
    lock.release()


def test_a_lock_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held even if the holder can't be described."""
    volume = _volume(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("stream.storage.volumes.local_volume.os.pwrite", fail)
    lock = VolumeLock(volume, "writer", "one")
    with pytest.raises(UserError, match=r": already locked$"):
        VolumeLock(volume, "writer", "two")
    lock.release()


def test_a_drain_file(tmp_path: Path) -> None:
    """A drain file that an operator creates takes effect at once."""
    volume = _volume(tmp_path)
    assert not is_drained(volume)
    (volume.path / "drain").touch()
    assert is_drained(volume)


def test_an_id_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting reader never sees an empty file, and a failing writer leaves no file."""
    volume = _volume(tmp_path)

    def fail(_: int) -> None:
        assert read_volume_id(volume) is None
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("stream.storage.volumes.local_volume.os.fsync", fail)
        with pytest.raises(UserError, match="is not writable: input/output error"):
            make_volume_id(volume)
    assert list(volume.path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "a/b", "two words", ".."])
def test_an_invalid_id_is_refused(tmp_path: Path, content: str) -> None:
    """The id is part of keys and names."""
    volume = _volume(tmp_path)
    (volume.path / "volume-id").write_text(content)
    with pytest.raises(UserError, match="contains no volume id"):
        make_volume_id(volume)


def test_ids_of_volumes_are_unique(tmp_path: Path) -> None:
    """A copied disk is detected."""
    one, two = _volume(tmp_path, label="one"), _volume(tmp_path, label="two")
    named = name_volumes([one, two])
    assert set(named.values()) == {one, two}
    (two.path / "volume-id").write_text(make_volume_id(one))
    with pytest.raises(UserError, match="found 2 volumes with the ID"):
        name_volumes([one, two])


def test_a_lock_on_a_removed_file_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file that its former owner removes would exclude no other process."""
    volume = _volume(tmp_path)
    former = VolumeLock(volume, "writer", "former")
    real = os.open

    def slow(path: Path, *options: int) -> int:
        descriptor = real(path, *options)
        if (volume.path / "writer.lock").exists() and not released:
            released.append(former)
            former.release()
        return descriptor

    released: list[VolumeLock] = []
    monkeypatch.setattr("stream.storage.volumes.local_volume.os.open", slow)
    lock = VolumeLock(volume, "writer", "one")
    with pytest.raises(UserError, match="already locked"):
        VolumeLock(volume, "writer", "two")
    lock.release()
