from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import pytest_twisted

from stream.sandbox import FixedToken
from tests.sandbox.api import BUCKET, TABLE, Api
from tests.sandbox.conftest import GUEST, READER


@pytest_twisted.ensureDeferred
async def test_the_index_is_public(api: Api) -> None:
    """The index is answered without a token, with and without its query."""
    for path in ("", "?exclude=components"):
        answer = await Api(api.url, "").storage("GET", path)
        assert answer.status == 200
        assert answer.json["services"] == answer.json["features"] == []


@pytest_twisted.ensureDeferred
async def test_the_master_token_verifies_as_administrator(api: Api) -> None:
    """The reply names the token, its project and its administrator."""
    answer = await api.storage("GET", "tokens/verify")
    assert answer.status == 200
    reply = answer.json
    assert reply["id"] == "1" and reply["description"] and reply["isMasterToken"] is True
    assert reply["owner"]["id"] == 123 and reply["owner"]["features"] == []
    assert reply["admin"] == {"id": 1, "name": "Local Admin", "role": "admin"}
    assert reply["bucketPermissions"] == []
    assert api.token not in answer.text


@pytest_twisted.ensureDeferred
async def test_a_bearer_token(api: Api) -> None:
    """The token can be sent as ``Authorization: Bearer`` or in its own header."""
    bare = Api(api.url, "")
    headers = {"Authorization": f"Bearer {api.token}"}
    assert (await bare.storage("GET", "tokens/verify", headers=headers)).status == 200


@pytest.mark.parametrize(
    "token",
    [
        "",
        "wrong",
        "123-1001-" + "x" * 40,
        "9-1001-" + "x" * 40,
        "1-1-master-token-for-test",
        "x" * 600,
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_unknown_token_is_refused(api: Api, token: str) -> None:
    """An unknown token is a 401 in the form of an API error."""
    answer = await Api(api.url, token).storage("GET", "tokens/verify")
    assert answer.status == 401
    assert answer.json["error"] == "Invalid access token"
    assert answer.json["code"] == "storage.tokenInvalid"
    assert answer.json["exceptionId"]


@pytest_twisted.ensureDeferred
async def test_other_configured_tokens(api: Api) -> None:
    """A guest is a master token of another role; other tokens have no administrator."""
    guest = (await Api(api.url, GUEST).storage("GET", "tokens/verify")).json
    assert guest["isMasterToken"] is True and guest["admin"]["role"] == "guest"
    reader = (await Api(api.url, READER).storage("GET", "tokens/verify")).json
    assert reader["isMasterToken"] is False and "admin" not in reader
    assert reader["bucketPermissions"] == {BUCKET: "read"}


@pytest_twisted.ensureDeferred
async def test_a_sink_token(api: Api, tmp_path: Path) -> None:
    """A new token works until it is deleted, and isn't on disk."""
    body = {
        "description": "[_internal] Stream Sink src/snk",
        "bucketPermissions": {BUCKET: "write"},
        "canManageBuckets": False,
        "canReadAllFileUploads": True,
        "canPurgeTrash": False,
    }
    answer = await api.storage("POST", "tokens", body)
    assert answer.status == 201
    reply = answer.json
    assert reply["id"] == "1001" and reply["description"] == body["description"]
    assert reply["token"].startswith("123-1001-") and len(reply["token"]) >= 9 + 32
    sink = Api(api.url, reply["token"])
    detail = (await sink.storage("GET", "tokens/verify")).json
    assert detail["bucketPermissions"] == {BUCKET: "write"}
    assert detail["isMasterToken"] is False and detail["canReadAllFileUploads"] is True
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or reply["token"].encode() not in path.read_bytes()

    assert (await api.storage("DELETE", "tokens/1001")).status == 204
    assert (await sink.storage("GET", "tokens/verify")).status == 401
    again = await api.storage("DELETE", "tokens/1001")
    assert (again.status, again.json["code"]) == (404, "storage.tokens.notFound")


@pytest_twisted.ensureDeferred
async def test_a_token_with_another_secret_is_refused(api: Api) -> None:
    """The id of a token is not enough."""
    sink = await api.sink_token()
    prefix = sink.token[: len("123-1001-")]
    assert (await Api(api.url, prefix + "x" * 40).storage("GET", "tokens/verify")).status == 401


@pytest.mark.parametrize("token_id", ["abc", "1e3", "-1", "99999999999999999999", "%C2%B2"])
@pytest_twisted.ensureDeferred
async def test_an_invalid_token_id_is_not_found(api: Api, token_id: str) -> None:
    """An id that no token can have is a 404."""
    assert (await api.storage("DELETE", f"tokens/{token_id}")).status == 404


@pytest_twisted.ensureDeferred
async def test_a_sink_token_is_limited_to_its_bucket(api: Api) -> None:
    """Tables of other buckets, the list of buckets, and tokens are refused with 403."""
    await api.bucket()
    await api.table()
    await api.branch("POST", "buckets", {"stage": "in", "name": "other"})
    sink = await api.sink_token()
    assert (await sink.branch("GET", f"tables/{TABLE}")).status == 200
    definition = {"name": "t", "columns": [{"name": "a"}]}
    for answer in (
        await sink.branch("GET", "tables/in.c-other.t"),
        await sink.branch("POST", "buckets/in.c-other/tables-definition", definition),
        await sink.branch("DELETE", "tables/in.c-other.t"),
        await sink.branch("GET", f"buckets/{BUCKET}"),
        await sink.branch("DELETE", f"buckets/{BUCKET}?async=1&force=true"),
        await sink.branch("POST", "buckets", {"stage": "in", "name": "more"}),
        await sink.storage("POST", "tokens", {}),
        await sink.storage("DELETE", "tokens/1001"),
    ):
        assert (answer.status, answer.json["code"]) == (403, "accessDenied")


@pytest.mark.parametrize("token", [GUEST, READER])
@pytest_twisted.ensureDeferred
async def test_read_only_tokens(api: Api, token: str) -> None:
    """A guest and a token with the right to read can read tables but change nothing."""
    await api.bucket()
    await api.table()
    other = Api(api.url, token)
    assert (await other.branch("GET", f"tables/{TABLE}")).status == 200
    for answer in (
        await other.branch("POST", f"buckets/{BUCKET}/tables-definition", {"name": "t"}),
        await other.branch("DELETE", f"tables/{TABLE}"),
        await other.branch("POST", f"tables/{TABLE}/metadata", {"provider": "x"}),
        await other.load(1001),
        await other.branch("POST", "buckets", {"stage": "in", "name": "more"}),
        await other.storage("POST", "tokens", {}),
    ):
        assert (answer.status, answer.json["code"]) == (403, "accessDenied")


@pytest_twisted.ensureDeferred
async def test_files_of_another_token(api: Api) -> None:
    """Reading and importing the file of another token needs the right to read all files."""
    await api.bucket()
    await api.table()
    plain = await api.sink_token(canReadAllFileUploads=False)
    successor = await api.sink_token()
    file = await successor.prepare()
    assert (await plain.branch("GET", f"files/{file['id']}")).status == 403
    assert (await plain.load(file["id"])).status == 403
    assert (await plain.branch("DELETE", f"files/{file['id']}")).status == 403
    assert (await plain.branch("GET", "files")).json == []
    own = await plain.prepare()
    assert (await plain.branch("GET", f"files/{own['id']}")).status == 200
    assert (await successor.branch("GET", f"files/{own['id']}")).status == 200
    assert (await successor.branch("DELETE", f"files/{own['id']}")).status == 204


@pytest_twisted.ensureDeferred
async def test_the_default_branch(api: Api) -> None:
    """The default branch is the only one."""
    (branch,) = (await api.storage("GET", "dev-branches")).json
    assert branch["id"] == 456 and branch["isDefault"] is True
    assert (await api.storage("GET", "dev-branches/456")).json == branch
    for path in ("dev-branches/457", "dev-branches/x"):
        assert (await api.storage("GET", path)).status == 404
    assert (await api.storage("GET", f"branch/457/buckets/{BUCKET}")).status == 404


@pytest_twisted.ensureDeferred
async def test_permissions_are_read_or_write(api: Api) -> None:
    """A permission of another name is refused."""
    answer = await api.storage("POST", "tokens", {"bucketPermissions": {BUCKET: "own"}})
    assert (answer.status, answer.json["code"]) == (400, "storage.validation")


def test_configured_tokens_are_not_printed() -> None:
    """The text form of a configured token omits the token, and an empty token is refused."""
    assert "s3cret" not in repr(FixedToken("s3cret"))
    with pytest.raises(ValueError):
        FixedToken("")


@pytest_twisted.ensureDeferred
async def test_only_hashes_are_stored(api: Api, tmp_path: Path) -> None:
    """Only a hash of a token is stored."""
    await api.sink_token()
    with sqlite3.connect(tmp_path / "project-123" / "meta.sqlite") as meta:
        ((digest,),) = meta.execute("SELECT hash FROM tokens").fetchall()
    meta.close()
    assert len(digest) == 32
