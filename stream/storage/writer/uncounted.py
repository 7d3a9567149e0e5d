"""Finds files on this node's volumes that have rows, but no counts in etcd.

Note [Uncounted rows]: coordinators rotate a slice when its statistics in etcd contain records. A
source node answers a record as soon as it is on the disk, and stores the counts within a second. If
the node dies in between, the slice looks empty and is never rotated. Therefore the writer, which
has the files, stores an estimate for each file with rows that has no counts: one record. The
estimate only has to differ from zero, because the reader counts the rows. It has the time of the
last write, so that records that wait for long are noticed. It is marked by the missing time of the
first record (`stream.storage.model.statistics`), and the node replaces it if it stores counts after
all.

A file is checked from its opening until it has counts. The files of earlier processes are found on
the volume when the writer starts. A source node needs time to store its counts. So the estimate is
stored only if a file has rows, but no counts, in two consecutive checks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import attrs

from stream.definition.stored import readable
from stream.etcd import AtomicTxn, EtcdClient, atomic
from stream.storage.model import prefix
from stream.storage.model.entity import LocalSlice, Slice, slice_directory
from stream.storage.model.key import SliceKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import Statistics
from stream.storage.writer.writer import OpenVolume
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from stream.values.utctime import from_milliseconds

__all__ = ["CHECK_SECONDS", "UncountedRows"]

CHECK_SECONDS = 10.0
"""Interval of the checks of each volume; a source node needs far less time to store its counts."""

FILES_PER_TRANSACTION = 40
"""Number of estimates per transaction; each needs two comparisons, and etcd allows 128."""


@attrs.define(eq=False)
class _File:
    """A file of a slice that is being written.

    :ivar slice_id: the name of the slice in etcd.
    :ivar is_doubtful: whether the latest check has found rows, but no counts.
    """

    slice_id: str
    node_id: str
    path: Path
    is_doubtful: bool = False

    @property
    def level_key(self) -> str:
        """The key that exists while the slice is at level local."""
        return f"{prefix.slice_level(Level.LOCAL)}{self.slice_id}"

    @property
    def counts_key(self) -> str:
        """The key of the counts of the file's source node."""
        return f"{prefix.statistics(Level.LOCAL)}{self.slice_id}/{self.node_id}"


class UncountedRows:
    """The files of one volume whose counts may be missing; see Note [Uncounted rows].

    :param slices: returns the names of the slices at level local, on any volume.
    """

    def __init__(
        self,
        client: EtcdClient,
        volume: OpenVolume,
        slices: Callable[[], list[str]],
    ) -> None:
        self._client = client
        self._volume = volume
        self._slices = slices
        self._files: dict[Path, _File] = {}
        self._has_searched = False

    def opened(self, key: SliceKey, node_id: str, path: Path) -> None:
        """Check a file that a source node has opened.

        A file that is opened again keeps its doubt. Otherwise a source node that ends again and
        again would put off the estimate.
        """
        if path not in self._files:
            self._files[path] = _File(str(key), node_id, path)

    async def check(self) -> int:
        """Store estimates for files with rows but without counts; return how many.

        Raises EtcdError: etcd is unavailable; the next check continues.
        """
        if not self._has_searched:
            await self._search()
            self._has_searched = True
        files = list(self._files.values())
        if not files:
            return 0
        estimates: list[Statistics | None] = await self._volume.appender.run(
            partial(_estimates, [file.path for file in files])
        )
        slices = set(self._slices())
        filled = [
            (file, estimate)
            for file, estimate in zip(files, estimates, strict=True)
            if estimate is not None
        ]
        gone = [
            file
            for file, estimate in zip(files, estimates, strict=True)
            if estimate is None and file.slice_id not in slices
        ]
        asked = [file.level_key for file in gone]
        asked += [key for file, _ in filled for key in (file.level_key, file.counts_key)]
        known, _ = await self._client.get_many(list(dict.fromkeys(asked)), keys_only=True)
        for file in gone:
            if known[file.level_key] is None:  # the mirror may lag
                self._forget(file)
        missing = []
        for file, estimate in filled:
            if known[file.level_key] is None or known[file.counts_key] is not None:
                self._forget(file)
            elif file.is_doubtful:
                missing.append((file, estimate))
            else:
                file.is_doubtful = True
        for start in range(0, len(missing), FILES_PER_TRANSACTION):
            await self._estimate(missing[start : start + FILES_PER_TRANSACTION])
        return len(missing)

    def _forget(self, file: _File) -> None:
        self._files.pop(file.path, None)

    async def _estimate(self, missing: Sequence[tuple[_File, Statistics]]) -> None:
        async def body(txn: AtomicTxn) -> None:
            keys = [key for file, _ in missing for key in (file.level_key, file.counts_key)]
            found = await txn.get_many(keys)
            for file, estimate in missing:
                if found[file.level_key] is not None and found[file.counts_key] is None:
                    txn.put(file.counts_key, encode(estimate))

        await atomic(self._client, body)
        for file, _ in missing:
            self._forget(file)

    async def _search(self) -> None:
        """Find the files with rows that earlier processes have left."""
        volume = self._volume
        names: dict[str, list[str]] = await volume.appender.run(
            partial(_files_with_rows, volume.found.path, volume.volume_id, self._slices())
        )
        keys = list(names)
        for start in range(0, len(keys), FILES_PER_TRANSACTION):
            some = keys[start : start + FILES_PER_TRANSACTION]
            level = prefix.slice_level(Level.LOCAL)
            read, _ = await self._client.get_many([f"{level}{key}" for key in some])
            for _, slice_ in readable(Slice, [kv for kv in read.values() if kv is not None]):
                self._found(slice_, names[str(slice_.key)])

    def _found(self, slice_: Slice, names: Iterable[str]) -> None:
        for name in names:
            node_id = _node_of(slice_.local, name)
            path = self._volume.found.path / slice_.local.dir / name
            if node_id:
                self.opened(slice_.key, node_id, path)


def _node_of(local: LocalSlice, name: str) -> str:
    """Return the source node whose file has the *name*; empty if it is another file."""
    before, after = local.filename("\0").split("\0")
    if not name.startswith(before) or not name.endswith(after):
        return ""
    return name[len(before) : len(name) - len(after)]


def _estimates(paths: Iterable[Path]) -> list[Statistics | None]:
    """Return the estimate for each file, ``None`` if it has no rows; runs in a thread."""
    estimates: list[Statistics | None] = []
    for path in paths:
        try:
            found = path.stat(follow_symlinks=False)
        except OSError:
            estimates.append(None)
            continue
        estimate = Statistics(
            last_record_at=from_milliseconds(found.st_mtime_ns // 1_000_000),
            records_count=1,
            compressed_size=ByteSize(found.st_size),
        )
        estimates.append(estimate if found.st_size else None)
    return estimates


def _files_with_rows(root: Path, volume_id: str, slices: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of files that aren't empty, by slice; runs in a thread."""
    found = {}
    for name in slices:
        key = SliceKey.parse(name)
        if key.volume_id != volume_id:
            continue
        try:
            with os.scandir(root / slice_directory(key)) as entries:
                names = [
                    entry.name
                    for entry in entries
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_size
                ]
        except OSError:
            continue
        if names:
            found[name] = names
    return found
