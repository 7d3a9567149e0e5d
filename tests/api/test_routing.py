from __future__ import annotations

import re

import pytest
import pytest_twisted

from stream.api.http.server import clean_path
from stream.api.http.site import MAX_BODY_BYTES
from tests.api.conftest import SOURCE, SOURCES, Api

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_public_routes(api: Api) -> None:
    """The root, the version and the health check need no token."""
    root = await api.call("GET", "/", token=None)
    assert (root.status, root.header("Location")) == (301, "/v1")
    version = await api.call("GET", "/v1", token=None)
    assert version.body == (
        b'{"api":"stream","documentation":"https://stream.target.keboola.local/v1/documentation"}\n'
    )
    assert version.header("Content-Type") == "application/json"
    health = await api.call("GET", "/health-check", token=None)
    assert (health.body, health.header("Content-Type")) == (b"OK", "text/plain")


@ensure
async def test_every_answer_has_a_request_id(api: Api) -> None:
    """The server creates the id of a request and ignores one that is sent."""
    for path in ("/v1", "/nowhere", SOURCES):
        reply = await api.call("GET", path, headers={"X-Request-Id": "mine"})
        sent = reply.header("X-Request-Id")
        assert sent is not None
        assert re.fullmatch(r"[0-9a-zA-Z]{15}", sent)


@ensure
async def test_unknown_paths(api: Api) -> None:
    """The error names an unknown path without its query, in an indented body."""
    reply = await api.call("GET", "/foo/b%20r?x=1")
    assert reply.status == 404
    assert reply.body == (
        b'{\n  "statusCode": 404,\n  "error": "stream.api.endpointNotFound",\n'
        b'  "message": "No endpoint found for path \\"/foo/b r\\"."\n}\n'
    )


@ensure
async def test_unknown_methods(api: Api) -> None:
    """A header lists the other methods of the path."""
    reply = await api.call("PUT", SOURCE)
    assert (reply.status, reply.json["error"]) == (405, "stream.api.methodNotAllowed")
    assert reply.json["message"].endswith("only DELETE, GET, PATCH.")
    assert reply.headers.getRawHeaders("Allow") == ["DELETE", "GET", "PATCH"]
    assert (await api.call("OPTIONS", SOURCE)).status == 204


@ensure
async def test_head_is_get_without_a_body(api: Api) -> None:
    """HEAD returns the headers of GET."""
    reply = await api.call("HEAD", "/v1")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.header("Content-Length") == str(len((await api.call("GET", "/v1")).body))


@pytest.mark.parametrize(
    ("path", "location"),
    [
        (f"{SOURCES}/?limit=1", f"{SOURCES}?limit=1"),
        (SOURCES.replace("/sources", "//sources"), SOURCES),
        (f"{SOURCES}/x/../y", f"{SOURCES}/y"),
        ("/v1/documentation", "/v1/documentation/"),
        ("/console", "/console/"),
        ("/v1/", "/v1"),
        ("//v1", "/v1"),
        ("///v1//?x=1", "/v1?x=1"),
        (f"/{SOURCES}?limit=1", f"{SOURCES}?limit=1"),
    ],
)
@ensure
async def test_misspelled_paths_are_redirected(api: Api, path: str, location: str) -> None:
    """Paths with too many or too few slashes are redirected, with the query."""
    reply = await api.call("GET", path)
    assert (reply.status, reply.header("Location"), reply.body) == (301, location, b"")


@ensure
async def test_a_misspelled_unknown_path_is_not_found(api: Api) -> None:
    """A path that doesn't exist isn't redirected."""
    assert (await api.call("GET", "/foo/")).status == 404


def test_normalised_paths() -> None:
    """A normalised path isn't redirected."""
    assert clean_path("/v1/tasks/a:b/c_d") == "/v1/tasks/a:b/c_d"
    assert clean_path("//a/./b/../c/") == "/a/c"


@ensure
async def test_cross_origin_requests(api: Api) -> None:
    """A browser on another origin may send requests, and its preflight is answered."""
    origin = {"Origin": "https://ui.example"}
    reply = await api.call("GET", "/v1", headers=origin)
    assert reply.header("Access-Control-Allow-Origin") == "https://ui.example"
    assert reply.header("Vary") == "Origin"
    preflight = await api.call(
        "OPTIONS", SOURCES, headers=origin | {"Access-Control-Request-Method": "POST"}
    )
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.header("Access-Control-Allow-Methods") == "GET, POST, PATCH, DELETE"
    assert preflight.header("Access-Control-Allow-Headers") == (
        "Content-Type, X-StorageApi-Token, X-KBC-ProjectId"
    )
    assert (await api.call("GET", "/v1")).header("Access-Control-Allow-Origin") is None


@ensure
async def test_a_body_without_end_is_refused(api: Api) -> None:
    """A body over the limit gets 413, whether or not its length was announced."""
    reply = await api.call("POST", SOURCES, data=b" " * (MAX_BODY_BYTES + 1))
    assert reply.status == 413
    assert reply.json["error"] == "stream.api.payloadTooLarge"


@ensure
async def test_a_path_that_is_not_utf_8(api: Api) -> None:
    """A path that isn't UTF-8 is the client's error."""
    reply = await api.call("GET", "/v1/%ff")
    assert (reply.status, reply.json["error"]) == (400, "stream.api.badRequest")
