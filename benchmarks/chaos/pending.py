"""The files and slices that aren't imported yet, read from etcd.

They are read through etcd's HTTP gateway, repeatedly and without a reactor.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TypeVar

import attrs

from stream.storage.model import prefix
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, Level, SliceState
from stream.storage.model.statistics import Statistics
from stream.task.entity import TASK_PREFIX, Task
from stream.values.codec import decode
from tests.e2e.processes import request

__all__ = ["Pending", "read_pending", "read_range", "unfinished_tasks"]

T = TypeVar("T")


@attrs.frozen
class Pending:
    """The pending items.

    :ivar items: items that aren't imported, with their state and the reason of the last failure.
    :ivar imported: number of imported files.
    """

    items: list[str]
    imported: int


def read_pending(endpoint: str, namespace: str) -> Pending:
    """Return the pending items.

    An open file or slice counts only if it has records: an empty one stays open.

    :param endpoint: ``host:port`` of etcd.
    """
    kvs = read_range(endpoint, namespace + "/", "storage/")
    files = _decoded(kvs, prefix.FILE_ALL, File)
    slices = _decoded(kvs, prefix.SLICE_ALL, Slice)
    local = prefix.statistics(Level.LOCAL)
    counted: dict[str, int] = {}
    for key, value in kvs.items():
        if key.startswith(local):
            of = key[len(local) :].rpartition("/")[0]
            counted[of] = counted.get(of, 0) + decode(Statistics, value).records_count
    return Pending(
        [*_of_files(files), *_of_slices(slices, counted)],
        sum(file.state is FileState.IMPORTED for file in files.values()),
    )


def unfinished_tasks(endpoint: str, namespace: str) -> list[str]:
    """Return the ids of tasks that haven't ended."""
    tasks = _decoded(read_range(endpoint, namespace + "/", TASK_PREFIX), TASK_PREFIX, Task)
    return [task.task_id for task in tasks.values() if not task.is_finished]


def _of_files(files: dict[str, File]) -> Iterator[str]:
    for key, file in files.items():
        if file.state not in (FileState.WRITING, FileState.IMPORTED):
            yield f"file {key} is {file.state.value} {file.retry.retry_reason}".strip()


def _of_slices(slices: dict[str, Slice], counted: dict[str, int]) -> Iterator[str]:
    for key, slice_ in slices.items():
        if slice_.state is SliceState.WRITING and counted.get(key):
            yield f"slice {key} is writing and has {counted[key]} records"
        elif slice_.state in (SliceState.CLOSING, SliceState.UPLOADING):
            yield f"slice {key} is {slice_.state.value} {slice_.retry.retry_reason}".strip()
        elif slice_.state is SliceState.UPLOADED and not slice_.local.is_empty:
            yield f"slice {key} is uploaded, its file isn't imported"


def _decoded(kvs: dict[str, bytes], below: str, kind: type[T]) -> dict[str, T]:
    return {
        key[len(below) :]: decode(kind, value)
        for key, value in kvs.items()
        if key.startswith(below)
    }


def read_range(endpoint: str, namespace: str, below: str) -> dict[str, bytes]:
    """Return all keys and values below a prefix, the keys without the namespace."""
    start = (namespace + below).encode()
    body = {
        "key": base64.b64encode(start).decode(),
        "range_end": base64.b64encode(start[:-1] + bytes([start[-1] + 1])).decode(),
    }
    status, answer = request(
        "POST",
        f"http://{endpoint}/v3/kv/range",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    if status != 200:
        raise ConnectionError(f"etcd answered {status}")
    return {
        base64.b64decode(kv["key"]).decode()[len(namespace) :]: base64.b64decode(
            kv.get("value", "")
        )
        for kv in json.loads(answer).get("kvs", ())
    }
