"""The API of projects that it manages itself: rights, tokens, branches."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from stream.api.spec.operations import OPERATIONS
from stream.authority.rights import RIGHTS, Right, includes
from tests.api.conftest import Api, OwnProjects, sink_body

ensure = pytest_twisted.ensureDeferred

CHALLENGE = 'Bearer realm="stream"'
REVOKED_WITHIN_SECONDS = 1.0

NEEDED: dict[Right, set[str]] = {
    "read": {
        "AggregationSources",
        "GetSink",
        "GetSinkSettings",
        "GetSource",
        "GetSourceSettings",
        "GetTask",
        "LiveBranch",
        "ListBranches",
        "ListConnections",
        "ListDeletedSinks",
        "ListDeletedSources",
        "ListSinks",
        "ListSinkVersions",
        "ListSources",
        "ListSourceVersions",
        "ListTasks",
        "SinkFiles",
        "SinkStatisticsFiles",
        "SinkStatisticsTotal",
        "SinkVersionDetail",
        "SourceVersionDetail",
        "TestMapping",
        "TestSource",
    },
    "write": {
        "CreateSink",
        "CreateSource",
        "DeleteRejectedRecord",
        "DeleteRejectedRecords",
        "DeleteSink",
        "DeleteSource",
        "DisableSink",
        "DisableSource",
        "EnableSink",
        "EnableSource",
        "ReplayRejectedRecords",
        "RollbackSinkVersion",
        "RollbackSourceVersion",
        "RotateSourceSecret",
        "SinkStatisticsClear",
        "SourceStatisticsClear",
        "UndeleteSink",
        "UndeleteSource",
        "UpdateSink",
        "UpdateSinkSettings",
        "UpdateSource",
        "UpdateSourceSettings",
    },
    "tail": {
        "GetRejectedRecord",
        "ListRejectedRecords",
        "SinkTableRows",
        "TailSource",
        "TestRejectedRecords",
    },
    "admin": {"CreateBranch", "CreateToken", "ListTokens", "RevokeToken"},
}
"""The right that each operation needs. A new operation is added here on purpose."""

BODIES: dict[str, Any] = {
    "CreateBranch": {"name": "other"},
    "CreateSink": sink_body(),
    "CreateSource": {"type": "http", "name": "n"},
    "CreateToken": {"name": "t", "rights": ["read"]},
    "TestRejectedRecords": {"mapping": {"columns": [{"type": "body", "name": "body"}]}},
    "TestMapping": {
        "table": {"mapping": {"columns": [{"type": "body", "name": "body"}]}},
        "record": {"body": "{}"},
    },
}


def test_each_operation_needs_a_right() -> None:
    """Operations without a right are public or take any token, and return no data of records."""
    needed = {operation.id: operation.right for operation in OPERATIONS.values() if operation.right}
    assert [each.id for each in OPERATIONS.values() if each.any_token] == ["GetCurrentToken"]
    assert needed == {id: right for right, ids in NEEDED.items() for id in ids}


async def _call(api: Api, id: str, token: str | None, *, method: str = "") -> Any:
    operation = OPERATIONS[id]
    path = operation.path.replace("{branchId}", "default").replace("{versionNumber}", "1")
    path = re.sub(r"\{\*?\w+\}", "nothing", path)
    return await api.call(method or operation.method, path, BODIES.get(id, {}), token=token)


@ensure
async def test_each_operation_with_each_right(own: OwnProjects) -> None:
    """A token without the right is refused with the right's name; without a token the path isn't
    checked.
    """
    api = own.nodes[0]
    tokens = {right: (await own.token(right))[1] for right in RIGHTS}
    for needed, ids in NEEDED.items():
        for id in sorted(ids):
            reply = await _call(api, id, None)
            assert (reply.status, reply.json["error"]) == (401, "stream.api.tokenMissing"), id
            assert reply.header("WWW-Authenticate") == CHALLENGE
            for right, token in tokens.items():
                is_allowed = includes([right], needed)
                # An answer with events would not end.
                lasts = is_allowed and OPERATIONS[id].content_type == "text/event-stream"
                reply = await _call(api, id, token, method="HEAD" if lasts else "")
                if is_allowed:
                    assert reply.status not in (401, 403), (id, right, reply)
                    assert reply.status < 500, (id, right, reply)
                else:
                    assert (reply.status, reply.json["message"]) == (
                        403,
                        f'The token "{right}" lacks the right "{needed}", it has: {right}.',
                    ), id


@ensure
@pytest.mark.parametrize(
    ("given", "all"),
    [
        (["read"], ["read"]),
        (["tail"], ["tail"]),
        (["write"], ["read", "write"]),
        (["write", "tail"], ["read", "write", "tail"]),
        (["admin"], ["read", "write", "tail", "admin"]),
    ],
)
async def test_a_token_asks_for_its_own_rights(
    own: OwnProjects, given: list[Right], all: list[Right]
) -> None:
    """The answer includes implied rights; any valid token gets it, and no other caller."""
    api, (id, token) = own.nodes[0], await own.token(*given, project=7)
    reply = await api.call("GET", "/v1/tokens/current", token=token)
    assert (reply.status, reply.json) == (
        200,
        {"tokenId": id, "projectId": 7, "name": "+".join(given), "rights": all},
    )
    assert token not in reply.body.decode()
    for wrong in (None, f"{token}x"):
        assert (await api.call("GET", "/v1/tokens/current", token=wrong)).status == 401


@ensure
async def test_where_a_token_is_sent(own: OwnProjects) -> None:
    """Both headers work, and an invalid token gets a challenge too."""
    api, (_, token) = own.nodes[0], await own.token("read")
    path = "/v1/branches/default/sources"
    assert (await api.call("GET", path, token=token)).status == 200
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {token}"}
        assert (await api.call("GET", path, token=None, headers=headers)).status == 200
    for wrong in (f"{token}x", "sandbox-token", "kbc_at_abcdefgh"):
        reply = await api.call("GET", path, token=wrong)
        assert (reply.status, reply.json["error"]) == (401, "stream.api.tokenInvalid")
        assert reply.header("WWW-Authenticate") == CHALLENGE
        assert wrong not in reply.body.decode()


@ensure
async def test_an_expired_token(own: OwnProjects) -> None:
    """An expired token is refused and listed as expired."""
    api, (_, admin) = own.nodes[0], await own.token("admin")
    expires = datetime.fromtimestamp(time.time() + 1, UTC)
    body = {"name": "short", "rights": ["read"], "expiresAt": expires.isoformat()}
    made = (await api.call("POST", "/v1/tokens", body, token=admin)).json
    assert made["isExpired"] is False
    path = "/v1/branches/default/sources"
    assert (await api.call("GET", path, token=made["token"])).status == 200
    await deferLater(reactor, 1.0)
    reply = await api.call("GET", path, token=made["token"])
    assert (reply.status, reply.json["error"]) == (401, "stream.api.tokenExpired")
    listed = (await api.call("GET", "/v1/tokens", token=admin)).json["tokens"]
    assert [each["isExpired"] for each in listed] == [False, True]


@ensure
async def test_a_revoked_token_is_refused_by_every_node_within_a_second(own: OwnProjects) -> None:
    """A revoked token is refused although both nodes have just used it."""
    one, two = own.nodes
    (_, admin), (id, token) = await own.token("admin"), await own.token("read")
    path = "/v1/branches/default/sources"
    for node in own.nodes:
        assert (await node.call("GET", path, token=token)).status == 200
    reply = await one.call("DELETE", f"/v1/tokens/{id}", token=admin)
    assert (reply.status, reply.body) == (204, b"")
    revoked = time.monotonic()
    taken = {one: 0.0, two: 0.0}
    while time.monotonic() - revoked < 2 * REVOKED_WITHIN_SECONDS:
        for node in own.nodes:
            if (await node.call("GET", path, token=token)).status == 200:
                taken[node] = time.monotonic() - revoked
        await deferLater(reactor, 0.02)
    assert max(taken.values()) < REVOKED_WITHIN_SECONDS
    reply = await two.call("DELETE", f"/v1/tokens/{id}", token=admin)
    assert (reply.status, reply.json["error"]) == (404, "stream.api.tokenNotFound")


@ensure
async def test_a_stream_ends_when_its_token_is_revoked(own: OwnProjects) -> None:
    """The stream ends within a second after the revocation; other streams continue."""
    api, ended = own.nodes[0], {}
    (_, admin), (gone, first), (_, other) = [
        await own.token(right) for right in ("admin", "read", "read")
    ]

    async def watch(token: str) -> None:
        path = "/v1/branches/default/live"
        assert (await api.call("GET", path, token=token)).status == 200
        ended[token] = time.monotonic()

    watching = [Deferred.fromCoroutine(watch(token)) for token in (first, other)]
    await deferLater(reactor, 0.5)
    assert not ended
    await own.nodes[1].call("DELETE", f"/v1/tokens/{gone}", token=admin)
    revoked = time.monotonic()
    await watching[0]
    assert ended[first] - revoked < REVOKED_WITHIN_SECONDS
    assert other not in ended
    watching[1].addErrback(lambda failure: failure.trap(CancelledError))
    watching[1].cancel()


@ensure
async def test_tokens_of_a_project(own: OwnProjects) -> None:
    """Tokens are created, listed without their text, and used; tokens of other projects aren't
    listed.
    """
    api, (own_id, admin) = own.nodes[0], await own.token("admin")
    other_id, _ = await own.token("admin", project=2)
    body = {"name": "ci", "rights": ["tail", "write", "write"]}
    reply = await api.call("POST", "/v1/tokens", body, token=admin)
    made = reply.json
    assert reply.status == 201
    assert (made["name"], made["rights"], made["projectId"]) == ("ci", ["write", "tail"], 1)
    assert made["created"]["by"] == {"type": "user", "tokenId": own_id, "tokenDesc": "admin"}
    assert "expiresAt" not in made
    listed = await api.call("GET", "/v1/tokens", token=admin)
    assert [each["tokenId"] for each in listed.json["tokens"]] == [own_id, made["tokenId"]]
    assert "digest" not in listed.body.decode() and made["token"] not in listed.body.decode()
    assert (await api.call("GET", "/v1/branches", token=made["token"])).status == 200
    assert (await api.call("DELETE", f"/v1/tokens/{other_id}", token=admin)).status == 404


@ensure
async def test_invalid_tokens(own: OwnProjects) -> None:
    """The message says what is valid."""
    api, (_, admin) = own.nodes[0], await own.token("admin")
    for change, message in (
        ({"rights": []}, "length of body.rights must be greater or equal than 1"),
        ({"rights": ["reed"]}, '"read", "write", "tail", "admin" but got value "reed"'),
        ({"rights": ["bootstrap"]}, 'but got value "bootstrap"'),
        ({"name": ""}, "length of body.name"),
        ({"expiresAt": "tomorrow"}, '"tomorrow" is not a time with a zone'),
        ({"expiresAt": "2100-01-01T00:00:00"}, "is not a time with a zone"),
        ({"expiresAt": "2000-01-01T00:00:00Z"}, "A token can't expire in the past"),
    ):
        body = {"name": "ci", "rights": ["read"], **change}
        reply = await api.call("POST", "/v1/tokens", body, token=admin)
        assert reply.status == 400
        assert message.lower() in reply.json["message"].lower()


@ensure
async def test_branches(own: OwnProjects) -> None:
    """Sources belong to one branch; a branch of another project isn't found."""
    api, (_, admin) = own.nodes[0], await own.token("admin")
    reply = await api.call("POST", "/v1/branches", {"name": "staging"}, token=admin)
    assert (reply.status, reply.json) == (
        201,
        {"branchId": 2, "name": "staging", "isDefault": False},
    )
    listed = (await api.call("GET", "/v1/branches", token=admin)).json["branches"]
    assert listed == [{"branchId": 1, "name": "default", "isDefault": True}, reply.json]
    again = await api.call("POST", "/v1/branches", {"name": "staging"}, token=admin)
    assert (again.status, again.json["error"]) == (409, "stream.api.branchAlreadyExists")
    sources = "/v1/branches/2/sources"
    reply = await api.call("POST", sources, {"type": "http", "name": "n"}, token=admin)
    task = reply.json
    while not task["isFinished"]:
        task = (await api.call("GET", f"/v1/tasks/{task['taskId']}", token=admin)).json
    assert task["status"] == "success"
    assert (await api.call("GET", f"{sources}/n", token=admin)).json["branchId"] == 2
    for branch in ("default", "1"):
        found = await api.call("GET", f"/v1/branches/{branch}/sources", token=admin)
        assert (found.json["branchId"], found.json["sources"]) == (1, [])
    _, stranger = await own.token("admin", project=2)
    reply = await api.call("GET", sources, token=stranger)
    assert (reply.status, reply.json["error"]) == (404, "stream.api.branchNotFound")


@ensure
async def test_keboola_projects(api: Api) -> None:
    """Branches of Keboola's projects are listed; branches and tokens are created in Keboola."""
    listed = (await api.get("/v1/branches"))["branches"]
    assert [(each["branchId"], each["isDefault"]) for each in listed] == [(456, True)]
    for method, path, body in (
        ("POST", "/v1/branches", {"name": "n"}),
        ("GET", "/v1/tokens", None),
        ("POST", "/v1/tokens", {"name": "n", "rights": ["read"]}),
        ("DELETE", "/v1/tokens/x", None),
    ):
        reply = await api.call(method, path, body)
        assert (reply.status, reply.json["error"]) == (404, "stream.api.madeElsewhere")
