"""The compiled thread of a volume writes, syncs and reports as Python code does."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stream import native
from stream.storage.writer.disk_thread import FileAppends
from tests.effort import examples
from tests.storage.writer.rounds import PythonThread

pytestmark = pytest.mark.skipif(not native.is_built, reason="the compiled code isn't built")

_Outcome = tuple[int, int, int, float]
Run = Callable[..., _Outcome]
RunFiles = Callable[[list[FileAppends]], list[_Outcome]]


@pytest.fixture(params=["compiled", "python"])
def run_files(request: pytest.FixtureRequest) -> Iterator[RunFiles]:
    """Run a round of several files to its end; return their outcomes."""
    wake = os.eventfd(0, os.EFD_CLOEXEC)
    thread: Any = (native.DiskThread if request.param == "compiled" else PythonThread)(wake)

    def run(files: list[FileAppends]) -> list[_Outcome]:
        thread.start(files)
        assert select.select([wake], [], [], 20)[0], "the round doesn't end"
        assert os.eventfd_read(wake) == 1
        outcomes: list[_Outcome] = thread.take()
        assert thread.take() is None
        return outcomes

    yield run
    os.close(wake)


@pytest.fixture
def run(run_files: RunFiles) -> Run:
    """Run a round of one file to its end; return its outcome."""

    def run(descriptor: int, offset: int, data: list[bytes], sync: bool) -> _Outcome:
        [outcome] = run_files([(descriptor, offset, data, sync)])
        return outcome

    return run


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "slice", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_data_of_any_number_and_size_is_written_where_it_belongs(
    run: Run, file: int, tmp_path: Path
) -> None:
    """More buffers than one system call takes, and empty ones."""
    random, expected = Random(1), b""
    for _ in range(examples(20)):
        count = random.choice((1, 2, 5, 1024, 1025, 2500))
        data = [random.randbytes(random.choice((0, 1, 10, 300))) for _ in range(count)]
        outcome = run(file, len(expected), data, random.random() < 0.5)
        expected += b"".join(data)
        assert outcome[:3] == (0, 0, 1)
    assert (tmp_path / "slice").read_bytes() == expected


def test_the_time_of_a_sync_is_measured(run: Run, file: int) -> None:
    """There is none without a sync."""
    assert run(file, 0, [b"a"], True)[3] > 0


def test_a_removed_file_has_no_names(run: Run, file: int, tmp_path: Path) -> None:
    """Its data would be lost, so the caller has to know."""
    (tmp_path / "slice").unlink()
    assert run(file, 0, [b"a"], True)[:3] == (0, 0, 0)


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null"])
def test_errors_of_the_system_are_reported(run: Run, path: str) -> None:
    """One device takes no data; the other one takes it, and can't be synced."""
    device = os.open(path, os.O_RDWR)
    try:
        expected = _errors(device)
        assert sum(map(bool, expected)) == 1
        assert run(device, 0, [b"a"], True)[:2] == expected
    finally:
        os.close(device)


def _errors(descriptor: int) -> tuple[int, int]:
    try:
        os.pwritev(descriptor, [b"a"], 0)
    except OSError as error:
        return error.errno or 0, 0
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        return 0, error.errno or 0
    return 0, 0


def test_what_fits_only_in_part_is_an_error(run: Run, file: int) -> None:
    """The first call writes a part, the next one meets the limit."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert run(file, 0, [b"12345678"], True)[:3] == (0, 0, 1)
        write_error, sync_error, _, _ = run(file, 8, [b"9", b"abc", b"d"], True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (write_error, sync_error) == (errno.EFBIG, 0)
    assert os.pread(file, 20, 0) == b"123456789a"


def test_a_file_that_fails_does_not_affect_the_others_of_its_round(
    run_files: RunFiles, file: int, tmp_path: Path
) -> None:
    """Each file has its own outcome."""
    full = os.open("/dev/full", os.O_WRONLY)
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    removed = os.open(tmp_path / "removed", os.O_RDWR | os.O_CREAT)
    (tmp_path / "removed").unlink()
    try:
        outcomes = run_files(
            [
                (file, 0, [b"a", b"b"], True),
                (full, 0, [b"c"], True),
                (removed, 0, [b"d"], True),
                (other, 0, [b"e"], False),
            ]
        )
    finally:
        for descriptor in (full, other, removed):
            os.close(descriptor)
    assert [outcome[:3] for outcome in outcomes] == [
        (0, 0, 1),
        (errno.ENOSPC, 0, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]
    assert [outcome[3] > 0 for outcome in outcomes] == [True, False, True, False]
    assert (tmp_path / "slice").read_bytes() == b"ab"
    assert (tmp_path / "other").read_bytes() == b"e"


def test_a_round_is_refused_until_the_one_before_was_taken(file: int) -> None:
    """Nothing queues in the compiled code."""
    wake = os.eventfd(0, os.EFD_CLOEXEC)
    thread = native.DiskThread(wake)
    try:
        thread.start([(file, 0, [b"a"], True)])
        assert select.select([wake], [], [], 20)[0]
        with pytest.raises(RuntimeError, match="hasn't ended"):
            thread.start([(file, 1, [b"b"], True)])
        assert thread.take() is not None
        thread.start([(file, 1, [b"b"], True)])
        assert select.select([wake], [], [], 20)[0]
    finally:
        os.close(wake)


def test_a_thread_that_is_dropped_ends_its_round(file: int, tmp_path: Path) -> None:
    """It wakes by a descriptor of its own, even if its owner has closed the other one."""
    wake = os.eventfd(0, os.EFD_CLOEXEC)
    watched = os.dup(wake)
    thread = native.DiskThread(wake)
    thread.start([(file, 0, [b"a" * 100_000], True)])
    del thread
    os.close(wake)
    try:
        assert select.select([watched], [], [], 20)[0]
    finally:
        os.close(watched)
    assert (tmp_path / "slice").stat().st_size == 100_000
