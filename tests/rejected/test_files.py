"""Segments on disk: limits, erasing, crashes, and directories of dead nodes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stream.definition.key import SinkKey
from stream.rejected.files import RejectedFiles
from tests.rejected.samples import KEY, LIMITS, NOW, line


@pytest.fixture
def files(tmp_path: Path) -> RejectedFiles:
    files = RejectedFiles(tmp_path / "rejected", "node-1")
    files.prepare()
    return files


def put(files: RejectedFiles, *ids: str, body: bytes = b"{}", now: float = NOW) -> int:
    appended = files.append(KEY, LIMITS, [line(id, body, now) for id in ids], now)
    assert appended.kept + appended.left_out == len(ids)
    return appended.dropped


def kept(files: RejectedFiles) -> list[str]:
    return [stored.outline.id for stored in files.oldest_first(KEY)]


def segments(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "rejected").rglob("*.ndjson"))


def test_files_are_private(files: RejectedFiles, tmp_path: Path) -> None:
    """Only the owner can read the records of producers."""
    previous_umask = os.umask(0o022)
    try:
        put(files, "1")
    finally:
        os.umask(previous_umask)
    (path,) = segments(tmp_path)
    assert path.parent == tmp_path / "rejected/node-1/123/456/my-source/my-sink"
    assert path.stat().st_mode & 0o777 == 0o600
    for directory in list(path.parents)[:5]:
        assert directory.stat().st_mode & 0o777 == 0o700


def test_names_stay_inside_the_directory(tmp_path: Path) -> None:
    """Any names of nodes and sources result in paths inside the directory."""
    files = RejectedFiles(tmp_path / "rejected", "../up/..")
    files.prepare()
    strange = SinkKey(1, 2, "..", "a/b")
    files.append(strange, LIMITS, [line("1")], NOW)
    (path,) = segments(tmp_path)
    assert path.relative_to(tmp_path).parts[:2] == ("rejected", "%2E%2E%2Fup%2F%2E%2E")
    assert [stored.outline.id for stored in files.oldest_first(strange)] == ["1"]


def test_the_oldest_records_are_dropped(files: RejectedFiles, tmp_path: Path) -> None:
    """The newest records are kept within the bytes of the sink, and the dropped ones are
    counted.
    """
    dropped = sum(put(files, f"{number:03d}", body=b"x" * 2000) for number in range(100))
    ids = kept(files)
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= LIMITS.max_size
    assert ids == [f"{number:03d}" for number in range(100 - len(ids), 100)]
    assert dropped == 100 - len(ids)
    assert 15 < len(ids) < 40


def test_a_record_larger_than_half_of_the_limit_is_dropped(files: RejectedFiles) -> None:
    """The other records are kept."""
    frames = [line("1"), line("2", b"x" * 40_000), line("3", b"x" * 30_000)]
    appended = files.append(KEY, LIMITS, frames, NOW)
    assert (appended.kept, appended.left_out) == (2, 1)
    assert kept(files) == ["1", "3"]


def test_an_incomplete_line(files: RejectedFiles, tmp_path: Path) -> None:
    """An incomplete line after a crash doesn't damage the next one."""
    put(files, "1")
    with segments(tmp_path)[0].open("ab") as file:
        file.write(line("2")[:40])
    put(files, "3")
    assert kept(files) == ["1", "3"]


def test_a_full_disk_leaves_no_incomplete_line(
    files: RejectedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The written part of a failed piece is truncated, and the failure is reported."""
    put(files, "1")
    write = os.write

    def short_write(descriptor: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", no_write)
        return write(descriptor, data[:5])

    def no_write(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", short_write)
    appended = files.append(KEY, LIMITS, [line("2")], NOW)
    assert (appended.kept, appended.left_out) == (0, 1)
    assert "No space" in appended.problem
    monkeypatch.undo()
    put(files, "3")
    assert kept(files) == ["1", "3"]
    assert segments(tmp_path)[0].read_bytes() == line("1", b"{}") + line("3", b"{}")


def test_an_erased_record_is_not_on_the_disk(files: RejectedFiles, tmp_path: Path) -> None:
    """The bytes of the record are overwritten, and the segment is deleted with its last record."""
    put(files, "1", "2", body=b"secret")
    assert files.erase(KEY, lambda outline: outline.id == "1") == 1
    assert kept(files) == ["2"]
    assert segments(tmp_path)[0].read_bytes().count(b"secret") == 2  # excerpt and body of one
    assert files.erase(KEY, lambda outline: outline.id == "1") == 0
    assert files.erase(KEY, lambda outline: True) == 1
    assert segments(tmp_path) == []
    put(files, "3")
    assert kept(files) == ["3"]


def test_a_crash_while_erasing(files: RejectedFiles, tmp_path: Path) -> None:
    """A line that is partly overwritten counts as erased, and the others remain."""
    put(files, "1", "2", "3")
    path = segments(tmp_path)[0]
    with path.open("r+b") as file:
        file.seek(len(line("1")))
        file.write(b"#" * 20)
    assert kept(files) == ["1", "3"]


def test_positions_are_stable(files: RejectedFiles) -> None:
    """A reader continues correctly even if records were erased or added meanwhile."""
    for number in range(30):
        put(files, f"{number:02d}", body=b"x" * 1000, now=NOW + number)
    found = files.oldest_first(KEY)
    first = [next(found) for _ in range(5)]
    files.erase(KEY, lambda outline: outline.id in ("03", "04", "05"))
    put(files, "99")
    rest = [stored.outline.id for stored in files.oldest_first(KEY, first[-1].cursor)]
    assert rest == [*(f"{number:02d}" for number in range(6, 30)), "99"]


def test_removal_by_age(files: RejectedFiles, tmp_path: Path) -> None:
    """Segments are deleted when their last record is too old, also files of earlier releases."""
    put(files, "1")
    former = tmp_path / "rejected/node-1/123/456/my-source/my-sink.previous.ndjson"
    former.write_bytes(b"{}")
    for path in segments(tmp_path):
        os.utime(path, (NOW, NOW))
    asked: list[SinkKey] = []

    def max_age(sink: SinkKey) -> float:
        asked.append(sink)
        return 3600

    assert files.remove_old(NOW + 3600, max_age) == 0
    assert files.remove_old(NOW + 3601, max_age) == 2
    assert set(asked) == {KEY}
    assert not (tmp_path / "rejected/node-1/123").exists()
    put(files, "2")
    assert kept(files) == ["2"]


def test_a_restart_continues_the_last_segment(files: RejectedFiles, tmp_path: Path) -> None:
    """Many restarts don't result in many small segments."""
    put(files, "1")
    files.close()
    again = RejectedFiles(tmp_path / "rejected", "node-1")
    again.prepare()
    put(again, "2")
    assert kept(again) == ["1", "2"]
    assert len(segments(tmp_path)) == 1


def test_records_of_a_dead_node_are_taken_over(tmp_path: Path) -> None:
    """Records of a dead node are moved, and those of a running node aren't."""
    root = tmp_path / "rejected"
    running, gone = RejectedFiles(root, "running"), RejectedFiles(root, "gone")
    for number, each in enumerate((running, gone)):
        each.prepare()
        put(each, f"{number}", now=NOW + number)
    gone.close()
    new = RejectedFiles(root, "new")
    assert new.sinks() == set()
    assert new.prepare() == [("gone", KEY)]
    assert new.sinks() == {KEY}
    assert (kept(new), kept(running), kept(gone)) == (["1"], ["0"], [])


def test_two_processes_of_one_node_use_different_segments(tmp_path: Path) -> None:
    """The replaced process may still write its pending records."""
    root = tmp_path / "rejected"
    former, present = RejectedFiles(root, "node-1"), RejectedFiles(root, "node-1")
    former.prepare()
    put(former, "1")
    present.prepare()
    put(present, "2")
    put(former, "3")
    assert sorted(kept(present)) == ["1", "2", "3"]
    assert len(segments(tmp_path)) == 2
