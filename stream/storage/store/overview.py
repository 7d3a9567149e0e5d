"""The files and the statistics of many sinks for the API, read in a few requests at one revision.

Each kind of record takes one range read, regardless of the number of sinks. Of each file, only the
few members that the API shows are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import attrs
from twisted.internet.defer import Deferred, gatherResults

from stream.definition.key import BranchKey, SinkKey
from stream.definition.stored import readable
from stream.etcd import EtcdClient, RangeResult
from stream.storage.model import prefix
from stream.storage.model.entity import FileTarget
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.retry import NO_RETRY, Retry
from stream.storage.model.state import FileState, Level
from stream.storage.model.statistics import Aggregated, Statistics
from stream.values.codec import field

__all__ = ["NOTHING", "FileOutline", "SinkOverview", "Within", "overview"]

Counted = tuple[Level, Statistics]


@attrs.frozen
class Within:
    """The selection of sinks.

    :ivar below: a sink, or the branch whose sinks are selected.
    :ivar sources: IDs of at least one source of the branch; ``None`` for all. Records of sources
        whose IDs lie between them may be read as well.
    """

    below: BranchKey | SinkKey
    sources: tuple[str, ...] | None = None

    async def read(self, client: EtcdClient, kind: str, revision: int = 0) -> RangeResult:
        """Read the records with the prefix *kind*."""
        where = f"{kind}{self.below}/"
        if self.sources is None:
            return await client.range(where, revision=revision)
        # Keys have a slash after the ID, so they aren't sorted like IDs: "a-b/" precedes "a/". The
        # digit 0 follows the slash in ASCII.
        first = min(f"{source}/" for source in self.sources)
        last = max(f"{source}0" for source in self.sources)
        return await client.range(where, start_after=first, end=last, revision=revision)


@attrs.frozen
class _Target:
    provider: str = FileTarget().provider


@attrs.frozen(kw_only=True)
class FileOutline:
    """The members of a file that the API shows; see `stream.storage.model.entity.File`."""

    key: FileKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)
    state: FileState
    closing_at: datetime | None = None
    importing_at: datetime | None = None
    imported_at: datetime | None = None
    target: _Target = _Target()


@attrs.frozen(kw_only=True)
class _SliceOutline:
    key: SliceKey = field(flatten=True)
    retry: Retry = field(flatten=True, default=NO_RETRY)


_NO_RECORDS = Aggregated()


@attrs.frozen
class SinkOverview:
    """The stored files and statistics of a sink.

    :ivar statistics: statistics of all records, minus those counted before the last reset.
    :ivar files: files, the oldest first. A file waits for each of its slices, so a failed upload of
        a slice is shown as a failure of the file.
    :ivar file_statistics: statistics of the files that have any.
    """

    statistics: Aggregated = _NO_RECORDS
    files: tuple[FileOutline, ...] = ()
    file_statistics: Mapping[FileKey, Aggregated] = attrs.Factory(dict)


NOTHING = SinkOverview()


async def overview(client: EtcdClient, within: Within) -> dict[SinkKey, SinkOverview]:
    """Return the overview by sink; sinks without stored records are omitted."""
    stored = await within.read(client, prefix.FILE_ALL)
    kinds = [*map(prefix.statistics, Level), prefix.slice_level(Level.LOCAL)]
    others: list[RangeResult] = await gatherResults(
        [Deferred.fromCoroutine(within.read(client, kind, stored.revision)) for kind in kinds],
        consumeErrors=True,
    )
    of_sink: dict[SinkKey, list[Counted]] = {}
    of_file: dict[FileKey, list[Counted]] = {}
    for level, kind, result in zip(Level, kinds, others, strict=False):
        for kv, statistics in readable(Statistics, result.kvs):
            project, branch, source, sink, *rest = kv.key.removeprefix(kind).split("/")
            key = SinkKey(int(project), int(branch), source, sink)
            counted = level, statistics
            of_sink.setdefault(key, []).append(counted)
            if len(rest) > 1:
                of_file.setdefault(FileKey.parse(f"{key}/{rest[0]}"), []).append(counted)
    failing = _failing(slice_ for _, slice_ in readable(_SliceOutline, others[-1].kvs))
    files: dict[SinkKey, list[FileOutline]] = {}
    for _, file in readable(FileOutline, stored.kvs):
        if not file.retry.retry_attempt and file.key in failing:
            file = attrs.evolve(file, retry=failing[file.key])
        files.setdefault(file.key.sink_key, []).append(file)
    of_files: dict[SinkKey, dict[FileKey, Aggregated]] = {}
    for file_key, values in of_file.items():
        of_files.setdefault(file_key.sink_key, {})[file_key] = Aggregated.of(values)
    return {
        key: SinkOverview(
            Aggregated.of(of_sink.get(key, ())),
            tuple(files.get(key, ())),
            of_files.get(key, {}),
        )
        for key in of_sink.keys() | files.keys()
    }


def _failing(slices: Iterable[_SliceOutline]) -> dict[FileKey, Retry]:
    """Return, by file, the failure of the not yet uploaded slice that is retried last."""
    failing: dict[FileKey, Retry] = {}
    for slice_ in slices:
        retry, known = slice_.retry, failing.get(slice_.key.file_key, NO_RETRY)
        if retry.retry_after is not None and (
            known.retry_after is None or retry.retry_after > known.retry_after
        ):
            failing[slice_.key.file_key] = retry
    return failing
