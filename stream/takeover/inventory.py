"""The keys of a cluster, the kinds of records, and the records' consistency. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import attrs

from stream.authority.tokens import PREFIX as PROJECT_TOKENS
from stream.authority.tokens import REVOKED
from stream.authority.tokens import TokenRecord as ProjectToken
from stream.definition import prefix as definitions
from stream.definition.entity import KEBOOLA, Branch, Sink, Source
from stream.definition.key import SinkKey
from stream.definition.size import SIZE, DefinitionSize
from stream.errors import UserError
from stream.etcd import KeyValue
from stream.mapping.columns import Mapping as Columns
from stream.rejected.state import (
    COUNT,
    KEPT,
    NODE,
    POSITION,
    REPLAY,
    STORED,
    KeptRecords,
    RejectedCount,
    Replay,
    ReplayedRecords,
    ReplayPosition,
)
from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.key import FileKey, SliceKey
from stream.storage.model.state import FileState, Level, SliceState, check_combination
from stream.storage.model.statistics import Statistics
from stream.storage.model.volume import Volume
from stream.storage.store.layout import LAYOUT_KEY, Layout, check_layout
from stream.tail.subscription import TAIL
from stream.takeover.report import Report, Weight
from stream.target.jobs import JobRecord
from stream.target.keboola.quarantine import QuarantineRecord
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.target.staged import PLACES
from stream.task.entity import LOCK_PREFIX, TASK_PREFIX, Task
from stream.task.listing import FORMER_LISTING_PREFIX
from stream.values.codec import Record, decode

__all__ = ["KINDS", "Inventory", "Kind", "take_inventory"]


@attrs.frozen
class Kind:
    """The records below a prefix.

    :ivar name: readable name of the kind, in the plural.
    :ivar record: the class of the record; ``None`` if the value isn't checked.
    :ivar is_own: whether the original service has no such records.
    :ivar is_live: whether the records exist only as long as their node runs.
    """

    prefix: str
    name: str
    record: type[Record] | None = None
    is_own: bool = False
    is_live: bool = False


KINDS = (
    Kind(definitions.BRANCH_ACTIVE, "branches", Branch),
    Kind("definition/branch/deleted/", "deleted branches", Branch),
    Kind(definitions.SOURCE_ACTIVE, "sources", Source),
    Kind(definitions.SOURCE_DELETED, "deleted sources", Source),
    Kind(definitions.SOURCE_VERSION, "versions of sources", Source),
    Kind(definitions.SINK_ACTIVE, "sinks", Sink),
    Kind(definitions.SINK_DELETED, "deleted sinks", Sink),
    Kind(definitions.SINK_VERSION, "versions of sinks", Sink),
    Kind(prefix.FILE_ALL, "files", File),
    *(Kind(prefix.file_level(level), f"files at level {level.value}", File) for level in Level),
    Kind(prefix.SLICE_ALL, "slices", Slice),
    *(Kind(prefix.slice_level(level), f"slices at level {level.value}", Slice) for level in Level),
    Kind(prefix.WRITER_VOLUME, "volumes of running writers", Volume, is_live=True),
    Kind("storage/volume/reader/", "volumes of running readers", Volume, is_live=True),
    *(Kind(prefix.statistics(level), "statistics", Statistics) for level in Level),
    Kind("storage/keboola/file/", "staging files", FileRecord),
    Kind("storage/keboola/job/", "import jobs", JobRecord),
    Kind("storage/keboola/secret/token/", "tokens of sinks", TokenRecord),
    Kind("storage/keboola/quarantine/", "quarantines", QuarantineRecord, is_own=True),
    Kind(definitions.MAPPING, "large mappings", Columns, is_own=True),
    Kind(SIZE, "sizes of definitions", DefinitionSize, is_own=True),
    Kind(LAYOUT_KEY, "versions of the layout", Layout, is_own=True),
    Kind(prefix.CLOSE_SYNC, "running source nodes", is_live=True),
    Kind("runtime/distribution/group/", "memberships of running nodes", is_live=True),
    Kind("runtime/life/", "names of running nodes", is_own=True, is_live=True),
    Kind(TAIL, "live tails", is_own=True, is_live=True),
    Kind(PLACES, "staging locations of running nodes", is_own=True, is_live=True),
    Kind(NODE, "running nodes with rejected records", is_own=True, is_live=True),
    Kind(COUNT, "counts of rejected records", RejectedCount, is_own=True),
    Kind(KEPT, "nodes that keep rejected records", KeptRecords, is_own=True),
    Kind(REPLAY, "replays of rejected records", Replay, is_own=True),
    Kind(POSITION, "positions of replays", ReplayPosition, is_own=True),
    Kind(STORED, "replayed records", ReplayedRecords, is_own=True),
    Kind(REVOKED, "revocations of tokens of projects", is_own=True),
    Kind(PROJECT_TOKENS, "tokens of projects", ProjectToken, is_own=True),
    Kind(LOCK_PREFIX, "locks of tasks"),
    Kind("lock/", "locks"),
    Kind(TASK_PREFIX, "tasks", Task),
    Kind(FORMER_LISTING_PREFIX, "keys that listed tasks", is_own=True),
)
_OTHER_TARGET = Kind("storage/", "imports into other targets", is_own=True)
_OF_TARGET = re.compile(r"storage/[a-z]+/(file|job|quarantine)/")
_TREES = (
    "authority/",
    "definition/",
    "lock/",
    "rejected/",
    "runtime/",
    "storage/",
    "task/",
)


@attrs.define
class Inventory:
    """The records of a cluster.

    :ivar records: decoded records by key, except statistics and tasks.
    :ivar values: stored bytes of the same records, by key.
    :ivar statistics: number of records counted in each slice, by the slice's key.
    :ivar live: keys that exist only as long as their node runs.
    """

    report: Report = attrs.Factory(Report)
    records: dict[str, Record] = attrs.Factory(dict)
    values: dict[str, KeyValue] = attrs.Factory(dict)
    statistics: dict[str, int] = attrs.Factory(dict)
    live: list[str] = attrs.Factory(list)

    def of(self, kind: type[Record], below: str) -> Mapping[str, Record]:
        """Return the records of a kind below a prefix, by the rest of the key after the prefix."""
        return {
            key.removeprefix(below): record
            for key, record in self.records.items()
            if key.startswith(below) and isinstance(record, kind)
        }

    @property
    def files(self) -> dict[FileKey, File]:
        """Return all files."""
        return {
            record.key: record
            for record in self.of(File, prefix.FILE_ALL).values()
            if isinstance(record, File)
        }

    @property
    def slices(self) -> dict[SliceKey, Slice]:
        """Return all slices."""
        return {
            record.key: record
            for record in self.of(Slice, prefix.SLICE_ALL).values()
            if isinstance(record, Slice)
        }

    @property
    def sinks(self) -> dict[SinkKey, Sink]:
        """Return the sinks that aren't deleted."""
        return {
            record.key: record
            for record in self.of(Sink, definitions.SINK_ACTIVE).values()
            if isinstance(record, Sink)
        }


def kind_of(key: str) -> Kind | None:
    """Return the kind of a key; ``None`` if it is unknown."""
    kind = next((kind for kind in KINDS if key.startswith(kind.prefix)), None)
    return _OTHER_TARGET if kind is None and _OF_TARGET.match(key) else kind


def take_inventory(kvs: Iterable[KeyValue]) -> Inventory:
    """Decode every record, and check the consistency of files and slices."""
    found = Inventory()
    for kv in kvs:
        _take(found, kv)
    _check_copies(found)
    _check_states(found)
    return found


def _take(found: Inventory, kv: KeyValue) -> None:
    report, kind = found.report, kind_of(kv.key)
    if kind is None:
        tree = kv.key.split("/", 1)[0] + "/"
        where = f'"{tree}"' if tree not in _TREES else "this place"
        report.counts["unknown keys"] += 1
        report.add(Weight.NOTE, kv.key, f"the keys of {where} are unknown; they are not changed")
        return
    report.counts[kind.name] += 1
    if kind.is_live:
        found.live.append(kv.key)
    if kv.key == LAYOUT_KEY:
        try:
            check_layout(kv.value)
        except UserError as error:
            report.problem(kv.key, error.message, error.detail or "")
    if kind.record is None or kind.is_live:
        return
    try:
        record = decode(kind.record, kv.value)
    except ValueError as error:
        report.problem(
            kv.key,
            f"the record can't be read: {error}",
            "keep a copy and correct or delete it, otherwise it is ignored",
        )
        return
    belongs = _place_of(record)
    below = kv.key.removeprefix(kind.prefix)
    if belongs and below != belongs and not below.startswith(f"{belongs}/"):
        report.problem(
            kv.key,
            f'the record belongs to another key, that of "{belongs}"',
            "keep a copy and delete it, otherwise rows would go to the wrong object",
        )
        return
    missing = record.missing_part if isinstance(record, Source | Sink) else ""
    if missing:
        report.problem(kv.key, f'"{missing}" is missing', "keep a copy and complete or delete it")
    if isinstance(record, Statistics):
        below, _, _ = kv.key.removeprefix(kind.prefix).rpartition("/")
        found.statistics[below] = found.statistics.get(below, 0) + record.records_count
    elif not isinstance(record, Task):
        found.records[kv.key] = record
        found.values[kv.key] = kv


def _place_of(record: Record) -> str:
    """Return the end of the key under which *record* must be stored; ``""`` if unknown."""
    if isinstance(record, Branch | Source | Sink | File | Slice | TokenRecord | JobRecord):
        return str(record.key)
    return str(record.file_key) if isinstance(record, FileRecord) else ""


def _check_copies(found: Inventory) -> None:
    """Check that each file and slice has its second copy under the level of its state."""
    for all_, level_of, kind in (
        (prefix.FILE_ALL, prefix.file_level, File),
        (prefix.SLICE_ALL, prefix.slice_level, Slice),
    ):
        first = found.of(kind, all_)
        for key, record in first.items():
            assert isinstance(record, File | Slice)
            second = found.records.get(f"{level_of(record.level)}{key}")
            if second != record:
                found.report.problem(
                    f"{all_}{key}",
                    f'the copy of the record at level "{record.level.value}" is '
                    f"{'missing' if second is None else 'another one'}",
                    "write the value of this key to the copy's key as well: "
                    "operators read the copy",
                )
        for level in Level:
            for key, record in found.of(kind, level_of(level)).items():
                of_all = first.get(key)
                assert isinstance(record, File | Slice)
                if of_all is None or (isinstance(of_all, File | Slice) and of_all.level != level):
                    found.report.problem(
                        f"{level_of(level)}{key}",
                        "the record is a copy of a record that does not exist",
                        "delete it, if its file isn't at this level",
                    )


def _check_states(found: Inventory) -> None:
    files, slices = found.files, found.slices
    for key, slice_ in slices.items():
        file = files.get(key.file_key)
        if file is None:
            found.report.add(
                Weight.NOTE,
                f"{prefix.SLICE_ALL}{key}",
                "the file of the slice is missing; the slice is not changed",
            )
            continue
        try:
            check_combination(file.state, slice_.state)
        except UserError as error:
            found.report.problem(
                f"{prefix.SLICE_ALL}{key}",
                f"the file isn't imported before this is solved: {error.message}",
                'see "Incomplete rotations" on the page about taking over',
            )
    _check_open(found, "file", _writing(files.values()))
    for sink, opened in _writing_slices(slices.values()).items():
        _check_open(found, "slice", {sink: opened})


def _writing(files: Iterable[File]) -> Mapping[object, Sequence[str]]:
    by_sink: dict[object, list[str]] = {}
    for file in files:
        if file.state is FileState.WRITING:
            by_sink.setdefault(file.key.sink_key, []).append(f"{prefix.FILE_ALL}{file.key}")
    return by_sink


def _writing_slices(slices: Iterable[Slice]) -> Mapping[object, Sequence[str]]:
    by_volume: dict[object, list[str]] = {}
    for slice_ in slices:
        if slice_.state is SliceState.WRITING:
            key = slice_.key.file_volume_key
            by_volume.setdefault(key, []).append(f"{prefix.SLICE_ALL}{slice_.key}")
    return by_volume


def _check_open(found: Inventory, kind: str, opened: Mapping[object, Sequence[str]]) -> None:
    for keys in opened.values():
        if len(keys) > 1:
            for key in keys:
                found.report.add(
                    Weight.NOTE,
                    key,
                    f"a rotation is incomplete: more than one {kind} is open; "
                    "records go to each of them, and each is imported",
                )


def unfinished_files(found: Inventory) -> dict[FileKey, File]:
    """Return the files that aren't imported yet."""
    return {key: file for key, file in found.files.items() if file.state is not FileState.IMPORTED}


def foreign_tables(found: Inventory) -> dict[SinkKey, Sink]:
    """Return the sinks with tables of types that the original service doesn't support."""
    return {key: sink for key, sink in found.sinks.items() if sink.table.type != KEBOOLA}
