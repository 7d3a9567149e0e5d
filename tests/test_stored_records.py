"""Every kind of record in etcd, stored by another release of the service.

Another release may store fewer members, or more. See Note [Other versions] of
`stream.values.codec`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from datetime import datetime
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stream
from stream.authority import tokens as own
from stream.definition.entity import Branch, Sink, Source
from stream.definition.lifecycle import with_overrides, with_secret
from stream.definition.size import DefinitionSize
from stream.etcd.claims import Holder
from stream.mapping.columns import Column
from stream.mapping.columns import Mapping as Columns
from stream.rejected.state import (
    KeptRecords,
    RejectedCount,
    RejectedNode,
    Replay,
    ReplayedRecords,
    ReplayPosition,
)
from stream.staging import FileUpload
from stream.storage.model.entity import File, Slice
from stream.storage.model.retry import Retry
from stream.storage.model.state import FileState, SliceState
from stream.storage.model.statistics import Statistics
from stream.storage.model.volume import Volume
from stream.storage.store.layout import Layout
from stream.storage.store.overview import FileOutline
from stream.tail.subscription import TailSubscription
from stream.target.jobs import JobRecord
from stream.target.keboola.quarantine import QuarantineRecord
from stream.target.keboola.records import FileRecord, TokenRecord
from stream.target.lake import records as lake
from stream.target.postgres import records as postgres
from stream.target.staged import StagingPlace
from stream.task.entity import Task
from stream.values.bytesize import ByteSize
from stream.values.codec import Record, decode, encode, known_part, to_plain
from stream.values.duration import Duration
from stream.values.utctime import parse_time

Plain = Any
Path = tuple[str | int, ...]

AT = "2000-01-01T01:00:00.000Z"
BY = {"type": "user", "tokenId": "1", "tokenDesc": "d", "userId": "2", "userName": "n"}
AT_BY = {"at": AT, "by": BY}
BRANCH_KEY = {"projectId": 123, "branchId": 456}
SOURCE_KEY = {**BRANCH_KEY, "sourceId": "my-source"}
SINK_KEY = {**SOURCE_KEY, "sinkId": "my-sink"}
FILE_KEY = {**SINK_KEY, "fileOpenedAt": AT}
SLICE_KEY = {**FILE_KEY, "volumeId": "my-volume", "sliceOpenedAt": AT}
VERSION = {"number": 3, "hash": "0123456789abcdef", "description": "Updated.", **AT_BY}
SWITCHES = {
    "disabled": {"directly": True, "at": AT, "reason": "API", "by": BY},
    "undeleted": AT_BY,
}
RETRY = {
    "retryAttempt": 2,
    "retryReason": "no way",
    "firstFailedAt": AT,
    "lastFailedAt": AT,
    "retryAfter": AT,
}
CONFIG = [{"key": "storage.level.staging.upload.trigger.count", "value": 7}]
MAPPING = {
    "columns": [
        {"type": "uuid", "name": "id", "primaryKey": True},
        {"type": "datetime", "name": "at"},
        {"type": "ip", "name": "ip"},
        {"type": "body", "name": "body"},
        {"type": "headers", "name": "headers"},
        {"type": "path", "name": "p", "path": "a.b", "rawString": True, "defaultValue": "x"},
        {
            "type": "template",
            "name": "t",
            "rawString": True,
            "template": {"language": "jsonnet", "content": "Body()"},
        },
    ]
}
GZIP = {
    "type": "gzip",
    "gzip": {"level": 2, "implementation": "fast", "blockSize": "1MB", "concurrency": 1},
}
ENCODING = {
    "encoder": {"type": "csv", "concurrency": 1, "rowSizeLimit": "1MB"},
    "inputBuffer": "1MB",
    "maxChunkSize": "256KB",
    "failedChunksThreshold": 4,
    "compression": GZIP,
    "sync": {
        "mode": "cache",
        "wait": False,
        "checkInterval": "6ms",
        "countTrigger": 1,
        "uncompressedBytesTrigger": "2MB",
        "compressedBytesTrigger": "2MB",
        "intervalTrigger": "60ms",
    },
}
UPLOAD_CONFIG = {
    "minInterval": "11s",
    "trigger": {"count": 2, "size": "6MB", "interval": "31s"},
}
DEAD_LETTER = {"maxSize": "2MB", "maxAge": "1h0m0s"}
UPLOAD = {
    "id": 7,
    "name": "my-file",
    "provider": "aws",
    "region": "eu-central-1",
    "uploadParams": {"key": "exp/7/", "bucket": "b", "credentials": {"Expiration": AT}},
    "created": "2000-01-01T00:00:00+0000",
    "isSliced": True,
}

RECORDS: dict[type, Plain] = {
    DefinitionSize: {"bytes": 7, "countedAt": AT, "written": 8, "writtenSince": AT},
    Branch: {**BRANCH_KEY, "created": AT_BY, **SWITCHES, "isDefault": True, "name": "n"},
    Source: {
        **SOURCE_KEY,
        "created": AT_BY,
        "version": VERSION,
        **SWITCHES,
        "type": "http",
        "name": "My Source",
        "description": "d",
        "config": CONFIG,
        "http": {"secret": "s" * 48},
    },
    Sink: {
        **SINK_KEY,
        "created": AT_BY,
        "version": VERSION,
        **SWITCHES,
        "type": "table",
        "name": "My Sink",
        "description": "d",
        "config": CONFIG,
        "allowedSignals": ["logs"],
        "table": {"type": "keboola", "keboola": {"tableId": "in.c-b.t"}, "mapping": MAPPING},
    },
    Columns: MAPPING,
    File: {
        **FILE_KEY,
        **RETRY,
        "state": "importing",
        "closingAt": AT,
        "importingAt": AT,
        "mapping": MAPPING,
        "encoding": ENCODING,
        "local": {
            "dir": "123/456/my-source/my-sink/file",
            "assignment": {
                "config": {"count": 2, "preferredTypes": ["ssd"]},
                "volumes": ["my-volume"],
            },
            "allocation": {"enabled": False, "static": "1MB", "relative": 200},
        },
        "staging": {
            "isEmpty": True,
            "provider": "keboola",
            "compression": GZIP,
            "expiration": AT,
            "upload": UPLOAD_CONFIG,
        },
        "target": {
            "provider": "keboola",
            "import": {
                "maxSlices": 101,
                "minInterval": "2m0s",
                "trigger": {
                    "count": 3,
                    "size": "51MB",
                    "interval": "2m0s",
                    "slicesCount": 101,
                    "expiration": "31m0s",
                },
            },
        },
        "deadLetter": DEAD_LETTER,
        "quota": "1GB",
    },
    Slice: {
        **SLICE_KEY,
        **RETRY,
        "state": "uploading",
        "closingAt": AT,
        "uploadingAt": AT,
        "mapping": MAPPING,
        "encoding": ENCODING,
        "local": {
            "dir": "123/456/my-source/my-sink/file/slice",
            "filenamePrefix": "part",
            "filenameExtension": "csv.gz",
            "isEmpty": True,
            "allocatedDiskSpace": "110MB",
        },
        "staging": {
            "path": f"{AT}_my-volume.gz",
            "provider": "keboola",
            "compression": GZIP,
            "upload": UPLOAD_CONFIG,
        },
        "deadLetter": DEAD_LETTER,
        "quota": "1GB",
    },
    Statistics: {
        "slicesCount": 1,
        "firstRecordAt": AT,
        "lastRecordAt": AT,
        "recordsCount": 10,
        "uncompressedSize": "1KB",
        "compressedSize": "1KB",
        "stagingSize": "1KB",
        "resetAt": AT,
    },
    Volume: {
        "volumeId": "my-volume",
        "nodeId": "node",
        "nodeAddress": "localhost:6000",
        "path": "/var/volumes/hdd/1",
        "type": "hdd",
        "label": "1",
        "drained": True,
    },
    TokenRecord: {
        **SINK_KEY,
        "token": {"id": "1001", "description": "d", "token": "t", "isMasterToken": False},
        "tokenId": "1001",
        "encryptedToken": "",
    },
    own.TokenRecord: {
        "projectId": 123,
        "tokenId": "a1b2c3d4",
        "digest": "0123456789abcdef",
        "name": "ci",
        "rights": ["read", "tail"],
        "created": AT_BY,
        "expiresAt": AT,
    },
    FileRecord: {
        "FileKey": FILE_KEY,
        "SinkKey": SINK_KEY,
        "TableID": "in.c-b.t",
        "Columns": ["id", "body"],
        "StorageJobID": 321,
        "UploadCredentials": UPLOAD,
        "EncryptedCredentials": "",
        "FileID": 7,
        "FileName": "my-file",
        "CredentialsExpiration": AT,
        "ImportAsked": True,
    },
    JobRecord: {**SINK_KEY, "jobId": "321"},
    postgres.FileRecord: {
        **FILE_KEY,
        "importId": "i",
        "connection": "c",
        "schema": "s",
        "table": "t",
        "columns": [{"name": "id", "type": "integer", "isKey": True, "isNullable": True}],
    },
    lake.FileRecord: {
        **FILE_KEY,
        "importId": "i",
        "connection": "c",
        "place": {"path": "p"},
        "columns": [{"name": "id", "type": "integer", "isKey": True, "isNullable": True}],
        "partitionBy": '["day(at)"]',
        "timeColumn": "at",
    },
    postgres.QuarantineRecord: {
        **FILE_KEY,
        "recordsCount": 2,
        "reason": "bad row",
        "table": "s._stream_quarantine",
    },
    StagingPlace: {"nodeId": "n", "place": "p", "url": "file:///p"},
    QuarantineRecord: {
        **FILE_KEY,
        "reason": "bad row",
        "ranges": [{"start": 0, "end": 5}],
        "refused": [{"start": 5, "end": 6, "reason": "bad"}],
        "part": {"fileId": 8, "storageJobId": 9, "importAsked": True},
        "jobs": 1,
        "malformed": 1,
        "missing": 1,
        "isDamaged": True,
        "fileId": 10,
        "isDone": True,
    },
    Task: {
        "projectId": 123,
        "taskId": f"api.create.source/456/my-source/{AT}_abcde",
        "type": "api.create.source",
        "createdAt": AT,
        "finishedAt": AT,
        "node": "node",
        "lock": "runtime/lock/task/123/456/my-source",
        "result": "Source has been created successfully.",
        "error": "no",
        "userError": {"name": "n", "message": "m", "exceptionId": "e", "status": 409},
        "outputs": {"url": "https://localhost", "projectId": 123},
        "duration": 1_000_000,
    },
    TailSubscription: {
        **SOURCE_KEY,
        "id": "t",
        "address": "localhost:1",
        "host": "h",
        "token": "secret",
        "rate": 1,
        "maxBodyBytes": 2,
        "expiresAt": AT,
    },
    RejectedNode: {
        "nodeId": "n",
        "address": "localhost:1",
        "host": "h",
        "secret": "s",
        "hasFiles": True,
        "directory": "d",
    },
    RejectedCount: {
        "count": 3,
        "dropped": 1,
        "lastError": {"reason": "r", "column": "c", "message": "m", "time": AT},
        "keptAt": AT,
    },
    KeptRecords: {"at": AT, "until": AT, "directory": "d", "elsewhere": {"e": AT}},
    Replay: {"token": "t", "file": "f", "node": "n", "startedAt": AT},
    ReplayPosition: {
        "selection": "s",
        "sinkVersion": 1,
        "node": "n",
        "after": "a:1",
        "done": ["m"],
        "at": AT,
    },
    ReplayedRecords: {"ids": ["a", "b"], "nodes": ["n"], "at": AT},
    Holder: {
        "token": "t",
        "host": "h",
        "pid": 1,
        "since": AT,
        "ttl": 5,
        "machine": "m",
        "namespace": "n",
        "started": 1,
    },
    Layout: {"version": 1, "writtenBy": "1.0.0"},
}
"""A complete record of each kind."""

REQUIRED: dict[type, set[str]] = {
    DefinitionSize: {"bytes"},
    Branch: {*BRANCH_KEY},
    Source: {*SOURCE_KEY, "type", "http.secret", "config.0.key"},
    Sink: {
        *SINK_KEY,
        "table",
        "table.type",
        "table.keboola.tableId",
        "table.mapping",
        "config.0.key",
    },
    Columns: set(),
    File: {*FILE_KEY, "state"},
    Slice: {*SLICE_KEY, "state"},
    Statistics: set(),
    Volume: {"volumeId", "nodeId", "nodeAddress"},
    TokenRecord: {*SINK_KEY, "token.id", "token.token"},
    own.TokenRecord: {"projectId", "tokenId", "digest", "name", "rights"},
    FileRecord: {
        "FileKey",
        "TableID",
        *(f"FileKey.{name}" for name in FILE_KEY),
        *(f"SinkKey.{name}" for name in SINK_KEY),
        "UploadCredentials",
        "UploadCredentials.id",
        "UploadCredentials.uploadParams",
        "UploadCredentials.uploadParams.credentials",
    },
    JobRecord: {*SINK_KEY, "jobId"},
    postgres.FileRecord: {*FILE_KEY, "importId", "connection", "schema", "table", "columns"}
    | {"columns.0.name"},
    lake.FileRecord: {*FILE_KEY, "importId", "connection", "columns"} | {"columns.0.name"},
    postgres.QuarantineRecord: {*FILE_KEY, "recordsCount", "reason", "table"},
    StagingPlace: {"nodeId", "place", "url"},
    QuarantineRecord: {
        *FILE_KEY,
        "ranges.0.start",
        "ranges.0.end",
        "refused.0.start",
        "refused.0.end",
        "part.fileId",
    },
    Task: {"projectId", "taskId"},
    TailSubscription: {*SOURCE_KEY, "id", "address", "host", "token", "rate"}
    | {"maxBodyBytes", "expiresAt"},
    RejectedNode: {"nodeId", "address", "host", "secret"},
    RejectedCount: set(),
    KeptRecords: set(),
    Replay: {"token"},
    ReplayPosition: {"selection"},
    ReplayedRecords: set(),
    Holder: {"token", "ttl"},
    Layout: set(),
}
"""Required members of each kind of record; the others are optional. Those of columns are type,
name, path and template.
"""

_COLUMN = {"type", "name", "path", "template", "language", "content"}
_EITHER = {"UploadCredentials", "UploadCredentials.uploadParams.credentials"}
"""Members that aren't needed if others have the same information."""

KINDS = sorted(RECORDS, key=lambda kind: (kind.__name__, kind.__module__))


_MAPS = {("elsewhere",)}
"""Objects whose members are entries with any name."""


def _paths(plain: Plain, at: Path = ()) -> Iterator[Path]:
    """Return the paths of all members."""
    items = enumerate(plain) if isinstance(plain, list) else plain.items()
    for name, item in items:
        if not isinstance(plain, list) and at[-1:] not in _MAPS:
            yield (*at, name)
        if isinstance(item, dict | list):
            yield from _paths(item, (*at, name))


def _objects(plain: Plain, at: Path = ()) -> Iterator[Path]:
    """Return the paths of all objects that may have unknown members."""
    if isinstance(plain, dict) and at[-1:] not in _MAPS:
        yield at
    items = enumerate(plain) if isinstance(plain, list) else plain.items()
    for name, item in items:
        if isinstance(item, dict | list):
            yield from _objects(item, (*at, name))


def _is_optional(kind: type, path: Path) -> bool:
    if (
        "columns" in path
        and path[-1] in _COLUMN
        and kind not in (postgres.FileRecord, lake.FileRecord)
    ):
        return False
    return ".".join(map(str, path)) not in REQUIRED[kind]


def _at(plain: Plain, path: Path) -> Plain:
    for step in path:
        plain = plain[step]
    return plain


def _copy(plain: Plain) -> Plain:
    return orjson.loads(orjson.dumps(plain))


@st.composite
def changed_records(draw: st.DrawFn) -> tuple[type, Plain, list[Path]]:
    """Generate a kind, a record with missing and unknown members, and the paths of the unknown
    ones.
    """
    kind = draw(st.sampled_from(KINDS))
    plain = _copy(RECORDS[kind])
    optional = [path for path in _paths(plain) if _is_optional(kind, path)]
    for path in draw(st.lists(st.sampled_from(optional), unique=True)) if optional else ():
        parent: Plain = plain
        for step in path[:-1]:
            parent = parent.get(step, {}) if isinstance(parent, dict) else parent[step]
            if not parent:
                break
        else:
            if draw(st.booleans()):
                parent.pop(path[-1], None)
            elif path[-1] in parent:
                parent[path[-1]] = None
    added = []
    objects = list(_objects(plain))
    for path in draw(st.lists(st.sampled_from(objects), unique=True)):
        value = draw(
            st.none() | st.integers(0, 9) | st.just({"deep": [1, {}]}) | st.text(max_size=3)
        )
        _at(plain, path)["addedLater"] = value
        added.append(path)
    return kind, plain, added


@given(changed_records())
def test_records_of_other_releases_are_read_and_kept(
    example: tuple[type, Plain, list[Path]],
) -> None:
    """Missing and null optional members are read, and unknown members are written back."""
    kind, plain, added = example
    value: Any = decode(kind, orjson.dumps(plain))
    written = orjson.loads(encode(value))
    mapping = _mapping_of(value)
    if mapping is not None:
        (written["table"] if kind is Sink else written)["mapping"] = {
            **orjson.loads(encode(mapping)),
        }
    for path in added:
        assert _at(written, path)["addedLater"] == _at(plain, path)["addedLater"], path
    again: Any = decode(kind, encode(value))
    assert again == value and encode(again) == encode(value)


_OTHER_TIMES = (
    "2000-01-01T01:00:00Z",
    "2000-01-01T01:00:00.0000000Z",
    "2000-01-01T01:00:00.000999999Z",
    "2000-01-01T03:00:00.000+02:00",
    "1999-12-31 23:30:00-0130",
)
"""`AT` in other forms, as other programs write it."""
_OTHER_FORMS: dict[Any, Any] = {
    int: lambda value: [str(value), float(value)],
    bool: lambda value: [str(value).lower(), int(value), str(int(value))],
    ByteSize: lambda value: [int(ByteSize.parse(value)), f"{int(ByteSize.parse(value))}B"],
    Duration: lambda value: [Duration.parse(value).nanoseconds, f"{value}0ms"],
    datetime: lambda value: list(_OTHER_TIMES),
}


def _kind_of(hint: Any) -> Any:
    """Return the type of a member that may be absent."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    is_union = get_origin(hint) in (Union, UnionType)
    return kinds[0] if is_union and len(kinds) == 1 else hint


def _leaves(kind: Any, plain: Plain, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Return the paths of plain values with their types, except those of columns."""
    hints = get_type_hints(kind)
    for attribute in attrs.fields(kind):
        options = attribute.metadata.get("stream.codec", {})
        hint = _kind_of(hints[attribute.name])
        if options.get("flatten"):
            yield from _leaves(hint, plain, at)
            continue
        head, *rest = attribute.name.split("_")
        name = options.get("name") or head + "".join(map(str.capitalize, rest))
        value = plain.get(name)
        if isinstance(value, dict) and attrs.has(hint) and hint is not FileUpload:
            yield from _leaves(hint, value, (*at, name))
        elif value is not None and not isinstance(value, list | dict):
            yield (*at, name), hint


LEAVES = [
    (kind, path, hint)
    for kind in KINDS
    for path, hint in _leaves(kind, RECORDS[kind])
    if "mapping" not in path
]
"""All plain values of all kinds, with their types."""


def _with(kind: type, path: Path, value: Plain) -> bytes:
    plain = _copy(RECORDS[kind])
    _at(plain, path[:-1])[path[-1]] = value
    return orjson.dumps(plain)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_other_forms_of_a_value(kind: type) -> None:
    """Numbers as texts, flags as numbers, times with another fraction or zone are the same value,
    and are written in the form of this service.
    """
    expected: Any = decode(kind, orjson.dumps(RECORDS[kind]))
    for of_kind, path, hint in LEAVES:
        if of_kind is kind and hint in _OTHER_FORMS:
            for form in _OTHER_FORMS[hint](_at(RECORDS[kind], path)):
                found: Any = decode(kind, _with(kind, path, form))
                assert found == expected and encode(found) == encode(expected), (path, form)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_empty_texts(kind: type) -> None:
    """An empty text where no text is expected is the same as no member."""
    for of_kind, path, hint in LEAVES:
        if of_kind is not kind or hint in (str, Any):
            continue
        plain = _copy(RECORDS[kind])
        del _at(plain, path[:-1])[path[-1]]
        empty = _with(kind, path, "")
        if _is_optional(kind, path):
            assert decode(kind, empty) == decode(kind, orjson.dumps(plain)), path
        else:
            with pytest.raises(ValueError):
                decode(kind, empty)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", " ", "x", "-1", "1e3", "true", "0001-01-01T00:00:00+02:00", "9" * 30])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=3,
)


@given(st.data())
def test_any_value_of_any_member(data: st.DataObject) -> None:
    """The record is read or refused with one kind of error; what is read can be written again."""
    kind = data.draw(st.sampled_from(KINDS))
    plain = _copy(RECORDS[kind])
    for path in data.draw(st.lists(st.sampled_from(list(_paths(plain))), min_size=1, max_size=3)):
        parent: Plain = plain
        for step in path[:-1]:
            parent = (
                parent.get(step)
                if isinstance(parent, dict)
                else parent[step]
                if isinstance(parent, list) and isinstance(step, int) and step < len(parent)
                else None
            )
        if isinstance(parent, dict):
            parent[path[-1]] = data.draw(_ANYTHING)
    try:
        value: Any = decode(kind, orjson.dumps(plain))
    except ValueError:
        return
    again: Any = decode(kind, encode(value))
    assert again == value and encode(again) == encode(value)


def _mapping_of(value: Any) -> Columns | None:
    """Return the mapping of a record, which is stored separately."""
    if isinstance(value, File | Slice):
        return value.mapping.mapping
    return value.table.mapping.mapping if isinstance(value, Sink) else None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_complete_record_is_unchanged(kind: type) -> None:
    """All members are written in order."""
    plain = _copy(RECORDS[kind])
    value: Any = decode(kind, orjson.dumps(plain))
    mapping = _mapping_of(value)
    written = orjson.loads(encode(value))
    if mapping is not None:
        (written["table"] if kind is Sink else written)["mapping"] = orjson.loads(encode(mapping))
    assert _texts(written) == _texts(_with_expiration(kind, plain))


def _with_expiration(kind: type, plain: Plain) -> Plain:
    """Add the expiration of credentials, which is also stored next to them."""
    if kind is FileRecord:
        plain["UploadCredentials"]["expiration"] = AT
    return plain


def _texts(plain: Plain) -> bytes:
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_required_members(kind: type) -> None:
    """Without a required member, the whole record is invalid."""
    for path in _paths(RECORDS[kind]):
        if _is_optional(kind, path) or ".".join(map(str, path)) in _EITHER:
            continue
        plain = _copy(RECORDS[kind])
        del _at(plain, path[:-1])[path[-1]]
        with pytest.raises(ValueError):
            decode(kind, orjson.dumps(plain))


def test_changes_keep_unknown_members() -> None:
    """Changes by the service affect only known members."""
    plain = _copy(RECORDS[Source])
    for path in list(_objects(plain)):
        _at(plain, path)["addedLater"] = 1
    source = decode(Source, orjson.dumps(plain))
    changed = with_secret(source, "http", "another")
    changed = with_overrides(changed, [(CONFIG[0]["key"], 8), ("a.b", 1)])  # type: ignore[list-item]
    written = to_plain(changed)
    assert written["http"] == {"secret": "another", "addedLater": 1}
    assert written["config"] == [
        {**CONFIG[0], "value": 8, "addedLater": 1},
        {"key": "a.b", "value": 1},
    ]
    moment = parse_time(AT)
    for kind, advance in (
        (File, lambda file: file.advance(FileState.IMPORTING, FileState.IMPORTED, moment)),
        (Slice, lambda slice_: slice_.advance(SliceState.UPLOADING, SliceState.UPLOADED, moment)),
    ):
        plain = _copy(RECORDS[kind])
        for path in list(_objects(plain)):
            _at(plain, path)["addedLater"] = 1
        written = to_plain(advance(decode(kind, orjson.dumps(plain))))
        for path in _objects(plain):
            if "mapping" not in path:
                assert _at(written, path)["addedLater"] == 1


def test_a_sum_of_statistics_keeps_unknown_members() -> None:
    """The unknown members are those of the last summand."""
    one, other = Statistics(unknown={"a": 1, "b": 1}), Statistics(unknown={"b": 2})
    assert (one + other).unknown == {"a": 1, "b": 2}
    assert (one + Statistics()).unknown == {"a": 1, "b": 1}


def test_records_from_outside() -> None:
    """Such records are stored without unknown members."""
    plain = _copy(MAPPING)
    for path in list(_objects(plain)):
        _at(plain, path)["addedLater"] = 1
    mapping = decode(Columns, orjson.dumps(plain))
    assert to_plain(mapping) == plain
    assert to_plain(known_part(mapping)) == MAPPING


def test_the_id_of_a_staging_file() -> None:
    """The id is also that of its credentials; records without it need credentials in plain text."""
    plain = _copy(RECORDS[FileRecord])
    del plain["FileID"]
    assert decode(FileRecord, orjson.dumps(plain)).file_id == 7
    plain["UploadCredentials"] = None
    with pytest.raises(ValueError, match='"FileID" is missing'):
        decode(FileRecord, orjson.dumps(plain))


def test_an_outline_has_the_defaults_of_the_record() -> None:
    """A file without its optional members has the same defaults in an outline."""
    plain = orjson.dumps({**FILE_KEY, "state": "writing"})
    outline, file = decode(FileOutline, plain), decode(File, plain)
    assert outline.target.provider == file.target.provider == "keboola"
    assert outline.retry == file.retry


def test_credentials_of_earlier_releases() -> None:
    """Earlier releases stored the parameters under another name."""
    plain = _copy(RECORDS[FileRecord])
    upload = plain["UploadCredentials"]
    upload["credentials"] = upload.pop("uploadParams")
    upload["expiration"] = AT
    assert decode(FileRecord, orjson.dumps(plain)) == decode(
        FileRecord, orjson.dumps(RECORDS[FileRecord])
    )


def _classes(hint: Any) -> Iterator[type]:
    """Return the attrs classes that a type refers to."""
    if isinstance(hint, type) and attrs.has(hint):
        yield hint
    for argument in get_args(hint):
        yield from _classes(argument)


def _reached(kind: type, seen: set[type]) -> None:
    if kind in seen:
        return
    seen.add(kind)
    for attribute in attrs.fields(kind):
        if attribute.metadata.get("stream.codec", {}).get("flatten"):
            continue
        for cls in _classes(get_type_hints(kind)[attribute.name]):
            if attribute.name != "content":
                _reached(cls, seen)


def test_every_class_of_a_record_keeps_unknown_members() -> None:
    """New classes are included; values that are strings in JSON have no members."""
    seen: set[type] = set()
    for kind in RECORDS:
        _reached(kind, seen)
    for column in get_args(Column):
        _reached(column, seen)
    forgetful = {cls for cls in seen if not issubclass(cls, Record)}
    assert {cls.__name__ for cls in forgetful} <= {"Duration", "ByteSize"}


def test_every_kind_is_tested() -> None:
    """Every type decoded from etcd has an example in this module."""
    for module in pkgutil.walk_packages(stream.__path__, "stream."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    known: set[type] = set()
    for kind in RECORDS:
        _reached(kind, known)
    known.update(get_args(Column), {FileUpload, Retry})
    unknown = {cls for cls in _subclasses(Record) if cls not in known}
    assert not {cls.__name__ for cls in unknown if cls.__module__.startswith("stream.")}


def _subclasses(cls: type) -> Iterator[type]:
    below: list[type] = cls.__subclasses__()
    for sub in below:
        yield sub
        yield from _subclasses(sub)
