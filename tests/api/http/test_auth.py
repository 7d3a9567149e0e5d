from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted

from stream.api.http.auth import token_of
from tests.api.conftest import (
    MACHINE,
    PROGRAM,
    PROJECT,
    READER,
    READING_PROGRAM,
    SERVICE_ACCOUNT,
    SOURCE,
    SOURCES,
    TOKEN,
    Api,
)

ensure = pytest_twisted.ensureDeferred


@pytest.mark.parametrize(
    ("header", "authorization", "expected"),
    [
        ("t", "", ("t", False)),
        ("t", "Bearer u", ("t", False)),
        ("", "bEaReR  u ", ("u", True)),
        ("", "Basic u", ("", False)),
        ("", "", ("", False)),
        ("Bearer t", "", ("t", False)),
    ],
)
def test_where_the_token_is(header: str, authorization: str, expected: tuple[str, bool]) -> None:
    """The token's own header takes precedence over `Authorization`."""
    assert token_of(header, authorization) == expected


@ensure
async def test_without_a_token(api: Api) -> None:
    """A missing token is reported together with other problems of the parameters."""
    reply = await api.call("GET", SOURCES, token=None)
    assert (reply.status, reply.json) == (
        400,
        {
            "statusCode": 400,
            "error": "stream.api.missingField",
            "message": '"X-StorageApi-Token" is missing from header.',
        },
    )
    reply = await api.call("GET", f"{SOURCES}?limit=0", token=None)
    assert reply.json["error"] == "stream.api.invalidRange"
    assert reply.json["message"].endswith(
        'got value 0; "X-StorageApi-Token" is missing from header.'
    )


@ensure
async def test_the_token_comes_before_the_body(api: Api) -> None:
    """Errors in an unauthenticated body aren't reported, because the body isn't read."""
    for token, status in ((None, 400), ("123-456-unknown", 401), (MACHINE, 401)):
        reply = await api.call("POST", SOURCES, {}, token=token)
        assert reply.status == status
        assert "body" not in reply.json["message"]
    reply = await api.call("POST", SOURCES, {})
    assert reply.json["message"] == '"type" is missing from body; "name" is missing from body.'


@ensure
async def test_a_token_that_the_storage_api_refuses(api: Api) -> None:
    """The Storage API's error about a token is passed on."""
    for token in ("123-456-unknown", "with\ttab"):
        reply = await api.call("GET", SOURCES, token=token)
        assert (reply.status, reply.json["error"]) == (401, "storage.tokenInvalid")


@ensure
async def test_a_bearer_token(api: Api) -> None:
    """The token can be sent as a bearer token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    reply = await api.call("GET", SOURCES, token=None, headers=headers)
    assert reply.status == 200


@ensure
async def test_the_token_of_a_program(api: Api) -> None:
    """The token of a program works like a token of the project that the request names, and its
    changes are logged.
    """
    headers = {"X-KBC-ProjectId": str(PROJECT)}
    assert (await api.call("GET", SOURCES, token=PROGRAM, headers=headers)).status == 200
    bearer = {"Authorization": f"Bearer {PROGRAM}", **headers}
    assert (await api.call("GET", SOURCES, token=None, headers=bearer)).status == 200
    body = {"type": "http", "name": "My Source"}
    reply = await api.call("POST", SOURCES, body, token=PROGRAM, headers=headers)
    assert (await api.finish(reply))["status"] == "success"
    by = (await api.get(SOURCE))["created"]["by"]
    assert (by["tokenDesc"], by["userId"], by["userName"]) == (
        "Local program",
        "2",
        "Local Program",
    )
    reply = await api.call("POST", SOURCES, body, token=READING_PROGRAM, headers=headers)
    assert (reply.status, reply.json["error"]) == (403, "stream.api.forbidden")


@pytest.mark.parametrize("project", ["", "0", "-1", "x", "1.5"])
@ensure
async def test_a_program_must_name_a_project(api: Api, project: str) -> None:
    """The project of a program's request is a positive number."""
    reply = await api.call("GET", SOURCES, token=PROGRAM, headers={"X-KBC-ProjectId": project})
    assert (reply.status, reply.json["error"]) == (400, "stream.api.internalError")
    assert reply.json["message"] == (
        "Programmatic token request missing valid X-KBC-ProjectId header."
    )


@pytest.mark.parametrize(
    ("token", "project", "status", "error"),
    [
        ("kbc_at_nobody-knows-it", PROJECT, 401, "storage.tokenInvalid"),
        (PROGRAM, PROJECT + 1, 403, "stream.api.accessDenied"),
        ("kbc_pat_\u00e9", PROJECT, 401, "storage.tokenInvalid"),
    ],
)
@ensure
async def test_a_refused_program(
    api: Api, token: str, project: int, status: int, error: str
) -> None:
    """The platform's error about a program is passed on, without the token."""
    headers = {"X-KBC-ProjectId": str(project)}
    for _ in range(2):
        reply = await api.call("GET", SOURCES, token=token, headers=headers)
        assert (reply.status, reply.json["error"]) == (status, error)
        assert token not in reply.body.decode() and SERVICE_ACCOUNT not in reply.body.decode()


@ensure
async def test_without_a_service_account(api: Api, service_account: Path) -> None:
    """A missing service account is not the caller's fault: the reason is only in the log."""
    headers = {"X-KBC-ProjectId": str(PROJECT)}
    for content in (None, "", "\xff"):
        service_account.unlink(missing_ok=True)
        if content is not None:
            service_account.write_bytes(content.encode("latin-1"))
        reply = await api.call("GET", SOURCES, token=PROGRAM, headers=headers)
        assert (reply.status, reply.json["error"]) == (
            500,
            "stream.api.serviceAccountTokenUnreadable",
        )
    service_account.write_text("another")
    reply = await api.call("GET", SOURCES, token=PROGRAM, headers=headers)
    assert reply.status == 403
    assert "another" not in reply.body.decode()


@ensure
async def test_the_default_branch_is_recorded_and_others_are_refused(api: Api) -> None:
    """The default branch is recorded on its first use, and other branches are refused."""
    assert (await api.get("/v1/branches/default/sources"))["branchId"] == 456
    recorded = await api.etcd.range("definition/branch/active/")
    assert [stored.key for stored in recorded.kvs] == ["definition/branch/active/123/456"]
    assert (await api.get("/v1/branches/456/sources"))["branchId"] == 456

    reply = await api.call("GET", "/v1/branches/foo/sources")
    assert (reply.status, reply.json["message"]) == (
        400,
        'Invalid branch: expected "default" or <int>, given "foo".',
    )
    reply = await api.call("GET", "/v1/branches/789/sources")
    assert reply.status == 404
    assert reply.json["error"].startswith("storage.")


@ensure
@pytest.mark.parametrize(
    ("token", "rights"),
    [(TOKEN, ["read", "write", "tail", "admin"]), (READER, ["read", "tail"])],
)
async def test_rights_of_a_role(api: Api, token: str, rights: list[str]) -> None:
    """An administrator has all rights, and another user of the project can read everything."""
    reply = await api.call("GET", "/v1/tokens/current", token=token)
    assert reply.status == 200
    assert (reply.json["projectId"], reply.json["rights"]) == (PROJECT, rights)


@ensure
async def test_only_administrators_change_things(api: Api) -> None:
    """Other roles can only read; without the right to write, the branch isn't checked."""
    assert (await api.call("GET", SOURCES, token=READER)).status == 200
    body = {"type": "http", "name": "n"}
    reply = await api.call("POST", SOURCES, body, token=READER)
    assert (reply.status, reply.json) == (
        403,
        {
            "statusCode": 403,
            "error": "stream.api.forbidden",
            "message": "Only admin token can do write operations on streams.",
        },
    )
    reply = await api.call("POST", "/v1/branches/foo/sources", body, token=READER)
    assert reply.status == 400
    # The right is checked before the source is looked up.
    assert (await api.call("DELETE", SOURCE, token=READER)).status == 403


@ensure
async def test_other_tokens_than_master_tokens(api: Api) -> None:
    """A token that isn't a person's master token has no rights."""
    reply = await api.call("GET", SOURCES, token=MACHINE)
    assert (reply.status, reply.json["error"]) == (401, "stream.api.masterTokenRequired")
    assert reply.json["message"] == ("Please provide a master token of a project administrator.")
