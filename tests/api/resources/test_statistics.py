from __future__ import annotations

from datetime import datetime

import attrs
import pytest_twisted

from stream.definition.key import SinkKey
from stream.etcd import EtcdClient
from stream.rejected.state import KeptRecords, RejectedCount, add_counts, note_kept
from stream.storage.model.entity import File
from stream.storage.model.state import FileState
from stream.storage.model.statistics import Statistics
from stream.storage.store.records import read_files, read_slices
from stream.target.keboola.quarantine import (
    QuarantineRecord,
    RefusedRange,
    RowRange,
    quarantine_record_key,
)
from stream.values.bytesize import ByteSize
from stream.values.codec import encode
from stream.values.utctime import format_time, parse_time
from tests.api.conftest import SINK, SOURCE, SOURCES, Api

ensure = pytest_twisted.ensureDeferred
KEY = SinkKey(123, 456, "my-source", "my-sink")
NONE = {"recordsCount": 0, "compressedSize": 0, "uncompressedSize": 0}
AT = parse_time("2024-01-15T10:30:00.000Z")


async def count(etcd: EtcdClient, level: str, opened_at: datetime, records: int) -> None:
    """Store statistics of a slice of the file opened at a time."""
    value = Statistics(
        first_record_at=AT,
        last_record_at=AT,
        records_count=records,
        uncompressed_size=ByteSize(records * 10),
        compressed_size=ByteSize(records * 5),
    )
    slice_key = f"{KEY}/{format_time(opened_at)}/my-volume/{format_time(opened_at)}"
    await etcd.put(f"storage/stats/{level}/{slice_key}/node", encode(value))


def level(records: int) -> dict[str, object]:
    return {
        "firstRecordAt": "2024-01-15T10:30:00.000Z",
        "lastRecordAt": "2024-01-15T10:30:00.000Z",
        "recordsCount": records,
        "compressedSize": records * 5,
        "uncompressedSize": records * 10,
    }


async def open_file(api: Api) -> File:
    [file] = await read_files(api.etcd, KEY)
    return file


async def put_file(api: Api, file: File) -> None:
    await api.etcd.put(f"storage/file/all/{file.key}", encode(file))


@ensure
async def test_the_total_is_the_sum_of_the_levels(api: Api) -> None:
    """The total is the sum of the levels, and empty levels are left out."""
    await api.create_source()
    await api.create_sink()
    assert await api.get(f"{SINK}/statistics/total") == {"total": NONE, "levels": {}}
    file = await open_file(api)
    await count(api.etcd, "local", file.key.file_opened_at, 2)
    await count(api.etcd, "target", file.key.file_opened_at, 3)
    assert await api.get(f"{SINK}/statistics/total") == {
        "total": level(5),
        "levels": {"local": level(2), "target": level(3)},
    }


@ensure
async def test_imported_files_come_first_and_failing_ones_last(api: Api) -> None:
    """Imported files come first and failing ones last; a file may have no statistics."""
    await api.create_source()
    await api.create_sink()
    writing = await open_file(api)
    imported_key = attrs.evolve(writing.key, file_opened_at=parse_time("2030-01-01T00:00:00.000Z"))
    await put_file(
        api,
        attrs.evolve(
            writing, key=imported_key, state=FileState.IMPORTED, closing_at=AT, imported_at=AT
        ),
    )
    failing_key = attrs.evolve(writing.key, file_opened_at=AT)
    await put_file(
        api,
        attrs.evolve(
            writing,
            key=failing_key,
            state=FileState.IMPORTING,
            retry=writing.retry.failed(AT, "no luck"),
        ),
    )
    await count(api.etcd, "target", imported_key.file_opened_at, 3)
    files = (await api.get(f"{SINK}/statistics/files"))["files"]
    assert [file["state"] for file in files] == ["imported", "writing", "importing"]
    imported, open_one, failing = files
    assert list(imported) == ["state", "openedAt", "closingAt", "importedAt", "statistics"]
    assert imported["statistics"] == {"total": level(3), "levels": {"target": level(3)}}
    assert open_one["statistics"] == {"total": None, "levels": {}}
    assert (failing["retryAttempt"], failing["retryReason"]) == (1, "no luck")
    assert "statistics" not in failing
    shown = (await api.get(f"{SINK}/statistics/files?failedFiles=true"))["files"]
    assert shown == [failing]


@ensure
async def test_a_slice_that_can_not_be_uploaded_is_shown_with_its_file(api: Api) -> None:
    """The list of failing files contains the file of a failing slice, with the reason."""
    await api.create_source()
    await api.create_sink()
    file = await open_file(api)
    [slice_] = await read_slices(api.etcd, file.key)
    failing = attrs.evolve(slice_, retry=slice_.retry.failed(AT, "slice upload failed: expired"))
    await api.etcd.put(f"storage/slice/level/local/{slice_.key}", encode(failing))
    [shown] = (await api.get(f"{SINK}/statistics/files?failedFiles=true"))["files"]
    assert (shown["retryAttempt"], shown["retryReason"]) == (1, "slice upload failed: expired")
    assert shown["retryAfter"] > "2024-01-15T10:31"
    own = attrs.evolve(file, retry=file.retry.failed(AT, "its own"))
    await put_file(api, own)
    [shown] = (await api.get(f"{SINK}/statistics/files"))["files"]
    assert shown["retryReason"] == "its own"


@ensure
async def test_rows_in_quarantine_are_shown_with_their_file(api: Api) -> None:
    """The number of rows, reason and location are shown as soon as all are found."""
    await api.create_source()
    await api.create_sink()
    file = await open_file(api)
    found = QuarantineRecord(
        key=file.key,
        reason="the file is refused",
        ranges=(RowRange(8, 20),),
        refused=(RefusedRange(6, 7, "row 1 is refused"),),
        malformed=2,
    )
    for record, more in (
        (found, {"isFinished": False}),
        (
            attrs.evolve(found, ranges=(), file_id=1017, is_done=True),
            {"isFinished": True, "fileId": 1017},
        ),
    ):
        await api.etcd.put(quarantine_record_key(file.key), encode(record))
        [shown] = (await api.get(f"{SINK}/statistics/files"))["files"]
        told = {"recordsCount": 3, "reason": "row 1 is refused"}
        assert shown["quarantine"] == told | more


@ensure
async def test_records_before_a_reset(api: Api) -> None:
    """Records imported before a reset are neither counted nor shown."""
    await api.create_source()
    await api.create_sink()
    file = await open_file(api)
    await count(api.etcd, "target", file.key.file_opened_at, 3)
    await count(api.etcd, "local", file.key.file_opened_at, 2)
    for path in (SINK, SOURCE):
        reply = await api.call("DELETE", f"{path}/statistics/clear")
        assert (reply.status, reply.body) == (200, b"")
        total = await api.get(f"{SINK}/statistics/total")
        assert total["total"]["recordsCount"] == 2
        assert list(total["levels"]) == ["local"]
        assert (await api.get(f"{SINK}/statistics/files"))["files"] == []
    aggregated = await api.get("/v1/branches/456/aggregation/sources")
    assert len(aggregated["sources"][0]["sinks"][0]["statistics"]["files"]) == 1


@ensure
async def test_a_reset_does_not_hide_a_stopped_node(api: Api) -> None:
    """The reset deletes the counts of rejected records, which are still kept on the node."""
    await api.create_source()
    await api.create_sink()
    until = KeptRecords(until=parse_time("2100-01-01T00:00:00.000Z"))
    await note_kept(api.etcd, "stopped", {KEY: until})
    for path in (SINK, SOURCE):
        await add_counts(api.etcd, "stopped", {KEY: RejectedCount(count=2)})
        total = await api.get(f"{SINK}/statistics/total")
        assert total["rejected"] == {"count": 2}
        assert (await api.call("DELETE", f"{path}/statistics/clear")).status == 200
        assert "rejected" not in await api.get(f"{SINK}/statistics/total")
        (node,) = (await api.get(f"{SINK}/rejected"))["nodes"]
        assert (node["nodeId"], node["available"]) == ("stopped", False)


@ensure
async def test_sources_are_listed_with_sinks_and_statistics(api: Api) -> None:
    """Sources are listed with their sinks, and sinks with their statistics, newest file first."""
    await api.create_source("A")
    await api.create_source()
    await api.create_sink()
    await api.run("PUT", f"{SINK}/disable")
    await api.run("PUT", f"{SINK}/enable")
    listed = await api.get("/v1/branches/456/aggregation/sources?limit=2")
    assert list(listed) == ["projectId", "branchId", "page", "sources"]
    first, second = listed["sources"]
    assert list(first)[-1] == "sinks"
    assert first["sinks"] == []
    [sink] = second["sinks"]
    assert list(sink)[-1] == "statistics"
    assert list(sink["statistics"]) == ["total", "levels", "files"]
    assert sink["statistics"]["total"] == NONE
    assert [file["state"] for file in sink["statistics"]["files"]] == ["writing", "closing"]
    assert listed["page"]["totalCount"] == 2


@ensure
async def test_aggregation_agrees_with_other_routes(api: Api) -> None:
    """Each page contains the sources and sinks that their own routes show."""
    await api.create_source("A")
    await api.create_source()
    await api.create_sink()
    await api.create_sink(name="Other")
    [file] = await read_files(api.etcd, KEY)
    await count(api.etcd, "local", file.key.file_opened_at, 2)
    path = "/v1/branches/456/aggregation/sources"
    whole = (await api.get(path))["sources"]
    pages = [await api.get(f"{path}?limit=1"), await api.get(f"{path}?limit=1&afterId=a")]
    assert [source for page in pages for source in page["sources"]] == whole
    assert (await api.get(f"{path}?afterId=z"))["sources"] == []
    shown = []
    for source in whole:
        sinks = source.pop("sinks")
        shown += [sink["sinkId"] for sink in sinks]
        assert source == await api.get(f"{SOURCES}/{source['sourceId']}")
        for sink in sinks:
            statistics = sink.pop("statistics")
            assert statistics["total"]["recordsCount"] == (2 if sink["sinkId"] == "my-sink" else 0)
            own = f"{SOURCES}/{source['sourceId']}/sinks/{sink['sinkId']}"
            assert sink == await api.get(own)
            files = statistics.pop("files")
            assert statistics == await api.get(f"{own}/statistics/total")
            assert files == (await api.get(f"{own}/statistics/files"))["files"]
    assert shown == ["my-sink", "other"] and len(whole) == 2
