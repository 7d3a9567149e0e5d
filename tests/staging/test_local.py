"""The local store on a real disk."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError
from twisted.python.threadpool import ThreadPool

from stream.staging import (
    CredentialsExpired,
    FileUpload,
    StagingError,
    StagingStore,
    bytes_chunks,
    open_store,
)
from stream.staging.local import LocalBackend, opened_part
from tests.staging.uploads import local

reactor: Any = _reactor
SLICE = "2000-01-01T01:00:00.000Z_hdd-1.gz"


def opened(upload: FileUpload, pool: ThreadPool) -> StagingStore:
    return open_store(upload, file_key="1/2/src/snk/f", reactor=reactor, pool=pool)


@pytest_twisted.ensureDeferred
async def test_the_path_of_an_object(tmp_path: Path, pool: ThreadPool) -> None:
    """An object is a file in the folder under its name, colons included."""
    store = opened(local(tmp_path), pool)
    stored = await store.put(SLICE, lambda: iter([b"ab", b"", b"c"]))
    assert (stored.url, stored.size, stored.verified) == (
        f"file://{tmp_path}/1001/{SLICE}",
        3,
        True,
    )
    assert [path.name for path in (tmp_path / "1001").iterdir()] == [SLICE]
    assert (tmp_path / "1001" / SLICE).read_bytes() == b"abc"


@pytest_twisted.ensureDeferred
async def test_key_and_name_are_concatenated(tmp_path: Path, pool: ThreadPool) -> None:
    """A key that doesn't end with a slash becomes the beginning of the name."""
    await opened(local(tmp_path, key="a/1001-"), pool).put("x", bytes_chunks(b"1"))
    assert (tmp_path / "a" / "1001-x").read_bytes() == b"1"


@pytest_twisted.ensureDeferred
async def test_a_second_upload_replaces_the_first(tmp_path: Path, pool: ThreadPool) -> None:
    """The second upload of an object replaces the first."""
    store = opened(local(tmp_path), pool)
    await store.put("x", bytes_chunks(b"longer"))
    assert (await store.put("x", bytes_chunks(b""))).size == 0
    assert (tmp_path / "1001" / "x").read_bytes() == b""


@pytest_twisted.ensureDeferred
async def test_the_manifest_is_an_object(tmp_path: Path, pool: ThreadPool) -> None:
    """The manifest is stored like other objects."""
    await opened(local(tmp_path), pool).put_manifest(["a", "b"])
    entries = orjson.loads((tmp_path / "1001" / "manifest").read_bytes())["entries"]
    assert [entry["url"] for entry in entries] == [
        f"file://{tmp_path}/1001/a",
        f"file://{tmp_path}/1001/b",
    ]


@pytest_twisted.ensureDeferred
async def test_a_failed_upload(tmp_path: Path, pool: ThreadPool) -> None:
    """A body that fails leaves the old object and no other file."""
    store = opened(local(tmp_path), pool)
    await store.put("x", bytes_chunks(b"old"))

    def broken() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("cannot read")

    with pytest.raises(RuntimeError, match="cannot read"):
        await store.put("x", broken)
    assert [path.name for path in (tmp_path / "1001").iterdir()] == ["x"]
    assert (tmp_path / "1001" / "x").read_bytes() == b"old"


@pytest_twisted.ensureDeferred
async def test_a_cancelled_upload(tmp_path: Path) -> None:
    """A cancelled upload stops at its next chunk and leaves no file."""
    cancelled = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"1"
        cancelled.wait(10)
        yield b"2"

    pool = ThreadPool(0, 1)
    pool.start()
    putting = opened(local(tmp_path), pool).put("x", slow)
    putting.cancel()
    cancelled.set()
    with pytest.raises(CancelledError):
        await putting
    pool.stop()  # wait for the thread
    assert not (tmp_path / "1001" / "x").exists()
    assert not list(tmp_path.glob("1001/.*"))


@pytest_twisted.ensureDeferred
async def test_a_missing_root(tmp_path: Path, pool: ThreadPool) -> None:
    """A missing staging folder is not created, because its disk may be unmounted."""
    with pytest.raises(StagingError, match="No such file or directory") as caught:
        await opened(local(tmp_path / "gone"), pool).put("x", bytes_chunks(b"1"))
    assert caught.value.retryable
    assert not (tmp_path / "gone").exists()


@pytest_twisted.ensureDeferred
async def test_expired_credentials(tmp_path: Path, pool: ThreadPool) -> None:
    """With expired credentials nothing is read or sent, and the error is permanent."""
    upload = local(tmp_path, expiration="2006-01-02T15:04:05+0000")
    touched: list[bytes] = []

    def body() -> Iterator[bytes]:
        touched.append(b"1")
        yield b"1"

    with pytest.raises(CredentialsExpired) as caught:
        await opened(upload, pool).put("x", body)
    assert not caught.value.retryable
    assert touched == []
    assert str(caught.value) == (
        "upload credentials have expired: credentials for file 1/2/src/snk/f "
        "expired at 2006-01-02T15:04:05.000Z"
    )


_VICTIM = """
import sys
from pathlib import Path
from stream.staging.local import LocalBackend

def body():
    for _ in range(50):
        yield b"x" * 65536
    print("halfway", flush=True)
    sys.stdin.read()
    yield b"never"

LocalBackend(Path(sys.argv[1])).put("1001/slice", body, lambda: False)
"""


def test_a_killed_upload(tmp_path: Path) -> None:
    """A process killed during an upload leaves no object, and a retry succeeds."""
    from stream.staging.local import LocalBackend

    victim = subprocess.Popen(
        [sys.executable, "-c", _VICTIM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert victim.stdout is not None
    assert victim.stdout.readline() == b"halfway\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not (tmp_path / "1001" / "slice").exists()
    assert [path.suffix for path in (tmp_path / "1001").iterdir()] == [".part"]
    LocalBackend(tmp_path).put("1001/slice", bytes_chunks(b"whole"), lambda: False)
    assert (tmp_path / "1001" / "slice").read_bytes() == b"whole"


def _part(folder: Path) -> Path:
    return folder / ".object.part"


def test_a_file_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    """The next upload of the object leaves no other file."""
    _part(tmp_path).write_bytes(b"the first half, and more than the object has")
    assert LocalBackend(tmp_path).put("object", bytes_chunks(b"whole"), lambda: False).size == 5
    assert [path.name for path in tmp_path.iterdir()] == ["object"]
    assert (tmp_path / "object").read_bytes() == b"whole"


def test_concurrent_uploads_of_one_object(tmp_path: Path) -> None:
    """Each upload has its own temporary file, and no such file remains."""
    backend = LocalBackend(tmp_path)

    def first() -> Iterator[bytes]:
        yield b"fir"
        assert _part(tmp_path).read_bytes() == b"fir"
        backend.put("object", bytes_chunks(b"second"), lambda: False)
        assert (tmp_path / "object").read_bytes() == b"second"
        yield b"st"

    backend.put("object", first, lambda: False)
    assert [path.name for path in tmp_path.iterdir()] == ["object"]
    assert (tmp_path / "object").read_bytes() == b"first"


def test_a_file_renamed_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file became the object before it was locked, so it is not changed."""
    _part(tmp_path).write_bytes(b"whole")
    lock = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        if not (tmp_path / "object").exists():
            _part(tmp_path).rename(tmp_path / "object")
        lock(descriptor, how)

    monkeypatch.setattr("stream.staging.local.fcntl.flock", late)
    descriptor, hidden = opened_part(tmp_path / "object")
    os.close(descriptor)
    assert (tmp_path / "object").read_bytes() == b"whole"
    assert hidden == _part(tmp_path) and hidden.read_bytes() == b""


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("stream.staging.local.fcntl.flock", refuse)
    LocalBackend(tmp_path).put("object", bytes_chunks(b"whole"), lambda: False)
    assert (tmp_path / "object").read_bytes() == b"whole"
