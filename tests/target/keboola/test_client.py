"""The calls of the client: sent requests and parsed answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st

from stream.authority import Admin
from stream.target.keboola import (
    Event,
    EventParams,
    EventStatistics,
    JobDeadlineExceeded,
    JobFailed,
    StorageApiError,
    TableMetadata,
)
from stream.target.keboola.bodies import bucket_body
from stream.target.keboola.values import Job, Table
from tests.target.keboola.conftest import Serve
from tests.target.keboola.scripted import Say, refuse

INDEX = Say(json={"services": [], "features": []})
BUCKET = Say(201, {"id": "in.c-bucket", "uri": "…"})
OPENED_AT = datetime(2006, 1, 2, 15, 4, 5, 678000, tzinfo=UTC)


def job(status: str, **more: Any) -> Say:
    return Say(json={"id": 321, "status": status, "results": [], **more})


@pytest_twisted.ensureDeferred
async def test_the_index_is_cached(serve: Serve) -> None:
    """The index needs no token and is requested once."""
    api, server = serve(Say(json={"features": ["a"]}))
    assert (await api.index()).features == {"a"}
    await api.index()
    (asked,) = server.asked
    assert asked.uri == "/v2/storage/?exclude=components"
    assert "x-storageapi-token" not in asked.headers


@pytest_twisted.ensureDeferred
async def test_verify_token(serve: Serve) -> None:
    """The answer contains the project and the user of the token."""
    api, server = serve(
        Say(
            json={
                "id": "1",
                "description": "d",
                "isMasterToken": True,
                "bucketPermissions": [],
                "owner": {"id": 123, "name": "P"},
                "admin": {"id": 7, "name": "Ann", "role": "admin"},
            }
        ),
        Say(json={"id": "2", "owner": {"id": 123}, "bucketPermissions": {"in.c-b": "write"}}),
    )
    info = await api.verify_token("t")
    assert (info.id, info.description, info.is_master) == ("1", "d", True)
    assert (info.project_id, info.project_name) == (123, "P")
    assert info.admin == Admin(id=7, name="Ann", role="admin")
    other = await api.verify_token("t")
    assert (other.is_master, other.admin) == (False, None)
    assert server.asked[0].uri == "/v2/storage/tokens/verify"


@pytest_twisted.ensureDeferred
async def test_branches_are_in_the_order_of_the_api(serve: Serve) -> None:
    """Branches come in the API's order."""
    api, _ = serve(Say(json=[{"id": 1, "isDefault": False}, {"id": 2, "isDefault": True}]))
    assert [(b.id, b.is_default) for b in await api.branches("t")] == [(1, False), (2, True)]


@pytest_twisted.ensureDeferred
async def test_create_bucket(serve: Serve) -> None:
    """The server adds the prefix `c-`, so the name is sent without it."""
    api, server = serve(INDEX, BUCKET)
    assert (await api.create_bucket("t", 456, "in.c-bucket")).id == "in.c-bucket"
    asked = server.asked[-1]
    assert (asked.method, asked.uri) == ("POST", "/v2/storage/branch/456/buckets")
    assert asked.body == {"description": "", "stage": "in", "name": "bucket"}
    assert asked.headers["content-type"] == "application/json"


@pytest_twisted.ensureDeferred
async def test_create_bucket_with_whole_names(serve: Serve) -> None:
    """A server that adds no prefix gets the whole name."""
    api, server = serve(Say(json={"features": ["disable-legacy-bucket-prefix"]}), BUCKET)
    await api.create_bucket("t", 456, "in.c-bucket")
    assert server.asked[-1].body["name"] == "c-bucket"


@pytest.mark.parametrize("bucket_id", ["", "in", "in.", "x.c-b", "in.c-b.t"])
def test_invalid_bucket_ids(bucket_id: str) -> None:
    """A bucket's id is a stage and a name."""
    with pytest.raises(ValueError, match="invalid bucket id"):
        bucket_body(bucket_id, server_adds_prefix=True)


@pytest_twisted.ensureDeferred
async def test_a_bucket_that_exists_after_a_retry(serve: Serve) -> None:
    """A 500 after the bucket was created ends in success."""
    exists = refuse(400, "storage.buckets.alreadyExists")
    api, server = serve(INDEX, refuse(500), exists, Say(json={"id": "in.c-bucket"}))
    assert (await api.create_bucket("t", 456, "in.c-bucket")).id == "in.c-bucket"
    assert [asked.method for asked in server.asked] == ["GET", "POST", "POST", "GET"]


@pytest_twisted.ensureDeferred
async def test_a_bucket_that_exists_at_the_first_attempt(serve: Serve) -> None:
    """The bucket was created by another client, so it is an error."""
    api, _ = serve(INDEX, refuse(400, "storage.buckets.alreadyExists"))
    with pytest.raises(StorageApiError):
        await api.create_bucket("t", 456, "in.c-bucket")


@pytest_twisted.ensureDeferred
async def test_delete_bucket_waits(serve: Serve) -> None:
    """Deleting a bucket ends with its job."""
    api, server = serve(job("waiting"), job("processing"), job("success"))
    await api.delete_bucket("t", 456, "in.c-bucket", force=True)
    assert [asked.uri for asked in server.asked] == [
        "/v2/storage/branch/456/buckets/in.c-bucket?async=1&force=true",
        "/v2/storage/jobs/321",
        "/v2/storage/jobs/321",
    ]


@pytest_twisted.ensureDeferred
async def test_create_token(serve: Serve) -> None:
    """A sink's token may write to one bucket, and its repr doesn't contain it."""
    api, server = serve(Say(201, {"id": "1001", "token": "s3cret", "description": "d"}))
    made = await api.create_token("t", source_id="src", sink_id="snk", bucket_id="in.c-b")
    assert (made.id, made.token) == ("1001", "s3cret")
    assert "s3cret" not in repr(made)
    assert server.asked[0].uri == "/v2/storage/tokens"
    assert server.asked[0].body == {
        "description": "[_internal] Stream Sink src/snk",
        "bucketPermissions": {"in.c-b": "write"},
        "canManageBuckets": False,
        "canReadAllFileUploads": True,
        "canPurgeTrash": False,
    }


@pytest_twisted.ensureDeferred
async def test_an_invalid_answer_about_a_token(serve: Serve) -> None:
    """The error doesn't quote the answer."""
    api, _ = serve(Say(201, {"token": "s3cret", "id": None, "x": "s3cret"}), Say(201, ["s3cret"]))
    with pytest.raises(StorageApiError) as caught:
        await api.get_job("t", 1)
    assert "s3cret" not in str(caught.value)
    with pytest.raises(StorageApiError) as caught:
        await api.create_token("t", source_id="a", sink_id="b", bucket_id="in.c-b")
    assert "s3cret" not in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_a_deleted_object_is_not_found(serve: Serve) -> None:
    """Not found is a success after a retry, and an error at the first attempt."""
    gone = refuse(404, "storage.tokens.notFound")
    api, server = serve(refuse(502), gone, refuse(502), gone, gone)
    await api.delete_token("t", "1001")
    await api.delete_table("t", 456, "in.c-b.t", force=True)
    with pytest.raises(StorageApiError):
        await api.delete_token("t", "1001")
    assert server.asked[2].uri == "/v2/storage/branch/456/tables/in.c-b.t?force=true"


@pytest_twisted.ensureDeferred
async def test_delete_a_missing_file(serve: Serve) -> None:
    """A missing staging file counts as deleted, and other failures are errors."""
    api, server = serve(Say(204), refuse(404, "any"), refuse(403))
    await api.delete_file("t", 456, 1001)
    await api.delete_file("t", 456, 1001)
    with pytest.raises(StorageApiError):
        await api.delete_file("t", 456, 1001)
    assert server.asked[0].uri == "/v2/storage/branch/456/files/1001"


@pytest_twisted.ensureDeferred
async def test_get_table(serve: Serve) -> None:
    """The primary key of a table may be null."""
    reply = {
        "id": "in.c-b.t",
        "columns": ["a", "b"],
        "primaryKey": None,
        "metadata": [{"id": 1, "key": "k", "value": "v", "provider": "p", "timestamp": "…"}],
    }
    api, _ = serve(Say(json=reply))
    table = await api.get_table("t", 456, "in.c-b.t")
    assert (table.columns, table.primary_key) == (("a", "b"), ())
    assert table.metadata == (TableMetadata("k", "v", "p"),)
    assert (table.metadata_value("k"), table.metadata_value("x")) == ("v", None)


@pytest_twisted.ensureDeferred
async def test_create_table(serve: Serve) -> None:
    """The created table is in the results of its job."""
    results = {"columns": ["id", "body"], "primaryKey": ["id"]}
    api, server = serve(job("waiting"), job("success", results=results))
    table = await api.create_table(
        "t", 456, "in.c-b.my-table", columns=["id", "body"], primary_key=["id"]
    )
    assert table == Table("in.c-b.my-table", ("id", "body"), ("id",))
    assert server.asked[0].uri == "/v2/storage/branch/456/buckets/in.c-b/tables-definition"
    assert server.asked[0].body == {
        "primaryKeysNames": ["id"],
        "columns": [
            {"name": "id", "basetype": "STRING"},
            {"name": "body", "basetype": "STRING"},
        ],
        "name": "my-table",
    }


@pytest_twisted.ensureDeferred
async def test_a_table_that_exists_after_a_retry(serve: Serve) -> None:
    """If the answer to the creation was lost, the table is found and returned."""
    found = Say(json={"id": "in.c-b.t", "columns": ["a"], "primaryKey": []})
    failed = job("error", error={"message": "exists", "code": "storage.tables.alreadyExists"})
    api, _ = serve(Say(drop=True), job("waiting"), failed, found)
    assert (await api.create_table("t", 456, "in.c-b.t", columns=["a"])).columns == ("a",)


@pytest_twisted.ensureDeferred
async def test_add_table_metadata(serve: Serve) -> None:
    """The metadata of a table has its source and sink."""
    api, server = serve(Say(201, {"metadata": [], "columnsMetadata": []}))
    await api.add_table_metadata("t", 456, "in.c-b.t", source_id="src", sink_id="snk")
    assert server.asked[0].body == {
        "provider": "stream",
        "metadata": [
            {"key": "KBC.stream.sink.id", "value": "snk"},
            {"key": "KBC.stream.source.id", "value": "src"},
        ],
    }


@pytest_twisted.ensureDeferred
async def test_prepare_file(serve: Serve) -> None:
    """A staging file is named by source, sink and opening time."""
    reply = {
        "id": 1001,
        "name": "n",
        "created": "2006-01-02T15:04:05+0000",
        "provider": "gcp",
        "region": "eu",
        "gcsUploadParams": {"key": "exp/", "bucket": "b", "access_token": "x", "expires_in": 3600},
    }
    api, server = serve(Say(201, reply))
    upload = await api.prepare_file("t", 456, source_id="src", sink_id="snk", opened_at=OPENED_AT)
    assert (upload.id, upload.provider, upload.region) == (1001, "gcp", "eu")
    assert upload.expiration == datetime(2006, 1, 2, 16, 4, 5, tzinfo=UTC)
    assert server.asked[0].uri == "/v2/storage/branch/456/files/prepare"
    assert server.asked[0].body == {
        "name": "src_snk_20060102150405",
        "federationToken": True,
        "isEncrypted": True,
        "isSliced": True,
        "tags": ["stream.sourceID=src", "stream.sinkID=snk"],
    }


@pytest_twisted.ensureDeferred
async def test_import_async(serve: Serve) -> None:
    """An import appends slices without a header to the table."""
    api, server = serve(Say(202, {"id": "321", "status": "waiting"}))
    started = await api.import_async("t", 456, "in.c-b.t", file_id=1001, columns=["a", "b"])
    assert (started.id, started.status, started.is_finished) == (321, "waiting", False)
    assert server.asked[0].uri == "/v2/storage/branch/456/tables/in.c-b.t/import-async"
    assert server.asked[0].body == {
        "dataFileId": 1001,
        "incremental": 1,
        "withoutHeaders": 1,
        "columns": ["a", "b"],
    }


@pytest_twisted.ensureDeferred
async def test_a_failed_job(serve: Serve) -> None:
    """The error contains the reason of the failed job."""
    reason = {"message": "bad row", "code": "storage.bad", "exceptionId": "e-1"}
    api, _ = serve(job("processing"), job("error", error=reason))
    with pytest.raises(JobFailed) as caught:
        await api.wait_job("t", 321, timeout=10)
    assert str(caught.value) == 'job "321" failed: bad row (exception id: e-1)'
    assert (caught.value.job_id, caught.value.code) == (321, "storage.bad")


def test_a_failed_job_without_a_reason() -> None:
    """A failed job without an error object is still a failed job."""
    failed = Job.from_reply({"id": 1, "status": "error", "results": []})
    assert failed.error is not None
    assert failed.error.message == "no reason given"


@pytest_twisted.ensureDeferred
async def test_job_deadline(serve: Serve) -> None:
    """Waiting ends at the caller's deadline, after a last check."""
    api, server = serve(job("processing"))
    with pytest.raises(JobDeadlineExceeded) as caught:
        await api.wait_job("t", 321, timeout=0.2)
    assert (caught.value.job_id, caught.value.job_status) == (321, "processing")
    assert 2 <= len(server.asked) <= 4  # at 0, 50, 150 and 200 ms, unless the machine is busy


@pytest_twisted.ensureDeferred
async def test_ids_are_escaped(serve: Serve) -> None:
    """An id can't lead to another path."""
    api, server = serve(refuse(404))
    with pytest.raises(StorageApiError):
        await api.get_bucket("t", 456, "in.c-a/../b?x#y")
    assert server.asked[0].uri == "/v2/storage/branch/456/buckets/in.c-a%2F..%2Fb%3Fx%23y"


@pytest_twisted.ensureDeferred
async def test_send_event(serve: Serve) -> None:
    """Params and results of an event are JSON strings, and its duration is in whole seconds."""
    api, server = serve(Say(201, {"uuid": "u-1"}))
    params = EventParams(123, 456, "my-source", "my-sink")
    event = Event("keboola.stream.sliceUpload", "Slice upload done.", 3.9, params)
    assert await api.send_event("t", event) == "u-1"
    assert server.asked[0].uri == "/v2/storage/events"
    assert server.asked[0].body == {
        "component": "keboola.stream.sliceUpload",
        "message": "Slice upload done.",
        "type": "info",
        "duration": 3,
        "runId": "",
        "params": '{"branchId":456,"projectId":123,"sinkId":"my-sink",'
        '"sourceId":"my-source","streamId":"123/456/my-source"}',
        "results": "null",
    }


def test_event_results() -> None:
    """A failure has its error, and a success its amounts if there are any."""
    params = EventParams(1, 2, "s", source_name="S")
    failed = Event("c", "m", 0, params, error="boom").to_json()
    assert (failed["type"], failed["results"]) == ("error", '{"error":"boom"}')
    assert orjson.loads(failed["params"])["sourceName"] == "S"
    statistics = EventStatistics(OPENED_AT, OPENED_AT, 2, 1, 30, 20, 20)
    done = Event("c", "m", 0, params, statistics=statistics).to_json()
    assert orjson.loads(done["results"])["statistics"] == {
        "firstRecordAt": "2006-01-02T15:04:05.678Z",
        "lastRecordAt": "2006-01-02T15:04:05.678Z",
        "recordsCount": 2,
        "slicesCount": 1,
        "uncompressedSize": 30,
        "compressedSize": 20,
        "stagingSize": 20,
    }
    nothing = EventStatistics(OPENED_AT, OPENED_AT, 0, 0, 0, 0, 0)
    assert Event("c", "m", 0, params, statistics=nothing).to_json()["results"] == "null"


@given(st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1))
def test_the_prefix_of_bucket_names(name: str) -> None:
    """Only one leading `c-` is removed from a bucket's name."""
    assert bucket_body(f"in.c-{name}", server_adds_prefix=True)["name"] == name
