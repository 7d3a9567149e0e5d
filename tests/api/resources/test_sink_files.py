"""The files of a sink and their states."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest_twisted

from stream.api.spec.operations import OPERATIONS
from stream.etcd import EtcdClient
from stream.storage.model.entity import File, Slice
from stream.storage.model.state import FileState, SliceState
from stream.storage.store.records import read_slices
from stream.values.codec import encode
from stream.values.utctime import format_time
from tests.api.conftest import SINK, Api
from tests.api.resources.test_statistics import AT, count, level, open_file
from tests.api.spec.test_openapi import assert_as_declared

ensure = pytest_twisted.ensureDeferred


async def put(etcd: EtcdClient, kind: str, at: str, item: File | Slice) -> None:
    """Put both copies of a record."""
    await etcd.put(f"storage/{kind}/all/{item.key}", encode(item))
    await etcd.put(f"storage/{kind}/level/{at}/{item.key}", encode(item))


@ensure
async def test_a_new_sink(api: Api) -> None:
    """A new sink has an open file with open slices, and no trigger makes progress."""
    await api.create_source()
    await api.create_sink()
    shown = await api.get(f"{SINK}/files")
    assert shown["freshness"] == {"pendingRecords": 0}
    assert shown["imports"] == []
    [file] = shown["files"]
    assert file["state"] == "writing"
    assert {condition["name"] for condition in file["conditions"]} == {
        *("recordCount", "size", "sliceCount", "expiration")
    }
    [slice_] = file["slices"]
    assert slice_["volumeId"] == "my-volume"
    assert slice_["sliceId"] == f"my-volume/{slice_['openedAt']}"
    assert [condition["name"] for condition in slice_["conditions"]] == ["recordCount", "size"]
    result = OPERATIONS["SinkFiles"].result
    assert result is not None
    assert_as_declared(shown, result, "SinkFiles")


@ensure
async def test_files_in_all_states(api: Api) -> None:
    """Files that aren't imported are shown with their slices, and the last imports with
    durations.
    """
    await api.create_source()
    await api.create_sink()
    etcd = api.etcd
    open_one = await open_file(api)
    [open_slice] = await read_slices(etcd, open_one.key)
    await count(etcd, "local", open_one.key.file_opened_at, 5)
    retry = open_one.retry.failed(AT, "no luck")

    def at(minutes: int) -> File:
        opened = open_one.key.file_opened_at - timedelta(minutes=minutes)
        return attrs.evolve(open_one, key=attrs.evolve(open_one.key, file_opened_at=opened))

    closing = attrs.evolve(at(1), state=FileState.CLOSING, closing_at=AT, retry=retry)
    uploaded = attrs.evolve(
        open_slice,
        key=closing.key.slice("my-volume", closing.key.file_opened_at),
        state=SliceState.UPLOADED,
        uploaded_at=AT,
    )
    await put(etcd, "file", "local", closing)
    await put(etcd, "slice", "staging", uploaded)
    await count(etcd, "staging", closing.key.file_opened_at, 3)
    importing = attrs.evolve(at(2), state=FileState.IMPORTING, closing_at=AT, importing_at=AT)
    await put(etcd, "file", "staging", importing)
    for minutes in (10, 11, 12):
        imported = attrs.evolve(
            at(minutes),
            state=FileState.IMPORTED,
            importing_at=AT,
            imported_at=AT + timedelta(milliseconds=1500),
        )
        await put(etcd, "file", "target", imported)
        await count(etcd, "target", imported.key.file_opened_at, minutes)

    shown = await api.get(f"{SINK}/files?imports=2")
    assert [file["state"] for file in shown["files"]] == ["writing", "closing", "importing"]
    writing, second, _ = shown["files"]
    assert writing["statistics"] == level(5)
    assert writing["slices"][0]["statistics"] == level(5)
    assert {each["name"] for each in writing["slices"][0]["conditions"]} >= {"time"}
    assert (second["retryAttempt"], second["retryReason"]) == (1, "no luck")
    assert second["conditions"] == []
    assert second["slices"][0]["state"] == "uploaded"
    assert second["slices"][0]["statistics"] == level(3)
    assert [each["statistics"]["recordsCount"] for each in shown["imports"]] == [10, 11]
    assert [each["duration"] for each in shown["imports"]] == [1500, 1500]
    assert shown["freshness"] == {
        "pendingRecords": 8,
        "oldestPendingAt": format_time(AT),
        "lastRecordAt": format_time(AT),
    }
    result = OPERATIONS["SinkFiles"].result
    assert result is not None
    assert_as_declared(shown, result, "SinkFiles")
    assert (await api.get(f"{SINK}/files?imports=0"))["imports"] == []


@ensure
async def test_the_first_rows_of_the_table(api: Api) -> None:
    """The first rows are shown with the columns of the table, which exists as soon as the sink."""
    await api.create_source()
    await api.create_sink()
    assert await api.get(f"{SINK}/table/rows") == {"columns": ["id", "body"], "rows": []}
    assert (await api.call("GET", f"{SINK}/table/rows?limit=0")).status == 400


@ensure
async def test_an_unknown_sink(api: Api) -> None:
    """An unknown sink is not found."""
    await api.create_source()
    assert (await api.call("GET", f"{SINK}/files")).status == 404
    assert (await api.call("GET", f"{SINK}/files?imports=101")).status == 400
