"""The dead-letter files of a source node on its disk. Everything here blocks.

Below the directory of the node each sink has two files, the current one and the one before it:

    <directory>/<node>/<project>/<branch>/<source>/<sink>.ndjson
    <directory>/<node>/<project>/<branch>/<source>/<sink>.previous.ndjson

Each may have half of the sink's bytes. The current one takes the place of the previous one when it
is full, or when its first record is older than the sink's maximum age; a file whose last record is
that old is removed. So a record is kept for that time, unless newer ones need its space, and it is
gone after twice that time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from stream.definition.key import SinkKey
from stream.sink.dead_letter_line import time_of
from stream.storage.model.entity import DeadLetter

__all__ = ["DeadLetterFiles"]

_CURRENT = ".ndjson"
_PREVIOUS = ".previous.ndjson"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_TIME_BYTES = 64
_PIECE_BYTES = 1024 * 1024


class DeadLetterFiles:
    """:param root: the directory of all nodes.
    :param node_id: this one.
    """

    def __init__(self, root: Path, node_id: str) -> None:
        self._root = root
        self._node = root / _name(node_id)

    def prepare(self) -> None:
        """Make the directory of the node. Raises OSError."""
        self._root.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self._root, self._node):
            directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, sink: SinkKey) -> Path:
        """The current file of a sink."""
        return self._directory(sink) / f"{_name(sink.sink_id)}{_CURRENT}"

    def _directory(self, sink: SinkKey) -> Path:
        source = sink.source_key
        return self._node / str(source.project_id) / str(source.branch_id) / _name(source.source_id)

    def append(self, sink: SinkKey, limits: DeadLetter, lines: Iterable[bytes], now: float) -> int:
        """Write *lines* behind those that the sink has.

        :param now: seconds since the epoch.
        :returns: how many were left out because they are larger than a file may be.

        Raises OSError; then the file ends with a whole line all the same.
        """
        directory = self._directory(sink)
        if not directory.is_dir():
            self._make(directory)
        half = limits.max_size // 2
        left_out = 0
        file = _File(self.path(sink))
        try:
            if file.size and file.is_older(now - limits.max_age.seconds):
                file.rotate()
            for line in lines:
                if len(line) > half:
                    left_out += 1
                    continue
                if file.size + len(line) > half:
                    file.rotate()
                file.add(line)
            file.flush()
        finally:
            file.close()
        return left_out

    def _make(self, directory: Path) -> None:
        self.prepare()
        here = self._node
        for part in directory.relative_to(self._node).parts:
            here /= part
            here.mkdir(mode=0o700, exist_ok=True)

    def remove_old(self, now: float, max_age: Callable[[SinkKey], float]) -> int:
        """Remove the files whose last record is too old, of this node and of others.

        :param max_age: seconds for the files of a sink.
        :returns: how many were removed.
        """
        removed = 0
        for path in self._root.glob(f"*/*/*/*/*{_CURRENT}"):
            key = _sink_of(path)
            try:
                if key is not None and path.lstat().st_mtime < now - max_age(key):
                    path.unlink()
                    removed += 1
            except OSError:
                continue  # another node was faster
        if removed:
            self._remove_empty_directories()
        return removed

    def _remove_empty_directories(self) -> None:
        for pattern in ("*/*/*/*", "*/*/*", "*/*"):
            for directory in self._root.glob(pattern):
                try:
                    directory.rmdir()
                except OSError:
                    continue  # it holds something


class _File:
    """The current file of a sink, open.

    :ivar size: with what isn't flushed yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self._path, _FLAGS, 0o600)
        self.size = os.fstat(self._descriptor).st_size
        if self.size and os.pread(self._descriptor, 1, self.size - 1) != b"\n":
            # The process ended in the middle of a line: the next one mustn't be a part of it.
            self.add(b"\n")

    def is_older(self, moment: float) -> bool:
        """Whether the first record was received before *moment*, in seconds since the epoch."""
        first = time_of(os.pread(self._descriptor, _TIME_BYTES, 0))
        return first is not None and first < moment

    def add(self, line: bytes) -> None:
        self._pending.append(line)
        self.size += len(line)
        self._pending_size += len(line)
        if self._pending_size >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was added. Raises OSError; then nothing of it is in the file."""
        data = b"".join(self._pending)
        self._pending, self._pending_size = [], 0
        before = os.fstat(self._descriptor).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def rotate(self) -> None:
        """Make this file the previous one, and begin a new one."""
        self.flush()
        self.close()
        self._path.replace(self._path.with_name(_previous(self._path.name)))
        self._open()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _previous(name: str) -> str:
    return name.removesuffix(_CURRENT) + _PREVIOUS


def _name(text: str) -> str:
    """*text* as one name of a directory or file, whatever it is."""
    return quote(text, safe="").replace(".", "%2E")


def _sink_of(path: Path) -> SinkKey | None:
    """Whose file it is; ``None`` if it isn't one of ours."""
    project, branch, source = path.parts[-4:-1]
    sink = path.name.removesuffix(_CURRENT).removesuffix(".previous")
    if not (project.isdecimal() and branch.isdecimal() and sink):
        return None
    return SinkKey(int(project), int(branch), source, sink)
