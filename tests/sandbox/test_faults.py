from __future__ import annotations

import base64
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor

from stream.errors import UserError
from stream.sandbox import SandboxService
from stream.sandbox.body import Body
from stream.sandbox.faults import MAX_FAULTS, Fault, Faults, parse_fault
from tests.sandbox.api import BUCKET, TABLE, Api, csv_rows
from tests.sandbox.conftest import make_service

ROUTES = {
    "index": ("GET", "/v2/storage/"),
    "verifyToken": ("GET", "/v2/storage/tokens/verify"),
    "createToken": ("POST", "/v2/storage/tokens"),
    "deleteToken": ("DELETE", "/v2/storage/tokens/1001"),
    "listBranches": ("GET", "/v2/storage/dev-branches"),
    "getBranch": ("GET", "/v2/storage/dev-branches/456"),
    "getBucket": ("GET", f"/v2/storage/branch/456/buckets/{BUCKET}"),
    "createBucket": ("POST", "/v2/storage/branch/456/buckets"),
    "deleteBucket": ("DELETE", f"/v2/storage/branch/456/buckets/{BUCKET}"),
    "getTable": ("GET", f"/v2/storage/branch/456/tables/{TABLE}"),
    "createTable": ("POST", f"/v2/storage/branch/456/buckets/{BUCKET}/tables-definition"),
    "deleteTable": ("DELETE", f"/v2/storage/branch/456/tables/{TABLE}"),
    "setTableMetadata": ("POST", f"/v2/storage/branch/456/tables/{TABLE}/metadata"),
    "importTable": ("POST", f"/v2/storage/branch/456/tables/{TABLE}/import-async"),
    "previewTable": ("GET", f"/v2/storage/branch/456/tables/{TABLE}/data-preview"),
    "prepareFile": ("POST", "/v2/storage/branch/456/files/prepare"),
    "listFiles": ("GET", "/v2/storage/branch/456/files"),
    "getFile": ("GET", "/v2/storage/branch/456/files/1"),
    "deleteFile": ("DELETE", "/v2/storage/branch/456/files/1"),
    "getJob": ("GET", "/v2/storage/jobs/1"),
    "createEvent": ("POST", "/v2/storage/events"),
    "listEvents": ("GET", "/v2/storage/events"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest_twisted.ensureDeferred
async def test_every_route_can_fail(api: Api, route: str) -> None:
    """Two calls get the fault, and the third one a normal answer."""
    method, path = ROUTES[route]
    await api.fault(route, times=2, status=503, code="storage.down", message="Down")
    for _ in range(2):
        answer = await api.call(method, path)
        assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert answer.json["error"] == "Down" and answer.json["code"] == "storage.down"
    assert (await api.call(method, path)).status < 500


@pytest_twisted.ensureDeferred
async def test_an_error_after_the_change(api: Api) -> None:
    """The bucket is created although the answer is an error."""
    await api.fault("createBucket", status=500, afterEffect=True)
    body = {"stage": "in", "name": "events"}
    assert (await api.branch("POST", "buckets", body)).status == 500
    again = await api.branch("POST", "buckets", body)
    assert (again.status, again.json["code"]) == (400, "storage.buckets.alreadyExists")


@pytest_twisted.ensureDeferred
async def test_a_job_that_fails_once(api: Api) -> None:
    """The next import ends with an error and loads nothing; the one after it succeeds."""
    await api.bucket()
    await api.table()
    await api.fault("job", code="storage.jobError", message="Try again")
    file_id = await api.stage({"a": csv_rows(["1", "a"])})
    failed = await api.done(await api.load(file_id))
    assert failed["status"] == "error"
    assert failed["error"]["code"] == "storage.jobError"
    assert failed["error"]["message"] == "Try again"
    assert await api.rows_count() == 0
    assert (await api.done(await api.load(file_id)))["status"] == "success"
    assert await api.rows_count() == 1


@pytest_twisted.ensureDeferred
async def test_a_delay(api: Api) -> None:
    """The answer is the normal one, but later."""
    await api.fault("verifyToken", delay=0.2)
    started = reactor.seconds()
    assert (await api.storage("GET", "tokens/verify")).status == 200
    assert reactor.seconds() - started >= 0.2


@pytest_twisted.ensureDeferred
async def test_expired_credentials(api: Api) -> None:
    """A prepared file can be given expired credentials."""
    await api.fault("prepareFile", expiresIn=-3600)
    file = await api.prepare()
    assert file["localUploadParams"]["expiration"] < file["created"]


@pytest_twisted.ensureDeferred
async def test_reset_deletes_everything(api: Api, service: SandboxService) -> None:
    """Buckets, tables, files, jobs, events, sink tokens and faults are deleted; the sandbox still
    works.
    """
    await api.bucket()
    await api.table()
    sink = await api.sink_token()
    file_id = await api.stage({"a": csv_rows(["1", "a"])})
    job = await api.done(await api.load(file_id))
    await api.storage("POST", "events", {"component": "a", "message": "b"})
    await api.fault("getBucket", times=5)
    await api.fault("job", delay=300)
    await api.load(file_id)  # a load that is interrupted

    assert (await api.call("POST", "/_local/reset")).status == 204

    for path in (
        f"branch/456/buckets/{BUCKET}",
        f"branch/456/tables/{TABLE}",
        f"branch/456/files/{file_id}",
        f"jobs/{job['id']}",
    ):
        assert (await api.storage("GET", path)).status == 404
    assert (await api.storage("GET", "events")).json == []
    assert (await sink.storage("GET", "tokens/verify")).status == 401
    assert (await api.call("GET", "/_local/faults")).json == {"faults": []}
    await api.bucket()
    await api.table()
    again = await api.done(await api.load(await api.stage({"a": csv_rows(["1", "a"])})))
    assert again["status"] == "success" and again["id"] > job["id"] + 1
    assert await api.rows_count() == 1


@pytest_twisted.ensureDeferred
async def test_faults_can_be_listed_and_cleared(api: Api) -> None:
    """Pending faults are listed, and cleared on request."""
    await api.fault("getJob", times=3, status=429)
    ((fault),) = (await api.call("GET", "/_local/faults")).json["faults"]
    assert (fault["route"], fault["times"], fault["status"]) == ("getJob", 3, 429)
    assert (await api.call("DELETE", "/_local/faults")).status == 204
    assert (await api.call("GET", "/_local/faults")).json == {"faults": []}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_websites_can_not_reset(api: Api, headers: dict[str, str]) -> None:
    """A request by a browser on another website is refused."""
    await api.bucket()
    for method, path in (("POST", "/_local/reset"), ("GET", "/"), ("GET", "/_local/faults")):
        assert (await api.call(method, path, headers=headers)).status == 403
    assert (await api.branch("GET", f"buckets/{BUCKET}")).status == 200


@pytest_twisted.ensureDeferred
async def test_local_routes_are_for_loopback_only(tmp_path: Path) -> None:
    """A sandbox that others can reach has no faults and no reset, and its pages need a password."""
    service = make_service(tmp_path, listen="0.0.0.0:0")
    await service.startService()
    try:
        api = Api(service.url)
        assert api.url.startswith("http://127.0.0.1:")
        assert (await api.call("POST", "/_local/reset")).status == 404
        assert (await api.call("POST", "/_local/faults", {"route": "getJob"})).status == 404
        assert (await api.storage("GET", "tokens/verify")).status == 200
        page = await api.call("GET", "/")
        assert page.status == 401 and page.headers["www-authenticate"].startswith("Basic")
        wrong = {"Authorization": "Basic Ondyb25n"}
        assert (await api.call("GET", "/", headers=wrong)).status == 401
        right = {"Authorization": "Basic " + _base64(f"any:{api.token}")}
        assert (await api.call("GET", "/", headers=right)).status == 200
    finally:
        await service.stopService()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_faults_are_used_in_order() -> None:
    """The first fault of a route happens first; a fault for any route doesn't affect jobs."""
    faults = Faults()
    faults.add(Fault("a", status=500), 2)
    faults.add(Fault("a", status=501), 1)
    faults.add(Fault("*", status=502), 1)
    assert faults.take("job") is None
    found = [faults.take("a") for _ in range(5)]
    assert [fault and fault.status for fault in found] == [500, 500, 501, 502, None]


def test_pending_faults_are_limited() -> None:
    """One more than the limit is refused."""
    faults = Faults()
    for _ in range(MAX_FAULTS):
        faults.add(Fault("a"), 1)
    with pytest.raises(UserError):
        faults.add(Fault("a"), 1)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"route": "other"},
        {"route": "a", "status": 200},
        {"route": "a", "status": 600},
        {"route": "a", "delay": -1},
        {"route": "a", "delay": 601},
        {"route": "a", "times": 0},
        {"route": "a", "status": True},
        {"route": "job", "afterEffect": True},
    ],
)
def test_invalid_faults(members: dict[str, object]) -> None:
    """A fault with an unknown route or with numbers out of range is refused."""
    with pytest.raises(UserError):
        parse_fault(Body(members), frozenset({"a"}))
