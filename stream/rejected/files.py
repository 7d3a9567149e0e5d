"""The rejected records of a source node on its disk. Blocks.

In the node's directory, each sink has a directory of append-only segments:

    <directory>/<node>/<project>/<branch>/<source>/<sink>/<milliseconds>-<random>.ndjson

A record is erased by overwriting its line in place, so erasing needs no space. Overwriting only a
part is enough, because a line with a wrong checksum is ignored. A segment without records is
removed.

Note [Ownership]: the process of a node locks the node's directory. An unlocked directory next to it
belongs to a node that no longer exists, because it was replaced or renamed on the same disk. The
node that finds such a directory first moves its segments to its own directory.

Note [Identity]: the name of an empty file in the node's directory is the ID of the directory. A
directory that was emptied, or replaced by a new one, gets another ID.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import attrs

from stream.definition.key import SinkKey
from stream.ops.durable import sync_directory
from stream.rejected.record import Outline, erased, id_of, outline_of
from stream.storage.model.entity import QuarantineLimits

__all__ = ["Appended", "ReasonCount", "RejectedFiles", "Stored", "Summary"]

SEGMENTS = 8
"""Number of segments per sink; the oldest one is dropped as a whole."""
MIN_SEGMENT_BYTES = 16 * 1024
MAX_SUMMARIES = 256
"""Maximum number of segment summaries in memory."""

_SUFFIX = ".ndjson"
_LOCK = ".lock"
_IDENTITY = ".id-"
_IDENTITY_BYTES = 8
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1024 * 1024
_TOKEN_BYTES = 4


@attrs.frozen
class Appended:
    """The result of appending records.

    :ivar kept: number of kept records.
    :ivar dropped: number of older records that were dropped to make room.
    :ivar left_out: number of records that weren't kept.
    :ivar problem: why the last of these wasn't kept.
    """

    kept: int
    dropped: int = 0
    left_out: int = 0
    problem: str = ""


@attrs.frozen(eq=False)
class Stored:
    """A record in a segment.

    :ivar outline: the part of the record that a list shows.
    :ivar line: frame of the record.
    """

    outline: Outline
    segment: Path
    offset: int
    line: bytes

    @property
    def cursor(self) -> str:
        """The position of the record on its node; later reads can continue after it."""
        return f"{self.segment.name}:{self.offset}"


@attrs.define(eq=False)
class Summary:
    """The summary of a segment, so that the segment needn't be read for each list.

    :ivar oldest: receive time of the oldest record, milliseconds since the epoch.
    :ivar newest: receive time of the newest record.
    :ivar reasons: counts of records by reason and column.
    """

    oldest: int
    newest: int
    reasons: dict[tuple[str, str], ReasonCount]


@attrs.define(eq=False)
class ReasonCount:
    """The number of records rejected for one reason.

    :ivar last: the newest record with the reason, without its excerpt.
    """

    count: int
    last: Outline


class RejectedFiles:
    """The segments of rejected records on a node's disk; thread-safe.

    :param root: parent directory of the directories of all nodes.
    :param node_id: ID of this node.
    """

    def __init__(self, root: Path, node_id: str) -> None:
        self._root = root
        self._node = root / _name(node_id)
        self._lock = threading.Lock()
        self._held = -1
        self._own: dict[SinkKey, Path] = {}
        self._summaries: dict[Path, tuple[tuple[int, int], Summary | None]] = {}

    def prepare(self) -> list[tuple[str, SinkKey]]:
        """Create the node's directory, and take over those of nodes that no longer exist.

        See Note [Ownership]. Raises OSError.

        :returns: the previous node and the sink of each segment that was taken over.
        """
        self._root.parent.mkdir(parents=True, exist_ok=True)
        for directory in (self._root, self._node):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._held = _try_lock(self._node)
        return [
            (unquote(other.name), sink)
            for other in sorted(self._root.iterdir())
            if other.is_dir() and not other.is_symlink() and other != self._node
            for sink in self._take_over(other)
        ]

    def identity(self) -> str:
        """Return the ID of the node's directory; see Note [Identity]. Raises OSError."""
        for path in sorted(self._node.glob(f"{_IDENTITY}*")):
            return path.name.removeprefix(_IDENTITY)
        self._make(self._node)
        made = secrets.token_hex(_IDENTITY_BYTES)
        (self._node / f"{_IDENTITY}{made}").touch(mode=0o600)
        sync_directory(self._node)
        return made

    def sinks(self) -> set[SinkKey]:
        """Return the sinks that have kept records."""
        found = (_sink_of(path, self._node) for path in self._node.glob(f"*/*/*/*/*{_SUFFIX}"))
        return {sink for sink in found if sink is not None}

    def newest(self) -> dict[SinkKey, float]:
        """Return for each sink the time of its last record, in seconds since the epoch."""
        newest: dict[SinkKey, float] = {}
        for path in self._node.glob(f"*/*/*/*/*{_SUFFIX}"):
            sink = _sink_of(path, self._node)
            if sink is not None:
                newest[sink] = max(newest.get(sink, 0.0), path.lstat().st_mtime)
        return newest

    def close(self) -> None:
        """Release the directory of the node."""
        held, self._held = self._held, -1
        if held >= 0:
            os.close(held)

    def _take_over(self, other: Path) -> list[SinkKey]:
        """Take over the segments of *other* unless it is locked; return the sink of each."""
        lock = _try_lock(other)
        if lock < 0:
            return []
        moved: list[SinkKey] = []
        try:
            for path in other.glob(f"*/*/*/*/*{_SUFFIX}"):
                target = self._node / path.relative_to(other)
                self._make(target.parent)
                path.rename(target)
                sink = _sink_of(path, other)
                if sink is not None:
                    moved.append(sink)
            _remove_empty(other)
        finally:
            os.close(lock)
        return moved

    # Appending.

    def append(
        self, sink: SinkKey, limits: QuarantineLimits, frames: Sequence[bytes], now: float
    ) -> Appended:
        """Append *frames* of a sink; older records are dropped to make room.

        A full or failing disk is reported in the result.

        :param now: seconds since the epoch.
        """
        with self._lock:
            try:
                return self._append(sink, limits, frames, now)
            except OSError as error:
                self._own.pop(sink, None)
                return Appended(0, 0, len(frames), str(error))

    def _append(
        self, sink: SinkKey, limits: QuarantineLimits, frames: Sequence[bytes], now: float
    ) -> Appended:
        directory = self._directory(sink)
        if not directory.is_dir():
            self._make(directory)
        most = max(limits.max_size // SEGMENTS, MIN_SEGMENT_BYTES)
        largest = limits.max_size // 2
        kept = dropped = left_out = 0
        pieces: list[bytes] = []
        size, path = 0, self._current(sink, directory, most, now)
        used = path.stat().st_size if path.exists() else 0
        for frame in frames:
            if len(frame) > largest:
                left_out += 1
                continue
            if used and used + len(frame) > most:
                kept += self._write(path, pieces)
                pieces, size, used = [], 0, 0
                path = self._own[sink] = _new_segment(directory, now)
            pieces.append(frame)
            size += len(frame)
            used += len(frame)
            if size >= _PIECE_BYTES:
                kept += self._write(path, pieces)
                pieces, size = [], 0
        kept += self._write(path, pieces)
        dropped = self._make_room(directory, limits.max_size, path)
        problem = "larger than the limit" if left_out else ""
        return Appended(kept, dropped, left_out, problem)

    def _current(self, sink: SinkKey, directory: Path, most: int, now: float) -> Path:
        """Return the segment to append to: the last one, or a new one if it is full or in use."""
        path = self._own.get(sink)
        if path is None and self._held >= 0:
            segments = _segments(directory)
            path = segments[-1] if segments else None
        if path is None or not path.exists() or path.stat().st_size >= most:
            path = _new_segment(directory, now)
        self._own[sink] = path
        return path

    @staticmethod
    def _write(path: Path, frames: Sequence[bytes]) -> int:
        """Append *frames*, and return their number. If it raises OSError, nothing was written."""
        if not frames:
            return 0
        data = b"".join(frames)
        descriptor = os.open(path, _FLAGS, 0o600)
        try:
            before = os.fstat(descriptor).st_size
            if before and os.pread(descriptor, 1, before - 1) != b"\n":
                data = b"\n" + data  # a crash has truncated the last line
            written = 0
            try:
                while written < len(data):
                    written += os.write(descriptor, data[written:])
            except OSError:
                os.ftruncate(descriptor, before)
                raise
        finally:
            os.close(descriptor)
        return len(frames)

    def _make_room(self, directory: Path, most: int, current: Path) -> int:
        """Drop the oldest segments until *most* bytes remain; return the number of lost records."""
        segments = [(path, path.stat().st_size) for path in _segments(directory)]
        total = sum(size for _, size in segments)
        dropped = 0
        for path, size in segments:
            if total <= most or path == current:
                break
            dropped += sum(1 for _ in _records(path))
            path.unlink()
            total -= size
        return dropped

    def _make(self, directory: Path) -> None:
        for path in (self._root, self._node):
            path.mkdir(mode=0o700, exist_ok=True)
        here = self._node
        for part in directory.relative_to(self._node).parts:
            here /= part
            here.mkdir(mode=0o700, exist_ok=True)

    # Reading and erasing.

    def newest_first(self, sink: SinkKey, ids: frozenset[str] | None = None) -> Iterator[Stored]:
        """Return the records of a sink, newest first; with *ids*, only those."""
        for path in reversed(self._segments(sink)):
            yield from self.of_segment(path, ids)

    def segments(self, sink: SinkKey) -> list[Path]:
        """Return the segments of a sink, newest first."""
        return self._segments(sink)[::-1]

    @staticmethod
    def of_segment(path: Path, ids: frozenset[str] | None = None) -> Iterator[Stored]:
        """Return the records of a segment, newest first."""
        yield from reversed(list(_records(path, ids)))

    def summary(self, path: Path) -> Summary | None:
        """Return the summary of a segment, read if it has changed; ``None`` if it is empty."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        form = (status.st_size, status.st_mtime_ns)
        known = self._summaries.pop(path, None)
        if known is None or known[0] != form:
            known = form, _summary(path)
        self._summaries[path] = known  # the most recently used ones are at the end
        if len(self._summaries) > MAX_SUMMARIES:
            del self._summaries[next(iter(self._summaries))]
        return known[1]

    def oldest_first(self, sink: SinkKey, after: str = "") -> Iterator[Stored]:
        """Return the records of a sink after the position *after*, oldest first."""
        name, _, offset = after.partition(":")
        for path in self._segments(sink):
            if path.name < name:
                continue
            for stored in _records(path):
                if path.name != name or stored.offset > int(offset):
                    yield stored

    def erase(
        self,
        sink: SinkKey,
        is_meant: Callable[[Outline], bool],
        ids: frozenset[str] | None = None,
    ) -> int:
        """Erase the records for which *is_meant* returns true, durably; return their number.

        Raises OSError.

        :param ids: if given, IDs of the only records that may be erased.
        """
        count = 0
        with self._lock:
            for path in self._segments(sink):
                meant = [stored for stored in _records(path, ids) if is_meant(stored.outline)]
                if not meant:
                    continue
                _overwrite(path, meant)
                count += len(meant)
                if next(_records(path), None) is None:
                    path.unlink(missing_ok=True)
        return count

    def _segments(self, sink: SinkKey) -> list[Path]:
        directory = self._directory(sink)
        return _segments(directory) if directory.is_dir() else []

    def _directory(self, sink: SinkKey) -> Path:
        source = sink.source_key
        return (
            self._node
            / str(source.project_id)
            / str(source.branch_id)
            / _name(source.source_id)
            / _name(sink.sink_id)
        )

    def remove_old(self, now: float, max_age: Callable[[SinkKey], float]) -> int:
        """Remove the segments whose last record is too old; return the number of segments.

        :param max_age: returns the maximum age of a sink's records in seconds.
        """
        removed = 0
        with self._lock:
            # Files one level up are dead-letter files of earlier versions.
            for pattern in (f"*/*/*/*/*{_SUFFIX}", f"*/*/*/*{_SUFFIX}"):
                for path in self._node.glob(pattern):
                    key = _sink_of(path, self._node)
                    try:
                        if key is not None and path.lstat().st_mtime < now - max_age(key):
                            path.unlink()
                            removed += 1
                    except OSError:
                        continue
            if removed:
                _remove_empty(self._node)
        return removed


def _sink_of(path: Path, node: Path) -> SinkKey | None:
    """Return the sink of a segment in the directory of a *node*."""
    project, branch, source, sink, *_ = path.relative_to(node).parts
    if not (project.isdecimal() and branch.isdecimal()):
        return None
    sink = sink.removesuffix(_SUFFIX).removesuffix(".previous")
    return SinkKey(int(project), int(branch), unquote(source), unquote(sink))


def _segments(directory: Path) -> list[Path]:
    """Return the segments of a directory, oldest first."""
    return sorted(directory.glob(f"*{_SUFFIX}"))


def _new_segment(directory: Path, now: float) -> Path:
    """Return a new unique path, which sorts after all others."""
    last = max((path.name[:13] for path in _segments(directory)), default="")
    first = f"{max(int(now * 1000), int(last) + 1 if last.isdecimal() else 0):013d}"
    return directory / f"{first}-{secrets.token_hex(_TOKEN_BYTES)}{_SUFFIX}"


def _summary(path: Path) -> Summary | None:
    summary: Summary | None = None
    for outline in (stored.outline for stored in _records(path)):
        if summary is None:
            summary = Summary(outline.at, outline.at, {})
        summary.oldest = min(summary.oldest, outline.at)
        summary.newest = max(summary.newest, outline.at)
        key = outline.reason, outline.column
        known = summary.reasons.get(key)
        if known is None:
            summary.reasons[key] = ReasonCount(1, attrs.evolve(outline, excerpt=""))
        else:
            known.count += 1
            known.last = outline
    return summary


def _records(path: Path, ids: frozenset[str] | None = None) -> Iterator[Stored]:
    """Return the intact records of a segment; with *ids*, only those. None if it was removed."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    offset = 0
    for piece in data.split(b"\n"):
        line = piece + b"\n"
        if ids is not None and id_of(line) not in ids:
            offset += len(line)
            continue
        outline = outline_of(line)
        if outline is not None:
            yield Stored(outline, path, offset, line)
        offset += len(line)


def _overwrite(path: Path, records: Sequence[Stored]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for stored in records:
            os.pwrite(descriptor, erased(len(stored.line)), stored.offset)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(directory: Path) -> int:
    """Lock *directory*; return its descriptor, or -1 if it is already locked. Raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory / _LOCK, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return -1
        raise
    return descriptor


def _remove_empty(top: Path) -> None:
    for pattern in ("*/*/*/*", "*/*/*", "*/*", "*"):
        for directory in top.glob(pattern):
            try:
                directory.rmdir()
            except OSError:
                continue  # The directory isn't empty.


def _name(text: str) -> str:
    """Return *text*, whatever it contains, as the name of one directory or file."""
    return quote(text, safe="").replace(".", "%2E")
