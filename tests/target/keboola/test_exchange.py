"""The exchange of tokens of programs for tokens of projects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.task import Clock

from stream.errors import UserError
from stream.ops.clock import WALL_CLOCK
from stream.target.keboola import StorageApi
from stream.target.keboola.errors import StorageApiError
from stream.target.keboola.exchange import TokenExchange
from stream.target.keboola.program import ProgramToken
from tests.target.keboola.scripted import Say, ScriptedServer, refuse

reactor: Any = _reactor
ensure = pytest_twisted.ensureDeferred

PROGRAM = "kbc_at_the-token-of-a-program"
ACCOUNT = "the-token-of-the-service-account"
STORAGE_TOKEN = "123-1001-the-token-of-the-project"
NOW = 946_684_800.0  # 2000-01-01T00:00:00Z


def detail(project_id: int = 123) -> dict[str, Any]:
    """Return the Storage API's description of the token."""
    return {
        "id": "1001",
        "description": "a program",
        "isMasterToken": True,
        "owner": {"id": project_id, "name": "p"},
        "admin": {"id": 2, "name": "n", "role": "admin"},
    }


def given(expires_at: str | None = None, project_id: int = 123) -> Say:
    """Return the answer to a successful exchange."""
    return Say(
        200,
        {
            "storageToken": STORAGE_TOKEN,
            "projectId": project_id,
            "tokenId": "1001",
            "userId": 2,
            "expiresAt": expires_at,
            "tokenDetail": detail(project_id),
        },
    )


class _Time(Clock):
    """A clock for the cache only, because connections need a real reactor."""

    def getThreadPool(self) -> Any:
        return reactor.getThreadPool()

    def callFromThread(self, *args: Any, **kwargs: Any) -> None:
        reactor.callFromThread(*args, **kwargs)


class _Bridge:
    def __init__(self, script: list[Say], path: Path) -> None:
        path.write_text(f" {ACCOUNT}\n")
        self.server = ScriptedServer(script)
        self.api = StorageApi(reactor, f"{self.server.url}/prefix", budget=5.0)
        self.clock = _Time()
        setattr(self.clock, WALL_CLOCK, lambda: NOW + self.clock.seconds())
        self.exchange = TokenExchange(self.clock, self.api, str(path))


Make = Callable[[list[Say]], _Bridge]


@pytest_twisted.async_yield_fixture()
async def bridge(tmp_path: Path) -> AsyncIterator[Make]:
    """A function that creates an exchange with a scripted platform."""
    made: list[_Bridge] = []

    def make(script: list[Say]) -> _Bridge:
        made.append(_Bridge(script, tmp_path / "account"))
        return made[-1]

    yield make
    for each in made:
        await each.api.close()
        await each.server.stop()


@ensure
async def test_the_request(bridge: Make) -> None:
    """Both tokens are in headers, and the body has the project and the path of the storage."""
    it = bridge([given()])
    found = await it.exchange.exchange(PROGRAM, 123)
    assert found.token.value == STORAGE_TOKEN
    assert (found.info.id, found.info.project_id, found.expires_at) == ("1001", 123, None)
    (asked,) = it.server.asked
    assert (asked.method, asked.uri) == (
        "POST",
        "/prefix/manage/internal/auth-bridge/resolve-storage-token",
    )
    assert asked.body == {"projectId": 123}
    assert asked.headers["x-subject-token"] == f"Bearer {PROGRAM}"
    assert asked.headers["x-kubernetes-authorization"] == f"Bearer {ACCOUNT}"
    assert "x-storageapi-token" not in asked.headers


@pytest.mark.parametrize(
    ("expires_at", "seconds", "asked"),
    [
        (None, 29, 1),
        (None, 31, 2),
        ("2000-01-01T00:06:20+0000", 19, 1),
        ("2000-01-01T00:06:20+0000", 21, 2),
        ("2000-01-01T00:05:00+0000", 0, 2),
        ("1999-12-31T00:00:00+0000", 0, 2),
    ],
)
@ensure
async def test_the_time_in_the_cache(
    bridge: Make, expires_at: str | None, seconds: float, asked: int
) -> None:
    """An answer is cached for 30 seconds, or less if its token expires too early for a task."""
    it = bridge([given(expires_at)])
    await it.exchange.exchange(PROGRAM, 123)
    it.clock.advance(seconds)
    await it.exchange.exchange(PROGRAM, 123)
    assert len(it.server.asked) == asked


@ensure
async def test_projects_have_separate_entries(bridge: Make) -> None:
    """Each project has its own cache entry."""
    it = bridge([given(), given(project_id=124)])
    assert (await it.exchange.exchange(PROGRAM, 123)).info.project_id == 123
    assert (await it.exchange.exchange(PROGRAM, 124)).info.project_id == 124


@ensure
async def test_a_token_of_another_project_is_refused(bridge: Make) -> None:
    """The answer must be about the requested project."""
    it = bridge([given(project_id=124)])
    with pytest.raises(UserError) as caught:
        await it.exchange.exchange(PROGRAM, 123)
    assert caught.value.status == 502


@pytest.mark.parametrize("status", [400, 401, 403])
@ensure
async def test_refusals_are_passed_on(bridge: Make, status: int) -> None:
    """Refusals keep the platform's code, without the tokens that it repeats."""
    text = f"not {PROGRAM}, not {ACCOUNT}"
    it = bridge([refuse(status, "auth.no", text)])
    with pytest.raises(StorageApiError) as caught:
        await it.exchange.exchange(PROGRAM, 123)
    assert (caught.value.status, caught.value.name) == (status, "auth.no")
    assert str(caught.value).startswith("not ***, not ***")
    if status != 400:
        with pytest.raises(StorageApiError):
            await it.exchange.exchange(PROGRAM, 123)
        assert len(it.server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refuse(404),
        Say(301, headers={"location": "/"}),
        Say(200, {"storageToken": STORAGE_TOKEN}),
        Say(200, {**given().json, "expiresAt": "soon"}),
        Say(200, {**given().json, "storageToken": "a b\n"}),
        Say(200, raw=b"<html>", content_type="text/html"),
        Say(200, raw=b"{"),
    ],
)
@ensure
async def test_other_answers(bridge: Make, answer: Say) -> None:
    """Other answers are a bad gateway, since the caller made no mistake, and aren't cached."""
    it = bridge([answer, given()])
    with pytest.raises(StorageApiError) as caught:
        await it.exchange.exchange(PROGRAM, 123)
    assert caught.value.status == 502
    for secret in (PROGRAM, ACCOUNT, STORAGE_TOKEN):
        assert secret not in str(caught.value) and secret not in repr(caught.value)
    assert (await it.exchange.exchange(PROGRAM, 123)).token.value == STORAGE_TOKEN


@ensure
async def test_the_service_account_is_read_each_time(bridge: Make, tmp_path: Path) -> None:
    """The platform replaces its token periodically."""
    it = bridge([given("1999-12-31T00:00:00+0000")])
    await it.exchange.exchange(PROGRAM, 123)
    (tmp_path / "account").write_text("another")
    await it.exchange.exchange(PROGRAM, 123)
    sent = [asked.headers["x-kubernetes-authorization"] for asked in it.server.asked]
    assert sent == [f"Bearer {ACCOUNT}", "Bearer another"]


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff", b"two\nlines"])
@ensure
async def test_a_service_account_without_a_token(
    bridge: Make, tmp_path: Path, content: bytes
) -> None:
    """A missing service account is an error of the service, and no request is sent."""
    it = bridge([given()])
    (tmp_path / "account").write_bytes(content)
    with pytest.raises(UserError) as caught:
        await it.exchange.exchange(PROGRAM, 123)
    assert (caught.value.status, caught.value.name) == (500, "serviceAccountTokenUnreadable")
    assert not it.server.asked


def test_tokens_are_masked() -> None:
    """The tokens of the program and of the service account are masked."""
    token = ProgramToken(PROGRAM).on_behalf_of(ACCOUNT)
    assert token.hidden_in(f"{PROGRAM} {ACCOUNT}") == "*** ***"
    for shown in (repr(token), str(token), f"{token}"):
        assert PROGRAM not in shown and ACCOUNT not in shown
