from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import Clock

from stream.authority.own import DEFAULT_BRANCH, REMEMBERED_SECONDS, OwnAuthority
from stream.authority.tokens import MAX_TOKENS, PREFIX, TokenKey, key_in
from stream.definition.entity import SYSTEM
from stream.errors import UserError
from stream.etcd import EtcdClient
from stream.values.redaction import hide_secrets
from stream.values.token import Token

ensure = pytest_twisted.ensureDeferred

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STRANGER = f"stream_1_a1b2c3d4_{'x' * 48}"


class World:
    """An authority with a real etcd and its own clock.

    :ivar now: the time of its clock in UTC.
    """

    def __init__(self, etcd: EtcdClient) -> None:
        self.clock = Clock()
        self.now = NOW
        self.etcd = etcd
        self.authority = OwnAuthority(self.clock, etcd, lambda: self.now)
        self.tokens = self.authority.tokens

    async def make(self, project: int = 1, **options: Any) -> tuple[TokenKey, str]:
        record, text = await self.tokens.create(project, "ci", ["write"], SYSTEM, **options)
        return record.key, text


@pytest.fixture
def world(etcd: EtcdClient) -> World:
    return World(etcd)


async def refusal(asking: Awaitable[object]) -> tuple[int, str]:
    """Return the status and name of the error."""
    with pytest.raises(UserError) as caught:
        await asking
    return caught.value.status, caught.value.name


@ensure
async def test_a_token_is_found_by_its_text(world: World) -> None:
    """The token has the project, name and rights that it was created with."""
    key, text = await world.make(7)
    assert key_in(text) == key
    info = await world.authority.verify(Token(text))
    assert (info.id, info.description, info.project_id) == (key.token_id, "ci", 7)
    assert (info.rights, info.is_master) == (("write",), False)


@ensure
async def test_etcd_and_the_log_never_have_the_token(world: World) -> None:
    """etcd has only a hash, and the log masks the text."""
    _, text = await world.make()
    (stored,) = (await world.etcd.range(PREFIX)).kvs
    secret = text.rpartition("_")[2]
    assert secret.encode() not in stored.key.encode() + stored.value
    for line in (f"got {text}", f"Authorization: Bearer {text}", f"token={text}"):
        assert secret not in hide_secrets(line)
    records = await world.tokens.list(1)
    assert secret not in repr(records) and records[0].digest not in repr(records)


@pytest.mark.parametrize("text", ["", "x", "stream_1_a1b2c3d4_", STRANGER, STRANGER + "x"])
@ensure
async def test_unknown_tokens(world: World, text: str) -> None:
    """Unknown tokens are refused, even with the id of an existing token."""
    key, _ = await world.make()
    for sent in (text, text.replace("a1b2c3d4", key.token_id)):
        if sent:
            assert await refusal(world.authority.verify(Token(sent))) == (401, "tokenInvalid")
    assert await refusal(world.authority.exchange("kbc_at_x", 1)) == (401, "tokenInvalid")


@ensure
async def test_the_id_in_the_text_counts(world: World) -> None:
    """The secret of one token isn't accepted for another token or project."""
    (one, text), (two, _) = await world.make(), await world.make()
    other = text.replace(one.token_id, two.token_id)
    assert await refusal(world.authority.verify(Token(other))) == (401, "tokenInvalid")
    other = text.replace("stream_1_", "stream_2_")
    assert await refusal(world.authority.verify(Token(other))) == (401, "tokenInvalid")


@ensure
async def test_a_revoked_token_is_valid_for_half_a_second(world: World) -> None:
    """The half second starts when etcd is read, regardless of the token's use."""
    key, text = await world.make()
    token = Token(text)
    for _ in range(3):
        await world.authority.verify(token)
        world.clock.advance(REMEMBERED_SECONDS)
    await world.authority.verify(token)
    await world.tokens.revoke(key)
    world.clock.advance(REMEMBERED_SECONDS - 0.001)
    await world.authority.verify(token)
    world.clock.advance(0.001)
    assert await refusal(world.authority.verify(token)) == (401, "tokenInvalid")
    assert await refusal(world.tokens.revoke(key)) == (404, "tokenNotFound")


@ensure
async def test_a_token_of_another_project_is_not_revoked(world: World) -> None:
    """A token is only revoked for its own project."""
    key, text = await world.make(7)
    assert await refusal(world.tokens.revoke(TokenKey(8, key.token_id))) == (404, "tokenNotFound")
    await world.authority.verify(Token(text))


@ensure
async def test_a_token_expires_exactly(world: World) -> None:
    """The expiration is checked even if the token's record is cached."""
    _, text = await world.make(expires_at=NOW + timedelta(seconds=1))
    await world.authority.verify(Token(text))
    world.now += timedelta(seconds=1)
    assert await refusal(world.authority.verify(Token(text))) == (401, "tokenExpired")


@ensure
async def test_invalid_tokens(world: World) -> None:
    """Nothing is stored for an invalid token."""
    tokens = world.tokens
    for project, name in ((0, "ci"), (10**18, "ci"), (1, ""), (1, "x" * 65), (1, "a\nb")):
        asking = tokens.create(project, name, ["read"], SYSTEM)
        assert await refusal(asking) == (400, "badRequest")
    assert await refusal(world.make(expires_at=NOW)) == (400, "badRequest")
    assert not (await world.etcd.range(PREFIX)).kvs


@ensure
async def test_a_project_has_a_limit_of_tokens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of other projects don't count towards the limit, and a revocation frees a place."""
    assert MAX_TOKENS == 1000
    monkeypatch.setattr("stream.authority.tokens.MAX_TOKENS", 2)
    await world.make(2)
    key, _ = await world.make()
    await world.make()
    assert await refusal(world.make()) == (409, "tokenCountLimitReached")
    await world.tokens.revoke(key)
    await world.make()
    assert len(await world.tokens.list(1)) == 2


@ensure
async def test_branches(world: World) -> None:
    """The default branch always exists, names are unique, and ids increase."""
    _, text = await world.make()
    token, authority = Token(text), world.authority
    assert await authority.branches(token) == [DEFAULT_BRANCH]
    one = await authority.create_branch(token, "one", SYSTEM)
    two = await authority.create_branch(token, "two", SYSTEM)
    assert [branch.id for branch in (DEFAULT_BRANCH, one, two)] == [1, 2, 3]
    assert await authority.branches(token) == [DEFAULT_BRANCH, one, two]
    assert await authority.branch(token, two.id) == two
    assert await refusal(authority.branch(token, 9)) == (404, "branchNotFound")
    for name in ("one", "default"):
        asking = authority.create_branch(token, name, SYSTEM)
        assert await refusal(asking) == (409, "branchAlreadyExists")
    _, other = await world.make(2)
    assert await authority.branches(Token(other)) == [DEFAULT_BRANCH]


async def _with_bootstrap(etcd: EtcdClient, path: Path) -> OwnAuthority:
    authority = OwnAuthority(
        reactor, etcd, lambda: NOW, bootstrap_file=str(path), bootstrap_project=5
    )
    await authority.startService()
    return authority


@ensure
async def test_the_bootstrap_token(etcd: EtcdClient, tmp_path: Path) -> None:
    """The bootstrap token is the one in the file; it creates tokens of its project and isn't
    stored.
    """
    path = tmp_path / "token"
    path.write_text("b" * 32 + "\n")
    authority = await _with_bootstrap(etcd, path)
    info = await authority.verify(Token("b" * 32))
    assert (info.project_id, info.rights) == (5, ("bootstrap",))
    assert await refusal(authority.verify(Token("b" * 33))) == (401, "tokenInvalid")
    assert not (await etcd.range(PREFIX)).kvs
    await authority.stopService()


@pytest.mark.parametrize("content", [None, "", "short", "x" * 1025, "a b\n" * 20, "ž" * 40])
@ensure
async def test_an_invalid_bootstrap_token(
    etcd: EtcdClient, tmp_path: Path, content: str | None
) -> None:
    """The error names the file, not its content."""
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        await _with_bootstrap(etcd, path)
    assert str(path) in str(caught.value)
    assert not content or content not in str(caught.value)
