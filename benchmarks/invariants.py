"""``python -m benchmarks.invariants`` checks the consistency of all stored records.

Definitions, files, slices, statistics and tokens change in transactions, so the invariants hold at
every moment and under any load. Only with ``--resting`` it also checks that nothing is in progress.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Mapping as AnyMapping
from pathlib import Path
from typing import Any

from benchmarks.snapshot import Snapshot, read_snapshot
from stream.definition import prefix as definitions
from stream.definition.entity import KEBOOLA, Sink, Source
from stream.errors import UserError
from stream.mapping.columns import Mapping
from stream.mapping.stored import StoredMapping
from stream.storage.model import prefix as storage
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, Level, SliceState, check_combination
from stream.task.entity import LOCK_PREFIX
from stream.values.codec import decode

__all__ = ["acknowledged_changes", "at_rest", "violations"]

_TOKEN = "storage/keboola/secret/token/"
_SWITCHES = ("Disabled.", "Enabled.")

Check = Callable[[Snapshot], Iterator[str]]


def violations(snapshot: Snapshot) -> list[str]:
    """Return the violations of invariants that hold at every moment."""
    return [found for check in _CHECKS for found in check(snapshot)]


def at_rest(snapshot: Snapshot) -> list[str]:
    """Return the violations of invariants that hold when all tasks have ended."""
    held = [f"the lock of {key} is still held" for key in snapshot.below(LOCK_PREFIX)]
    unfinished = [
        f"the task {key} has not ended"
        for key, task in snapshot.tasks.items()
        if not task.is_finished
    ]
    return held + unfinished


def acknowledged_changes(
    snapshot: Snapshot, expected: AnyMapping[str, AnyMapping[str, int]]
) -> list[str]:
    """Return acknowledged versions that are missing, and versions without an acknowledgement.

    Enabling an enabled sink, or disabling a disabled one, succeeds without a new version, so there
    may be fewer of these versions than acknowledgements.

    :param expected: by key of the sink: number of versions with each description.
    """
    made: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for key, value in snapshot.below(definitions.SINK_VERSION).items():
        description = decode(Sink, value).version.description
        if description.startswith("Undeleted to version"):
            description = "Undeleted."
        made[key.rpartition("/")[0]][description] += 1
    return [
        f"sink {key}: {made[key][text]} versions {text!r}, {told} were acknowledged"
        for key in sorted(made.keys() | expected.keys())
        for text in sorted(made[key].keys() | expected.get(key, {}).keys())
        if made[key][text] != (told := expected.get(key, {}).get(text, 0))
        and not (text in _SWITCHES and made[key][text] < told)
    ]


# files and slices


def _copies(snapshot: Snapshot) -> Iterator[str]:
    """Check that each file and slice has one copy, at the level of its state."""
    for what, all_of, level_of, entities in (
        ("file", storage.FILE_ALL, storage.file_level, snapshot.files),
        ("slice", storage.SLICE_ALL, storage.slice_level, snapshot.slices),
    ):
        yield from _level_copies(snapshot, what, all_of, level_of, entities)


def _level_copies(
    snapshot: Snapshot,
    what: str,
    all_of: str,
    level_of: Callable[[Level], str],
    entities: AnyMapping[str, File] | AnyMapping[str, Slice],
) -> Iterator[str]:
    stored = snapshot.below(all_of)
    found: dict[str, list[Level]] = defaultdict(list)
    for level in Level:
        for key, value in snapshot.below(level_of(level)).items():
            found[key].append(level)
            if stored.get(key) != value:
                yield f"{what} {key}: the copy at level {level.value} differs"
    for key, entity in entities.items():
        if found[key] != [entity.level]:
            levels = [level.value for level in found[key]]
            yield f"{what} {key} in state {entity.state.value} has copies at {levels}"
        if str(entity.key) != key:
            yield f"{what} {key}: its key says {entity.key}"


def _mappings(snapshot: Snapshot) -> Iterator[str]:
    """Check that each referenced mapping exists under its hash."""
    stored = snapshot.below(definitions.MAPPING)
    for key, value in stored.items():
        if StoredMapping.of(decode(Mapping, value)).hash != key.rpartition("/")[2]:
            yield f"mapping {key} has another hash"
    for what, key, record in _with_mapping(snapshot):
        mapping = record.table.mapping if isinstance(record, Sink) else record.mapping
        sink = record.key if isinstance(record, Sink) else record.key.sink_key
        if mapping.content is None and f"{sink}/{mapping.hash}" not in stored:
            yield f"{what} {key}: its mapping is missing"


def _with_mapping(snapshot: Snapshot) -> Iterator[tuple[str, str, Sink | File | Slice]]:
    for where in (definitions.SINK_ACTIVE, definitions.SINK_DELETED, definitions.SINK_VERSION):
        for key, sink in snapshot.decoded(where, Sink).items():
            yield "sink", key, sink
    for key, file in snapshot.files.items():
        yield "file", key, file
    for key, slice_ in snapshot.slices.items():
        yield "slice", key, slice_


def _times(snapshot: Snapshot) -> Iterator[str]:
    """Check that exactly the reached states have a time."""
    for file in snapshot.files.values():
        yield from _times_of(f"file {file.key}", file, list(FileState))
    for slice_ in snapshot.slices.values():
        yield from _times_of(f"slice {slice_.key}", slice_, list(SliceState))


def _times_of(what: str, entity: File | Slice, states: list[Any]) -> Iterator[str]:
    reached = states.index(entity.state)
    for position, state in enumerate(states[1:], start=1):
        is_there = getattr(entity, f"{state.value}_at") is not None
        if is_there != (position <= reached):
            yield f"{what} in state {entity.state.value}: time of {state.value} is wrong"


def _combinations(snapshot: Snapshot) -> Iterator[str]:
    """Check that each slice has a file whose state allows the slice's state."""
    files = snapshot.files
    for slice_ in snapshot.slices.values():
        file = files.get(str(slice_.key.file_key))
        if file is None:
            yield f"slice {slice_.key} has no file"
            continue
        try:
            check_combination(file.state, slice_.state)
        except UserError as error:
            yield f"slice {slice_.key}: {error}"


def _open_files(snapshot: Snapshot) -> Iterator[str]:
    """Check that enabled sinks have one open file, with one open slice on each volume."""
    open_files: dict[str, list[File]] = defaultdict(list)
    for file in snapshot.files.values():
        if file.state is FileState.WRITING:
            open_files[str(file.key.sink_key)].append(file)
    slices: dict[str, list[str]] = defaultdict(list)
    for slice_ in snapshot.slices.values():
        if slice_.state is SliceState.WRITING:
            slices[str(slice_.key.file_key)].append(slice_.key.volume_id)
    enabled = {key for key, sink in snapshot.sinks.items() if sink.is_enabled}
    for key in sorted(enabled | open_files.keys()):
        if len(open_files[key]) != int(key in enabled):
            state = "enabled" if key in enabled else "disabled or deleted"
            yield f"sink {key} is {state} and has {len(open_files[key])} open files"
        for file in open_files[key]:
            if sorted(slices[str(file.key)]) != sorted(file.local.assignment.volumes):
                yield f"file {file.key}: open slices on {slices[str(file.key)]}"


def _statistics(snapshot: Snapshot) -> Iterator[str]:
    """Check that each slice is counted at its level, and nothing else is."""
    slices = snapshot.slices
    of_sinks = (storage.SUM_STATISTICS, storage.RESET_STATISTICS)
    found: dict[str, set[Level]] = defaultdict(set)
    for level in Level:
        for key in snapshot.below(storage.statistics(level)):
            of, _, name = key.rpartition("/")
            if name == storage.OPEN_STATISTICS:
                found[of].add(level)
            elif name not in of_sinks and of not in slices:
                yield f"statistics of {of}, which doesn't exist"
    for key in sorted(found.keys() | slices.keys()):
        expected = {slices[key].level} if key in slices else set()
        if found[key] != expected:
            yield f"slice {key}: counted at {sorted(level.value for level in found[key])}"


def _remote(snapshot: Snapshot) -> Iterator[str]:
    """Check that exactly the enabled sinks of Keboola have a token, and exactly the files target
    records.
    """
    enabled = {
        key
        for key, sink in snapshot.sinks.items()
        if sink.is_enabled and sink.table.type == KEBOOLA
    }
    yield from _differing("token of sink", enabled, snapshot.below(_TOKEN))
    for target in {KEBOOLA, *(file.target.provider for file in snapshot.files.values())}:
        files = {key for key, file in snapshot.files.items() if file.target.provider == target}
        found = snapshot.below(f"storage/{target}/file/")
        yield from _differing(f"record of {target} of file", files, found)


def _differing(what: str, expected: Iterable[str], found: Iterable[str]) -> Iterator[str]:
    expected, found = set(expected), set(found)
    yield from (f"{what} {key} is missing" for key in sorted(expected - found))
    yield from (f"{what} {key} shouldn't be there" for key in sorted(found - expected))


# definitions


def _definitions(snapshot: Snapshot) -> Iterator[str]:
    """Check that an entity is live or deleted, and that its history has no gaps and ends
    with it.
    """
    yield from _history(
        snapshot,
        Source,
        definitions.SOURCE_ACTIVE,
        definitions.SOURCE_DELETED,
        definitions.SOURCE_VERSION,
    )
    yield from _history(
        snapshot, Sink, definitions.SINK_ACTIVE, definitions.SINK_DELETED, definitions.SINK_VERSION
    )
    # A source is undeleted with the last part of its sinks; see Note [Pieces] of the repository.
    sources = snapshot.sources.keys() | snapshot.below(definitions.SOURCE_DELETED).keys()
    for key in snapshot.sinks:
        if key.rpartition("/")[0] not in sources:
            yield f"sink {key} is live, its source isn't there"


def _history(
    snapshot: Snapshot, kind: type[Source] | type[Sink], active: str, deleted: str, version: str
) -> Iterator[str]:
    live, removed = snapshot.below(active), snapshot.below(deleted)
    numbers: dict[str, dict[int, bytes]] = defaultdict(dict)
    for path, value in snapshot.below(version).items():
        key, _, number = path.rpartition("/")
        numbers[key][int(number)] = value
        if decode(kind, value).version.number != int(number):
            yield f"{path}: the number in the record differs"
    yield from (f"{key} is both live and deleted" for key in live.keys() & removed.keys())
    for key in sorted(numbers.keys() | live.keys() | removed.keys()):
        history = numbers[key]
        if sorted(history) != list(range(1, len(history) + 1)):
            yield f"{key}: the versions {sorted(history)} have gaps"
        if key in live and history.get(len(history)) != live[key]:
            yield f"{key}: the live record isn't the newest version"
        if key in removed and decode(kind, removed[key]).version.number != len(history):
            yield f"{key}: the deleted record isn't the newest version"
        if key not in live and key not in removed:
            yield f"{key} has a history, but doesn't exist"


_CHECKS: tuple[Check, ...] = (
    _copies,
    _mappings,
    _times,
    _combinations,
    _open_files,
    _statistics,
    _remote,
    _definitions,
)


def main() -> int:
    """Check a deployment; the exit code is 1 after a violation."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.invariants", description=__doc__)
    parser.add_argument("etcd", help="host:port")
    parser.add_argument("--namespace", default="stream")
    parser.add_argument("--resting", action="store_true", help="nothing may be in progress")
    parser.add_argument(
        "--changes", type=Path, help="changes acknowledged to `benchmarks.api_stress`"
    )
    options = parser.parse_args()
    snapshot = read_snapshot(options.etcd, options.namespace)
    found = violations(snapshot)
    if options.resting:
        found += at_rest(snapshot)
    if options.changes:
        found += acknowledged_changes(snapshot, json.loads(options.changes.read_text()))
    summary = {
        "keys": len(snapshot.kvs),
        "sources": len(snapshot.sources),
        "sinks": len(snapshot.sinks),
        "versions": len(snapshot.below(definitions.SINK_VERSION)),
        "files": len(snapshot.files),
        "slices": len(snapshot.slices),
        "tasks": len(snapshot.tasks),
        "violations": len(found),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    sys.stdout.writelines(f"{text}\n" for text in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
