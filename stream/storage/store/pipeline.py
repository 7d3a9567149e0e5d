"""The files and slices of one sink with their statistics at one revision, for a dashboard.

Only the newest of the imported files are read: a busy sink has thousands of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs
from twisted.internet.defer import Deferred, gatherResults

from stream.definition.key import SinkKey
from stream.definition.stored import readable
from stream.etcd import EtcdClient, RangeResult
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey
from stream.storage.model.state import Level
from stream.storage.model.statistics import Aggregated, Statistics
from stream.values.utctime import format_time

__all__ = ["PipelineFile", "PipelineSlice", "SinkPipeline", "sink_pipeline"]

MAX_ACTIVE = 100
"""Maximum number of returned files that aren't imported, the newest first. There are more only if
imports fail.
"""
MAX_SLICES = 1000
"""Maximum number of returned slices of those files at each level, in the order of their keys."""
_FILE_PARTS = 5
_SLICE_PARTS = 7
_NO_RECORDS = Aggregated()


@attrs.frozen
class PipelineSlice:
    """A slice and its statistics."""

    slice: Slice
    statistics: Aggregated


@attrs.frozen
class PipelineFile:
    """A file with its slices and statistics.

    :ivar slices: slices that aren't imported, sorted by volume and time.
    """

    file: File
    statistics: Aggregated
    slices: Sequence[PipelineSlice] = ()


@attrs.frozen
class SinkPipeline:
    """The files of one sink.

    :ivar active: files that aren't imported, the newest first.
    :ivar imported: the last imported files, the newest first.
    """

    active: Sequence[PipelineFile]
    imported: Sequence[PipelineFile]


async def sink_pipeline(client: EtcdClient, sink: SinkKey, imports: int) -> SinkPipeline:
    """Return the stored files of *sink*.

    :param imports: maximum number of imported files to return.
    """
    staged = await client.range(_below(prefix.file_level(Level.STAGING), sink), limit=MAX_ACTIVE)
    revision = staged.revision
    local, imported = await gatherResults(
        [
            Deferred.fromCoroutine(reading)
            for reading in (
                client.range(
                    _below(prefix.file_level(Level.LOCAL), sink),
                    limit=MAX_ACTIVE,
                    revision=revision,
                    descending=True,
                ),
                client.range(
                    _below(prefix.file_level(Level.TARGET), sink),
                    limit=max(1, imports),  # 0 means all
                    revision=revision,
                    descending=True,
                ),
            )
        ],
        consumeErrors=True,
    )
    active = sorted(
        (file for _, file in readable(File, (*staged.kvs, *local.kvs))),
        key=lambda file: file.key,
        reverse=True,
    )[:MAX_ACTIVE]
    done = [file for _, file in readable(File, imported.kvs[:imports])]
    slices = await _slices(client, sink, revision)
    first_import = min((file.key.file_opened_at for file in done), default=None)
    counted = await _statistics(client, sink, first_import, revision)
    return SinkPipeline(
        [
            PipelineFile(
                file,
                counted.get(str(file.key), _NO_RECORDS),
                [
                    PipelineSlice(slice_, counted.get(str(slice_.key), _NO_RECORDS))
                    for slice_ in slices.get(file.key, ())
                ],
            )
            for file in active
        ],
        [PipelineFile(file, counted.get(str(file.key), _NO_RECORDS)) for file in done],
    )


async def _slices(
    client: EtcdClient, sink: SinkKey, revision: int
) -> Mapping[FileKey, Sequence[Slice]]:
    """Return the slices that aren't imported, by file and in the order of their keys."""
    results: list[RangeResult] = await gatherResults(
        [
            Deferred.fromCoroutine(
                client.range(
                    _below(prefix.slice_level(level), sink), limit=MAX_SLICES, revision=revision
                )
            )
            for level in (Level.LOCAL, Level.STAGING)
        ],
        consumeErrors=True,
    )
    found: dict[FileKey, list[Slice]] = {}
    slices = (slice_ for result in results for _, slice_ in readable(Slice, result.kvs))
    for slice_ in sorted(slices, key=lambda slice_: slice_.key):
        found.setdefault(slice_.key.file_key, []).append(slice_)
    return found


async def _statistics(
    client: EtcdClient, sink: SinkKey, first_import: datetime | None, revision: int
) -> Mapping[str, Aggregated]:
    """Return the statistics of files and slices of *sink*, by key.

    :param first_import: the oldest imported file whose statistics are read.
    """
    start = "~" if first_import is None else format_time(first_import)
    results: list[RangeResult] = await gatherResults(
        [
            Deferred.fromCoroutine(
                client.range(
                    _below(prefix.statistics(level), sink),
                    # The keys below that file start with the file's key and a slash.
                    start_after=start if level is Level.TARGET else "",
                    revision=revision,
                )
            )
            for level in Level
        ],
        consumeErrors=True,
    )
    counted: dict[str, list[tuple[Level, Statistics]]] = {}
    for level, result in zip(Level, results, strict=True):
        for kv, statistics in readable(Statistics, result.kvs):
            parts = kv.key.removeprefix(prefix.statistics(level)).split("/")
            if len(parts) <= _SLICE_PARTS:
                continue  # the sink's own sums and resets
            value = level, statistics
            for length in (_FILE_PARTS, _SLICE_PARTS):
                counted.setdefault("/".join(parts[:length]), []).append(value)
    return {key: Aggregated.of(values) for key, values in counted.items()}


def _below(kind: str, sink: SinkKey) -> str:
    return f"{kind}{sink}/"
